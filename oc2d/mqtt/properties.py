"""PUBLISH on the wire: ours packed, the broker's taken apart (MQTT 5.0 section 3.3, MQTT-28 to 41).

Own code in place of paho's `Properties`, which costs more than all else that happens to a message.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final, Literal

from oc2d.language.codec import Encoding

__all__ = [
    "CONTENT_TYPE",
    "Delivery",
    "decode_publish",
    "encode_publish",
    "properties",
]

CONTENT_TYPE: Final = "application/openc2"

_PUBLISH = 0x30
_PAYLOAD_FORMAT = 0x01
_MESSAGE_EXPIRY = 0x02
_CONTENT_TYPE = 0x03
_RESPONSE_TOPIC = 0x08
_CORRELATION = 0x09
_SUBSCRIPTION_ID = 0x0B
_USER_PROPERTY = 0x26

_short = struct.Struct("!H")


def _text(value: str) -> bytes:
    data = value.encode()
    return _short.pack(len(data)) + data


def _number(value: int) -> bytes:
    """Encode a Variable Byte Integer."""
    out = bytearray()
    while value > 0x7F:  # noqa: PLR2004  seven bits a byte
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _frame(message_type: str, encoding: Encoding) -> bytes:
    """Pack what all our messages of one kind have: exactly two user properties, in this order."""
    return (
        bytes((_PAYLOAD_FORMAT, encoding is Encoding.JSON, _CONTENT_TYPE))
        + _text(CONTENT_TYPE)
        + bytes((_USER_PROPERTY,))
        + _text("msgType")
        + _text(message_type)
        + bytes((_USER_PROPERTY,))
        + _text("encoding")
        + _text(encoding.announced)
    )


_FRAMES: Final = {
    (kind, encoding): _frame(kind, encoding) for kind in ("req", "rsp") for encoding in Encoding
}


def properties(
    message_type: Literal["rsp", "req"], encoding: Encoding, correlation: bytes | None
) -> bytes:
    """Pack the properties of a message of ours, their length in front (MQTT-31 to 34, 39, 40)."""
    packed = _FRAMES[message_type, encoding]
    if correlation is not None:
        packed += bytes((_CORRELATION,)) + _short.pack(len(correlation)) + correlation
    return _number(len(packed)) + packed


def encode_publish(  # noqa: PLR0913  the fields of the packet
    topic: str, payload: bytes, packed: bytes, *, packet_id: int, qos: int, dup: bool
) -> bytes:
    """Build a PUBLISH, never retained; `packed` is empty under MQTT 3.1.1."""
    name = _text(topic)
    length = len(name) + 2 + len(packed) + len(payload)
    first = _PUBLISH | dup << 3 | qos << 1
    return b"".join(
        (bytes((first,)), _number(length), name, _short.pack(packet_id), packed, payload)
    )


@dataclass(slots=True)
class Delivery:
    """A PUBLISH from the broker; properties that are absent or of no use to us are None."""

    topic: str
    payload: bytes
    packet_id: int
    qos: int
    dup: bool
    retain: bool
    message_type: str | None = None
    encoding: str | None = None
    content_type: str | None = None
    payload_is_text: bool | None = None
    correlation: bytes | None = None
    response_topic: str | None = None
    size: int = 0
    """Bytes of the packet: properties may take more of it than the payload."""


def decode_publish(first: int, body: bytes, *, v5: bool) -> Delivery:
    """Take a PUBLISH apart: its first byte, and all after the remaining length.

    Raises ValueError where it cannot be (MQTT 5.0 section 4.13). What is illegal only in its value
    is read all the same: a broker that lets it through would deliver it again on each connection.
    """
    qos = first >> 1 & 3
    try:
        topic, at = _string(body, 0)
        packet_id = 0
        if qos:
            (packet_id,) = _short.unpack_from(body, at)
            at += 2
        delivery = Delivery(topic, b"", packet_id, qos, dup=bool(first & 8), retain=bool(first & 1))
        if v5:
            at = _properties(body, at, delivery)
    except (IndexError, struct.error) as error:
        raise ValueError("PUBLISH ends too early") from error
    if qos == 3 or bool(qos) != bool(packet_id) or not topic or "+" in topic or "#" in topic:  # noqa: PLR2004  QoS 3 does not exist
        raise ValueError("PUBLISH with an illegal QoS, packet identifier or topic")
    delivery.payload, delivery.size = body[at:], len(body)
    return delivery


def _properties(body: bytes, at: int, delivery: Delivery) -> int:
    length, at = _varint(body, at)
    end = at + length
    if end > len(body):
        raise IndexError
    while at < end:
        key = body[at]
        at += 1
        if key == _USER_PROPERTY:
            name, at = _string(body, at)
            value, at = _string(body, at)
            if name == "msgType" and delivery.message_type is None:
                delivery.message_type = value
            elif name == "encoding" and delivery.encoding is None:
                delivery.encoding = value
            continue
        at = _property(key, body, at, delivery)
    if at != end:
        raise ValueError("PUBLISH whose properties overrun their length")
    return at


def _property(key: int, body: bytes, at: int, delivery: Delivery) -> int:
    if key == _PAYLOAD_FORMAT:
        delivery.payload_is_text = bool(body[at])
        return at + 1
    if key == _CONTENT_TYPE:
        delivery.content_type, at = _string(body, at)
        return at
    if key == _RESPONSE_TOPIC:
        delivery.response_topic, at = _string(body, at)
        return at
    if key == _CORRELATION:
        delivery.correlation, at = _binary(body, at)
        return at
    if key == _MESSAGE_EXPIRY:
        return at + 4
    if key == _SUBSCRIPTION_ID:
        return _varint(body, at)[1]
    # a Topic Alias as well: we allow the broker none
    raise ValueError(f"PUBLISH with property {key:#04x}")


def _varint(body: bytes, at: int) -> tuple[int, int]:
    value = 0
    for shift in (0, 7, 14, 21):
        byte = body[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:  # noqa: PLR2004  the continuation bit
            return value, at
    raise ValueError("a Variable Byte Integer of more than four bytes")


def _binary(body: bytes, at: int) -> tuple[bytes, int]:
    (length,) = _short.unpack_from(body, at)
    at += 2
    if at + length > len(body):
        raise IndexError
    return body[at : at + length], at + length


def _string(body: bytes, at: int) -> tuple[str, int]:
    data, at = _binary(body, at)
    return data.decode(errors="replace"), at
