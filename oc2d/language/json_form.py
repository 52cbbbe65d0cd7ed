"""JSON as RFC 7493 (I-JSON) restricts it (LANG-73 to 76)."""

from __future__ import annotations

import codecs
import json
import math
import re
from collections import Counter
from typing import Any, NoReturn

import msgspec

from oc2d.errors import BadRequest

__all__ = ["decode", "encode", "looks_like"]

_WHITE = b" \t\r\n"
_LARGEST = 2**53 - 1
_INTEGER_LENGTH = len(str(-_LARGEST))
_FLOAT_LENGTH = 128
# A string is skipped whole; its closing quote is optional so that the pattern never backtracks.
_TOKENS = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"?|[\[{\]},]', re.DOTALL)


def looks_like(payload: bytes) -> bool:
    """Tell whether this is a JSON object by its first byte, after white space or a BOM."""
    return payload.removeprefix(codecs.BOM_UTF8).lstrip(_WHITE)[:1] == b"{"


def decode(payload: bytes, *, depth: int, items: int) -> Any:  # noqa: ANN401 - a tree
    """Decode one JSON text; raises `BadRequest`. The limits are checked before anything nests."""
    _check_size(payload, depth, items)
    if (tree := _quickly(payload)) is not None:
        return tree
    try:
        text = payload.removeprefix(codecs.BOM_UTF8).decode()
        tree = _DECODER.decode(text)
        if "\\u" in text:
            msgspec.json.encode(tree)  # escapes can spell lone surrogates, which this refuses
    except UnicodeDecodeError as error:
        raise BadRequest(f"the payload is not UTF-8 (byte {error.start})") from None
    except UnicodeEncodeError:
        raise BadRequest("the payload escapes a lone surrogate") from None
    except json.JSONDecodeError as error:
        raise BadRequest(f"the payload is not JSON: {error}") from None
    return tree


def _quickly(payload: bytes) -> Any:  # noqa: ANN401 - a tree, or None
    """Decode a text in which nothing can be wrong, in a third of the time; None: look closely.

    Each member has a colon: when there are no more of them than members, no name occurs twice.
    """
    if b"\\u" in payload:
        return None
    try:
        tree = _QUICK.decode(payload)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
    members = 0
    waiting = [tree]
    for node in waiting:
        kind = type(node)
        if kind is dict:
            members += len(node)
            waiting += node.values()
        elif kind is list:
            waiting += node
        elif kind is float or (kind is int and not -_LARGEST <= node <= _LARGEST):
            return None
    return tree if members == payload.count(b":") else None


def encode(tree: Any) -> bytes:  # noqa: ANN401 - a tree
    """Encode a tree without byte strings, compactly, in UTF-8 without a BOM (LANG-74)."""
    return msgspec.json.encode(tree)


def _check_size(payload: bytes, depth: int, items: int) -> None:
    """Refuse what nests too deep or holds too much; cheap for messages that are far from that."""
    opened = payload.count(b"{") + payload.count(b"[")
    if opened <= depth and opened + payload.count(b",") <= items:
        return
    level = counted = 0
    for match in _TOKENS.finditer(payload):
        token = payload[match.start()]
        if token in b"[{":
            level += 1
            counted += 1
        elif token in b"]}":
            level -= 1
        elif token in b",":
            counted += 1
        if level > depth:
            raise BadRequest(f"the message nests deeper than {depth} levels")
        if counted > items:
            raise BadRequest(f"the message holds more than {items} items")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        twice, _ = Counter(name for name, _ in pairs).most_common(1)[0]
        raise BadRequest(f"the member {twice[:64]!r} occurs twice in one object")
    return made


def _integer(text: str) -> int:
    # The length comes first: turning thousands of digits into a number is slow or refused.
    if len(text) > _INTEGER_LENGTH or not -_LARGEST <= (number := int(text)) <= _LARGEST:
        raise BadRequest(f"the integer {text[:20]}… is beyond 2^53-1")
    return number


def _float(text: str) -> float:
    if len(text) > _FLOAT_LENGTH or not math.isfinite(number := float(text)):
        raise BadRequest(f"the number {text[:20]}… is out of range")
    return number


def _constant(name: str) -> NoReturn:
    raise BadRequest(f"{name} is no JSON value")


_QUICK = msgspec.json.Decoder()
_DECODER = json.JSONDecoder(
    object_pairs_hook=_object, parse_int=_integer, parse_float=_float, parse_constant=_constant
)
