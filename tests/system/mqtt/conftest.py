from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from oc2d.mqtt.session import Session
from oc2d.mqtt.status import LinkObserver
from tests.peer import Engine, Peer, make_settings


@pytest.fixture
def peer() -> Iterator[Peer]:
    made = Peer()
    yield made
    made.close()


StartSession = Callable[..., "tuple[Session, Engine]"]


@pytest.fixture
def start() -> Iterator[StartSession]:
    """Start a Session: `start(port, **settings)`; stopped at the end."""
    sessions: list[Session] = []

    def make(port: int, **changes: object) -> tuple[Session, Engine]:
        observer = changes.pop("observer", LinkObserver())
        shorten = changes.pop("shorten", None)
        engine = Engine(decide=bool(changes.pop("decide", True)))
        before = changes.pop("before", ())
        settings = make_settings(port, **changes)
        session = Session(settings, engine, observer, shorten)  # type: ignore[arg-type]
        engine.session = session
        session.send(before)  # type: ignore[arg-type]
        sessions.append(session)
        session.start()
        return session, engine

    yield make
    for session in sessions:
        session.stop(0)
        assert not session._thread.is_alive()
