"""Payload bytes to trees and back: JSON in its I-JSON form, and CBOR (LANG-73 to 77, AMB-52).

A tree is what JSON can say, and byte strings where it came from CBOR. What reaches the modules
above is bounded, has no duplicate names, no values that are no numbers and no broken text.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Any

from oc2d.errors import BadRequest
from oc2d.language import cbor_form, json_form

__all__ = ["Encoding", "InputLimits", "Tree", "decode", "encode", "guess"]

#: None, bool, int, float, str, bytes (CBOR only), a list of trees, or a dict of them by name.
Tree = Any


class Encoding(str, Enum):
    """The `encoding` user property (MQTT-34)."""

    JSON = "json"
    CBOR = "cbor"


@dataclass(frozen=True, slots=True)
class InputLimits:
    """What a message may cost us (LANG-77).

    `payload` is in bytes, inclusive. `depth` counts nested objects and lists; `items` their members
    and elements altogether (in JSON an empty one counts as one).
    """

    payload: int = 262144
    depth: int = 32
    items: int = 65536


def guess(payload: bytes) -> Encoding | None:
    """Tell the encoding by the first byte when no property names it (AMB-14, AMB-15)."""
    if json_form.looks_like(payload):
        return Encoding.JSON
    if cbor_form.looks_like(payload):
        return Encoding.CBOR
    return None


def decode(payload: bytes, encoding: Encoding, limits: InputLimits) -> Tree:
    """Decode a payload; raises `BadRequest` for everything that is wrong with it."""
    if len(payload) > limits.payload:
        raise BadRequest(f"the message has {len(payload)} bytes, more than {limits.payload}")
    form = json_form if encoding is Encoding.JSON else cbor_form
    return form.decode(payload, depth=limits.depth, items=limits.items)


def encode(tree: Tree, encoding: Encoding) -> bytes:
    """Encode a tree; for JSON it holds no byte strings."""
    return json_form.encode(tree) if encoding is Encoding.JSON else cbor_form.encode(tree)
