"""A proxy in front of a broker that keeps every packet of both sides, byte for byte."""

from __future__ import annotations

import contextlib
import selectors
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

from tests.peer import NAMES, Seen
from tests.waiting import wait_until

_CHUNK = 1 << 16


@dataclass
class Recording:
    """One connection: what the client sent and what the broker sent, and whose certificate came."""

    sent: list[Seen] = field(default_factory=list)
    got: list[Seen] = field(default_factory=list)
    certificate: bytes | None = None
    over: bool = False

    def of(self, name: str) -> list[Seen]:
        """Packets of this name from the client."""
        return [seen for seen in self.sent if seen.name == name]

    def wait(self, name: str, count: int = 1, timeout: float = 15.0) -> Seen:
        """The packet of this name from the client that comes as the `count`th."""
        wait_until(lambda: len(self.of(name)) >= count, timeout, f"{count} {name}: {self.sent}")
        return self.of(name)[count - 1]

    @property
    def names(self) -> list[str]:
        return [seen.name for seen in self.sent]


class _Stream:
    """Cuts bytes into packets."""

    def __init__(self) -> None:
        self._data = b""

    def feed(self, data: bytes) -> Iterator[Seen]:
        self._data += data
        while (cut := self._cut()) is not None:
            yield cut

    def _cut(self) -> Seen | None:
        length, shift, at = 0, 0, 1
        while True:
            if at >= len(self._data):
                return None
            byte = self._data[at]
            length |= (byte & 127) << shift
            shift, at = shift + 7, at + 1
            if byte < 128:
                break
        if len(self._data) < at + length:
            return None
        first, body = self._data[0], self._data[at : at + length]
        self._data = self._data[at + length :]
        return Seen(NAMES[first >> 4], first & 15, body, time.monotonic())


class Recorder:
    """Listens on 127.0.0.1 and passes everything on to a broker there; with TLS if told how."""

    def __init__(self, broker_port: int, tls: ssl.SSLContext | None = None) -> None:
        self.tls = tls
        self.connections: list[Recording] = []
        self._broker_port = broker_port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self._open: set[socket.socket] = set()
        self._threads = [threading.Thread(target=self._listen)]
        self._threads[0].start()

    def connection(self, number: int, timeout: float = 15.0) -> Recording:
        """The connection that comes as the `number`th, from 0."""
        wait_until(lambda: len(self.connections) > number, timeout, f"connection {number}")
        return self.connections[number]

    def cut(self) -> None:
        """Break what is open, as a failing network would."""
        for sock in list(self._open):
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()
        for thread in self._threads:
            thread.join(10)

    def _listen(self) -> None:
        while True:
            try:
                sock = self._listener.accept()[0]
            except OSError:
                return
            self._threads.append(threading.Thread(target=self._serve, args=(sock,)))
            self._threads[-1].start()

    def _serve(self, plain: socket.socket) -> None:
        with contextlib.ExitStack() as undo:
            undo.enter_context(plain)
            try:
                client = plain if self.tls is None else self.tls.wrap_socket(plain, True)
            except OSError:  # whoever refuses a handshake is another test's matter
                return
            undo.enter_context(client)
            broker = undo.enter_context(socket.create_connection(("127.0.0.1", self._broker_port)))
            recording = Recording()
            if isinstance(client, ssl.SSLSocket):
                recording.certificate = client.getpeercert(binary_form=True)
            self.connections.append(recording)
            ways = {client: (broker, recording.sent), broker: (client, recording.got)}
            self._open |= ways.keys()
            with contextlib.suppress(OSError):
                self._pass_on(ways)
            self._open -= ways.keys()
            recording.over = True

    @staticmethod
    def _pass_on(ways: dict[socket.socket, tuple[socket.socket, list[Seen]]]) -> None:
        streams = {sock: _Stream() for sock in ways}
        with selectors.DefaultSelector() as selector:
            for sock in ways:
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                selector.register(sock, selectors.EVENT_READ)
            while True:
                for key, _ in selector.select():
                    source = key.fileobj
                    assert isinstance(source, socket.socket)
                    other, kept = ways[source]
                    data = source.recv(_CHUNK)
                    while isinstance(source, ssl.SSLSocket) and source.pending():
                        data += source.recv(_CHUNK)
                    kept.extend(streams[source].feed(data))
                    if not data:
                        return
                    other.sendall(data)
