"""Payload bytes to trees and back: JSON in its I-JSON form, and CBOR (LANG-73 to 77, AMB-52).

A tree is what JSON can say, and byte strings where it came from CBOR; it has names everywhere, also
where concise CBOR has ids. What reaches the modules above is bounded, has no duplicate names, no
values that are no numbers and no broken text.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Any

from oc2d.errors import BadRequest
from oc2d.language import cbor_form, concise, json_form
from oc2d.language.ids import PUBLISHED, Names, command_names, message_names

__all__ = ["Encoding", "InputLimits", "Tree", "decode", "encode", "guess", "recognise"]

#: None, bool, int, float, str, bytes (CBOR only), a list of trees, or a dict of them by name.
Tree = Any


class Encoding(str, Enum):
    """How a message is written: JSON, or one of the two forms of CBOR (AMB-52)."""

    JSON = "json"
    CBOR = "cbor"
    CONCISE = "cbor-concise"

    @property
    def announced(self) -> str:
        """The `encoding` user property, which does not tell the forms apart (MQTT-34)."""
        return "json" if self is Encoding.JSON else "cbor"


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
        return _form(payload)
    return None


def recognise(announced: str | None, payload: bytes) -> Encoding | None:
    """Tell the encoding by the user property, and of CBOR the form by the first byte (AMB-52).

    None: the property is neither `json` nor `cbor`, or there is none and the first byte tells
    nothing.
    """
    if announced is None:
        return guess(payload)
    if announced == Encoding.CBOR.announced:
        return _form(payload)
    return Encoding.JSON if announced == Encoding.JSON.announced else None


def _form(payload: bytes) -> Encoding:
    return Encoding.CONCISE if cbor_form.is_array(payload) else Encoding.CBOR


_NAMES = message_names(PUBLISHED)


def decode(payload: bytes, encoding: Encoding, limits: InputLimits, names: Names = _NAMES) -> Tree:
    """Decode a payload; raises `BadRequest` for everything that is wrong with it.

    `names` are those that concise CBOR has ids for.
    """
    if len(payload) > limits.payload:
        raise BadRequest(f"the message has {len(payload)} bytes, more than {limits.payload}")
    if encoding is Encoding.JSON:
        return json_form.decode(payload, depth=limits.depth, items=limits.items)
    ids = encoding is Encoding.CONCISE
    tree = cbor_form.decode(payload, depth=limits.depth, items=limits.items, ids=ids)
    if not ids:
        return tree
    return concise.named(tree, command_names(names) if _begins_with_action(tree) else names)


def _begins_with_action(tree: Tree) -> bool:
    """Tell a bare command (AMB-8): a message begins with its headers, a map or null."""
    return isinstance(tree, list) and bool(tree) and type(tree[0]) in (int, str)


def encode(tree: Tree, encoding: Encoding, names: Names = _NAMES) -> bytes:
    """Encode a tree; for JSON it holds no byte strings, for concise CBOR it is a whole message."""
    if encoding is Encoding.JSON:
        return json_form.encode(tree)
    return cbor_form.encode(concise.numbered(tree, names) if encoding is Encoding.CONCISE else tree)
