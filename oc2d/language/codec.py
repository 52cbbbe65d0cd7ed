"""Stand-in."""

from __future__ import annotations

from enum import Enum

__all__ = ["Encoding"]


class Encoding(str, Enum):
    """Stand-in."""

    JSON = "json"
    CBOR = "cbor"
