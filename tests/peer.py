"""A scripted MQTT peer: exactly the bytes a test wants, and an intake that remembers."""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest

from oc2d.engine.ports import Inbound, Outgoing, Token
from oc2d.language.codec import Encoding
from oc2d.mqtt.session import Session
from oc2d.mqtt.settings import Backoff, LinkSettings

NAMES = {
    1: "CONNECT",
    2: "CONNACK",
    3: "PUBLISH",
    4: "PUBACK",
    5: "PUBREC",
    6: "PUBREL",
    7: "PUBCOMP",
    8: "SUBSCRIBE",
    9: "SUBACK",
    12: "PINGREQ",
    13: "PINGRESP",
    14: "DISCONNECT",
}


def short(number: int) -> bytes:
    return struct.pack("!H", number)


def string(text: str) -> bytes:
    return short(len(text.encode())) + text.encode()


def varint(number: int) -> bytes:
    out = b""
    while True:
        number, low = divmod(number, 128)
        out += bytes([low | (128 if number else 0)])
        if not number:
            return out


def packet(first: int, body: bytes = b"") -> bytes:
    return bytes([first]) + varint(len(body)) + body


def connack(session_present: bool = False, code: int = 0, properties: bytes = b"") -> bytes:
    return packet(0x20, bytes([session_present, code]) + varint(len(properties)) + properties)


def publish(
    topic: str,
    payload: bytes,
    qos: int = 1,
    packet_id: int = 1,
    dup: bool = False,
    properties: bytes = b"",
    retain: bool = False,
) -> bytes:
    head = string(topic) + (short(packet_id) if qos else b"")
    body = head + varint(len(properties)) + properties + payload
    return packet(0x30 | dup << 3 | qos << 1 | retain, body)


def ack(name: str, packet_id: int, code: int | None = None) -> bytes:
    first = {"PUBACK": 0x40, "PUBREC": 0x50, "PUBREL": 0x62, "PUBCOMP": 0x70}[name]
    return packet(first, short(packet_id) + (b"" if code is None else bytes([code])))


PINGRESP = packet(0xD0)


@dataclass
class Seen:
    """A packet from the client, taken apart as far as tests ask."""

    name: str
    flags: int
    body: bytes
    at: float

    @property
    def packet_id(self) -> int:
        at = 0
        if self.name == "PUBLISH":
            at = 2 + struct.unpack_from("!H", self.body)[0]
        return int(struct.unpack_from("!H", self.body, at)[0])

    @property
    def topic(self) -> str:
        length = struct.unpack_from("!H", self.body)[0]
        return self.body[2 : 2 + length].decode()

    @property
    def dup(self) -> bool:
        return bool(self.flags & 8)

    @property
    def qos(self) -> int:
        return self.flags >> 1 & 3

    @property
    def code(self) -> int:
        """Reason code of an acknowledgement or a DISCONNECT."""
        at = 0 if self.name == "DISCONNECT" else 2
        return self.body[at] if len(self.body) > at else 0

    @property
    def keep_alive(self) -> int:
        return int(struct.unpack_from("!H", self.body, 8)[0])


class Conn:
    """One connection of the client to the peer."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock

    def send(self, data: bytes) -> None:
        self.sock.sendall(data)

    def read(self, timeout: float = 5.0) -> Seen:
        """The next packet; EOFError at the end, TimeoutError when there is none."""
        self.sock.settimeout(timeout)
        first = self._exactly(1)[0]
        length, shift = 0, 0
        while True:
            byte = self._exactly(1)[0]
            length |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                break
        return Seen(NAMES[first >> 4], first & 15, self._exactly(length), time.monotonic())

    def expect(self, name: str, timeout: float = 5.0) -> Seen:
        seen = self.read(timeout)
        assert seen.name == name, seen
        return seen

    def silent(self, seconds: float = 0.2) -> bool:
        """Whether the client sends nothing for this long."""
        try:
            seen = self.read(seconds)
        except TimeoutError:
            return True
        pytest.fail(f"unexpected {seen}")

    def at_end(self, timeout: float = 5.0) -> bool:
        """Whether the client closes, reading over whatever comes before."""
        try:
            while True:
                self.read(timeout)
        except (EOFError, ConnectionResetError):
            return True
        except TimeoutError:
            return False

    def _exactly(self, count: int) -> bytes:
        data = b""
        while len(data) < count:
            chunk = self.sock.recv(count - len(data))
            if not chunk:
                raise EOFError
            data += chunk
        return data

    def close(self) -> None:
        self.sock.close()


class Peer:
    """A broker that says exactly what the test wants."""

    def __init__(self) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self.listener.getsockname()[1])
        self.conns: list[Conn] = []

    def accept(self, timeout: float = 5.0) -> Conn:
        """The next connection, nothing read."""
        self.listener.settimeout(timeout)
        self.conns.append(Conn(self.listener.accept()[0]))
        return self.conns[-1]

    def welcome(
        self,
        session_present: bool = False,
        properties: bytes = b"",
        codes: bytes = b"\x01",
        timeout: float = 5.0,
    ) -> Conn:
        """The next connection, connected and (with `codes`) subscribed."""
        conn = self.accept(timeout)
        conn.expect("CONNECT")
        conn.send(connack(session_present, 0, properties))
        if codes:
            self.grant(conn, codes)
        return conn

    @staticmethod
    def grant(conn: Conn, codes: bytes = b"\x01") -> Seen:
        """Read the SUBSCRIBE and answer it."""
        seen = conn.expect("SUBSCRIBE")
        conn.send(packet(0x90, short(seen.packet_id) + b"\0" + codes))
        return seen

    def close(self) -> None:
        for conn in self.conns:
            conn.close()
        self.listener.close()


@dataclass
class Engine:
    """An intake that remembers; `decide` acknowledges what it gets at once."""

    decide: bool = True
    session: Session | None = None
    got: list[Inbound] = field(default_factory=list)
    batches: list[int] = field(default_factory=list)
    sent_handles: list[int] = field(default_factory=list)
    taken_handles: list[int] = field(default_factory=list)
    lost: int = 0
    release: bool = True

    def received(self, messages: Sequence[Inbound]) -> None:
        self.got += messages
        self.batches.append(len(messages))
        if self.decide and self.session is not None:
            self.session.acknowledge([message.token for message in messages])

    def sent(self, handles: Sequence[int]) -> None:
        self.sent_handles += handles

    def taken(self, handles: Sequence[int]) -> None:
        self.taken_handles += handles
        if self.release and self.session is not None:
            self.session.release(handles)

    def session_lost(self) -> None:
        self.lost += 1

    def acknowledge(self, *tokens: Token) -> None:
        assert self.session is not None
        self.session.acknowledge(tokens)


def make_settings(port: int, **changes: object) -> LinkSettings:
    settings = {
        "host": "127.0.0.1",
        "port": port,
        "client_id": "consumer",
        "subscriptions": ("oc2/cmd/all",),
        "device_id": "fw-7",
        "backoff": Backoff(first=0.02, most=0.1, stable=60),
        **changes,
    }
    return LinkSettings(**settings)  # type: ignore[arg-type]


def response(handle: int, payload: bytes = b"{}", **changes: object) -> Outgoing:
    return Outgoing(handle, "oc2/rsp", payload, Encoding.JSON, **changes)  # type: ignore[arg-type]
