from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from oc2d.mqtt.session import Session
from oc2d.mqtt.status import LinkObserver
from tests.peer import Engine, Peer, make_settings


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


@pytest.fixture
def peer(start: StartSession) -> Iterator[Peer]:
    del start  # its sessions end after the peer has gone, so that none waits for it
    made = Peer()
    yield made
    made.close()
