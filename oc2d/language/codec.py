"""The encodings of OpenC2 messages."""

from __future__ import annotations

from enum import Enum

__all__ = ["Encoding"]


class Encoding(str, Enum):
    """The values of the user property `encoding` (MQTT-34)."""

    JSON = "json"
    CBOR = "cbor"
