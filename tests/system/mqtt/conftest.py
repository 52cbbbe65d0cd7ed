from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from oc2d.engine.ports import Inbound, Outgoing
from oc2d.language.codec import Encoding
from oc2d.mqtt.session import Session
from oc2d.mqtt.settings import TlsSettings
from oc2d.mqtt.status import LinkObserver
from tests.conftest import Certificates, free_port
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


@pytest.fixture
def s_server(certificates: Certificates) -> Iterator[Callable[..., int]]:
    """Start `openssl s_server` with options; returns its port."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    running: list[subprocess.Popen[bytes]] = []

    def serve(*options: str | Path, cert: str = "server") -> int:
        port = free_port()
        command = ["openssl", "s_server", "-accept", f"127.0.0.1:{port}", "-quiet", *options]
        files = ["-cert_chain", certificates.cert(cert)] if cert == "below" else []
        files += ["-cert", certificates.cert(cert), "-key", certificates.key(cert)]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.DEVNULL}
        running.append(subprocess.Popen([*command, *files], stderr=subprocess.DEVNULL, **pipes))
        deadline = time.monotonic() + 5
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
                return port
            time.sleep(0.01)
        return pytest.fail("openssl s_server did not start")

    yield serve
    for process in running:
        process.kill()
        process.communicate()


@pytest.fixture
def handshake(start: StartSession) -> Callable[..., str]:
    """Connect with TLS; returns what is wrong with it, "" when it stands."""

    def run(port: int, tls: TlsSettings, host: str = "localhost") -> str:
        session, _ = start(port, host=host, tls=tls, answer_timeout=0.2)
        wait_until(lambda: session.status().last_error)
        error = session.status().last_error or ""
        session.stop(0)
        # then TLS stood, and we waited for CONNACK of who speaks no MQTT
        return "" if "CONNACK" in error else error

    return run
