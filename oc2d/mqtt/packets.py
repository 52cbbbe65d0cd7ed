"""What a broker can say, decoded; PUBLISH is in `properties`."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

from paho.mqtt.reasoncodes import ReasonCode

from oc2d.mqtt.properties import Delivery
from oc2d.mqtt.status import ServerLimits

__all__ = ["Ack", "Connack", "Disconnect", "Kind", "Packet", "Pong", "Suback", "reason_text"]


class Kind(IntEnum):
    """The packets that acknowledge, as the high half of their first byte says it."""

    PUBACK = 4
    PUBREC = 5
    PUBREL = 6
    PUBCOMP = 7


@dataclass(frozen=True, slots=True)
class Ack:
    """PUBACK, PUBREC, PUBREL or PUBCOMP."""

    kind: Kind
    packet_id: int
    reason: int


@dataclass(frozen=True, slots=True)
class Connack:
    """The broker's answer to CONNECT; `refusal` says why it does not want us."""

    session_present: bool
    refusal: str | None
    limits: ServerLimits


@dataclass(frozen=True, slots=True)
class Suback:
    """The reason codes of a SUBSCRIBE, in the order of its filters."""

    packet_id: int
    codes: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Disconnect:
    """The broker ends the connection."""

    text: str


@dataclass(frozen=True, slots=True)
class Pong:
    """PINGRESP."""


Packet = Ack | Connack | Delivery | Disconnect | Pong | Suback


def reason_text(kind: int, code: int) -> str:
    """Name a reason code of packet type `kind` (MQTT 5.0 section 2.4), with its number."""
    try:
        return f"{ReasonCode(kind, identifier=code)} ({code:#04x})"
    except (KeyError, ValueError):  # unknown, or not of this packet
        return f"reason {code:#04x}"
