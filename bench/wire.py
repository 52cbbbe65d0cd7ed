"""Just enough MQTT 5 over a socket to load a Consumer: a library would be the bottleneck."""

from __future__ import annotations

import re
import socket
import struct
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

CONNECT, PUBLISH, PUBACK, SUBSCRIBE = 0x10, 0x32, 0x40, 0x82  # PUBLISH and SUBSCRIBE with QoS 1
_SUCCESS = re.compile(rb'"status": ?200|fstatus\x18\xc8')  # JSON, CBOR


def text(value: str) -> bytes:
    data = value.encode()
    return struct.pack("!H", len(data)) + data


def packet(kind: int, body: bytes) -> bytes:
    length, size = len(body), b""
    while True:
        length, digit = length // 128, length % 128
        size += bytes([digit | 0x80 if length else digit])
        if not length:
            return bytes([kind]) + size + body


def properties(message_type: str, encoding: str) -> bytes:
    pairs = [("msgType", message_type), ("encoding", encoding)]
    listed = b"\x01" + bytes([encoding == "json"]) + b"\x03" + text("application/openc2")
    listed += b"".join(b"\x26" + text(name) + text(value) for name, value in pairs)
    return bytes([len(listed)]) + listed


class Wire:
    """One connection: subscribed to one topic, publishing at QoS 1."""

    def __init__(self, port: int, client_id: str, subscribe: str) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=30)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.encoding = "json"
        self._rest = b""
        self._next_id = 0
        connect = text("MQTT") + b"\x05\x02" + struct.pack("!H", 300) + b"\x00" + text(client_id)
        self.socket.sendall(packet(CONNECT, connect))
        self._expect(0x20)
        self.socket.sendall(packet(SUBSCRIBE, b"\x00\x01\x00" + text(subscribe) + b"\x01"))
        self._expect(0x90)

    def _expect(self, kind: int) -> None:
        found = [first for first, _ in self.packets()]
        if found != [kind]:
            raise SystemExit(f"the broker answered {found}, not {kind:#x}")

    def packets(self) -> Iterator[tuple[int, bytes]]:
        """Wait for data and yield the whole packets it completes: first byte and body."""
        data = self._rest + self.socket.recv(1 << 16)
        at = 0
        while at + 2 <= len(data):
            length = shift = 0
            start = at + 1
            while start < len(data):
                digit = data[start]
                length |= (digit & 0x7F) << shift
                start, shift = start + 1, shift + 7
                if digit < 0x80:  # noqa: PLR2004 - the continuation bit
                    break
            else:
                break
            if start + length > len(data):
                break
            yield data[at], data[start : start + length]
            at = start + length
        self._rest = data[at:]

    def publication(self, topic: str, message_type: str, payload: bytes) -> bytes:
        self._next_id = self._next_id % 65535 + 1
        head = (
            text(topic) + struct.pack("!H", self._next_id) + properties(message_type, self.encoding)
        )
        return packet(PUBLISH, head + payload)


@dataclass
class Outcome:
    """What a closed loop saw."""

    answers: int
    refusals: int
    seconds: float

    @property
    def rate(self) -> float:
        return self.answers / self.seconds


def closed_loop(  # noqa: PLR0913 - the knobs of the measurement
    wire: Wire,
    topic: str,
    command: Callable[[int], bytes],
    *,
    window: int = 64,
    seconds: float = 3.0,
    count: int | None = None,
) -> Outcome:
    """Keep `window` commands unanswered for `seconds`, or until `count` are answered."""
    started = time.monotonic()
    sent = answers = refusals = 0
    out = bytearray()
    more = True
    while more or answers < sent:
        while more and sent - answers < window:
            out += wire.publication(topic, "req", command(sent))
            sent += 1
            more = count is None or sent < count
        if out:
            wire.socket.sendall(out)
            out.clear()
        for kind, body in wire.packets():
            if kind & 0xF0 == PUBLISH & 0xF0:
                answers += 1
                refusals += _SUCCESS.search(body) is None
                if kind & 0x06:
                    after = 2 + int.from_bytes(body[:2], "big")
                    out += packet(PUBACK, body[after : after + 2])
        more = more and time.monotonic() - started < seconds if count is None else more
    if out:
        wire.socket.sendall(out)
    return Outcome(answers, refusals, time.monotonic() - started)
