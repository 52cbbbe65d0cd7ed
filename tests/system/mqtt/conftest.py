from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import pytest

from oc2d.engine.ports import Inbound, Outgoing
from oc2d.language.codec import Encoding
from oc2d.mqtt.session import Session
from oc2d.mqtt.status import LinkObserver
from tests.peer import Engine, Peer, make_settings, response
from tests.waiting import wait_until

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


@pytest.fixture
def exchange(start: StartSession) -> Callable[..., None]:
    """Send commands to a Consumer that answers each; check that all came once and in order."""

    def run(port: int, count: int, payload: bytes = b"{}", **settings: object) -> None:
        consumer, engine = start(port, **settings)
        given = {"client_id": "producer", "subscriptions": ("oc2/rsp",), "message_type": "req"}
        producer, answers = start(port, **{**given, **settings})
        wait_until(lambda: consumer.status().healthy and producer.status().healthy)
        decide = engine.received
        handles = iter(range(1, count + 1))

        def answer(messages: Sequence[Inbound]) -> None:
            decide(messages)
            consumer.send([response(next(handles), message.payload) for message in messages])

        engine.received = answer  # type: ignore[method-assign]
        commands = [
            Outgoing(n, "oc2/cmd/all", b"%d:" % n + payload, Encoding.JSON)
            for n in range(1, count + 1)
        ]
        producer.send(commands)
        wait_until(lambda: len(answers.got) == len(engine.sent_handles) == count, 30)
        assert [message.payload for message in engine.got] == [one.payload for one in commands]
        assert [message.payload for message in answers.got] == [one.payload for one in commands]

    return run
