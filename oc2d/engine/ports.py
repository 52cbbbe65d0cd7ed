"""The engine's doors to the transfer: what comes in, what goes out, who acknowledges.

The engine knows no MQTT packet; `oc2d.mqtt` fills these in. Everything here is immutable and may
cross threads.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from typing import Protocol

import msgspec

from oc2d.language.codec import Encoding

__all__ = ["Channel", "Inbound", "Intake", "Outgoing", "Token", "Transfer"]


class Channel(Enum):
    """Which of the command topics a message came on (REQUIREMENTS 1.2)."""

    ALL = "all"
    PROFILE = "profile"
    DEVICE = "device"
    OTHER = "other"  # an extra subscription (AMB-2)


class Token(msgspec.Struct, frozen=True):
    """What the transfer needs to acknowledge one delivery: void after its connection ended."""

    connection: int
    packet_id: int
    qos: int


def kept(topic: str, payload: bytes, correlation: bytes | None) -> int:
    """Count the bytes of what is kept: topic and correlation data may be as long as 64 KiB each."""
    return len(topic) + len(payload) + len(correlation or b"")


class Inbound(msgspec.Struct, frozen=True):
    """One message as it was delivered; absent properties are None.

    `redelivered` is the DUP flag; `token.packet_id` with it finds redeliveries of requests without
    a request id (AMB-21).
    """

    token: Token
    topic: str
    channel: Channel
    profile: str | None
    payload: bytes
    retained: bool = False
    redelivered: bool = False
    message_type: str | None = None
    encoding: str | None = None
    content_type: str | None = None
    payload_is_text: bool | None = None
    correlation: bytes | None = None
    response_topic: str | None = None
    properties: bool = True
    """False under MQTT 3.1.1, which has none (AMB-14)."""

    @property
    def size(self) -> int:
        """Bytes that are kept of it."""
        return kept(self.topic, self.payload, self.correlation)


class Outgoing(msgspec.Struct, frozen=True):
    """One response to publish. `handle` (1 to 60 000) is unique among the unfinished ones.

    The transfer uses it as packet id, so that an exchange that a restart interrupted goes on under
    the same id. `again` marks one that an earlier process may have sent already; `released` one
    whose QoS 2 exchange had reached PUBREL. `durable` is False for best-effort answers, which no
    journal remembers: they go out at QoS 1.
    """

    handle: int
    topic: str
    payload: bytes
    encoding: Encoding
    correlation: bytes | None = None
    again: bool = False
    released: bool = False
    durable: bool = True

    @property
    def size(self) -> int:
        """Bytes that are kept of it."""
        return kept(self.topic, self.payload, self.correlation)


class Transfer(Protocol):
    """What the engine asks of the transfer. Thread-safe, never blocks, never raises."""

    def acknowledge(self, tokens: Sequence[Token]) -> None:
        """Acknowledge these deliveries, in this order; stale ones are ignored."""

    def send(self, messages: Sequence[Outgoing]) -> None:
        """Publish, now or when the link is back; `Intake.sent` tells when the broker has it."""

    def release(self, handles: Sequence[int]) -> None:
        """Go on with the QoS 2 exchange of these (PUBREL): `Intake.taken` is written down."""


class Intake(Protocol):
    """What the transfer tells the engine. Thread-safe, never blocks, never raises."""

    def received(self, messages: Sequence[Inbound]) -> None:
        """Take these deliveries, in order of arrival; each is acknowledged once it is decided."""

    def sent(self, handles: Sequence[int]) -> None:
        """The broker is responsible for these responses now (PUBACK or PUBCOMP)."""

    def taken(self, handles: Sequence[int]) -> None:
        """The broker answered PUBREC for these: remember it, then `Transfer.release` them."""

    def session_lost(self) -> None:
        """The broker started a new session: packet ids of earlier deliveries mean nothing now."""
