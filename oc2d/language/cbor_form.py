"""CBOR as a tree: maps with text keys, as JSON would have them, and byte strings (AMB-52).

A message in the concise form is an array, and its maps may have ids for keys (`oc2d.language.ids`).
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterator, Mapping
from typing import Any, NoReturn

import cbor2

from oc2d.errors import BadRequest

__all__ = ["decode", "encode", "is_array", "looks_like"]

_ARRAYS = range(0x80, 0xA0)
_MAPS = range(0xA0, 0xC0)
_CONCISE = frozenset({0x82, 0x83})
_LARGEST = 2**53 - 1
_SCALARS = frozenset({str, bytes, bool, type(None)})


def looks_like(payload: bytes) -> bool:
    """Tell whether this is a message in one of the CBOR forms by its first byte (AMB-14)."""
    return payload[:1] != b"" and (payload[0] in _MAPS or payload[0] in _CONCISE)


def is_array(payload: bytes) -> bool:
    """Tell whether this begins an array, as a message in the concise form does."""
    return payload[:1] != b"" and payload[0] in _ARRAYS


def decode(payload: bytes, *, depth: int, items: int, ids: bool) -> Any:  # noqa: ANN401 - a tree
    """Decode exactly one data item, with integers for keys where `ids`; raises `BadRequest`."""
    if ids:
        _check_keys(payload, items)
    stream = io.BytesIO(payload)
    try:
        decoder = cbor2.CBORDecoder(
            stream,
            semantic_decoders=_NO_TAGS,
            max_depth=depth,
            allow_duplicate_keys=False,
            strict_hashable_types=not ids,
        )
        tree = decoder.decode()
    except cbor2.CBORDecodeError as error:
        if isinstance(error.__cause__, BadRequest):
            raise error.__cause__ from None
        raise BadRequest(f"the payload is not acceptable CBOR: {str(error)[:200]}") from None
    if stream.tell() != len(payload):
        raise BadRequest(f"{len(payload) - stream.tell()} bytes follow the CBOR message")
    _check(tree, items, (str, int) if ids else (str,))
    return tree


def encode(tree: Any) -> bytes:  # noqa: ANN401 - a tree
    """Encode a tree with definite lengths and no tags."""
    return cbor2.dumps(tree)


def _check_keys(payload: bytes, items: int) -> None:
    """Refuse keys that are neither text nor ids of up to 16 bits, before any goes into a dict.

    Of other keys many can be made that have the same hash, which takes for ever to tell apart. What
    is not CBOR at all is left to the decoder.
    """
    at, outer = 0, []
    in_map, left = False, 1  # where we are, and how many items are to come; below 0: till a break
    for _ in range(2 * items + 1):
        if at >= len(payload):
            return
        first = payload[at]
        at += 1
        if first == _BREAK:
            left = 0
        else:
            major, info = first >> 5, first & 0x1F
            if in_map and left % 2 == 0 and major != _TEXT and first not in _IDS:
                raise BadRequest("a CBOR map has a key that is neither text nor an id")
            left -= 1
            if info in _WIDE:
                width = 1 << (info - 24)
                info, at = int.from_bytes(payload[at : at + width], "big"), at + width
                indefinite = False
            else:
                indefinite = info == _INDEFINITE
            if major in _CONTAINERS or indefinite:
                outer.append((in_map, left))
                in_map = major == _MAP
                left = -2 if indefinite else info * (2 if in_map else 1)
            elif major in _STRINGS:
                at += info
        while left == 0:
            if not outer:
                return
            in_map, left = outer.pop()
    raise BadRequest(f"the message holds more than {items} items")


_BYTES, _TEXT, _ARRAY, _MAP = range(2, 6)
_STRINGS = (_BYTES, _TEXT)
_CONTAINERS = (_ARRAY, _MAP)
_BREAK = 0xFF
_INDEFINITE = 31
_WIDE = range(24, 28)
_IDS = range(0x1A)  # the first bytes of unsigned integers of up to 16 bits


def _check(tree: Any, items: int, keys: tuple[type, ...]) -> None:  # noqa: ANN401 - a tree
    """Refuse what a tree cannot hold: keys of other types, simple values, numbers too large."""
    waiting = [tree]
    counted = 0
    while waiting:
        node = waiting.pop()
        kind = type(node)
        if kind is dict:
            if any(type(name) not in keys for name in node):
                raise BadRequest("a CBOR map has a key that is no text")
            waiting.extend(node.values())
            counted += len(node)
        elif kind is list:
            waiting.extend(node)
            counted += len(node)
        elif kind not in _SCALARS:
            _check_number(node)
        if counted > items:
            raise BadRequest(f"the message holds more than {items} items")


def _check_number(node: Any) -> None:  # noqa: ANN401 - what is neither text, octets nor a container
    if type(node) is int:
        if not -_LARGEST <= node <= _LARGEST:
            raise BadRequest("an integer is beyond 2^53-1")
    elif type(node) is not float:
        raise BadRequest("CBOR undefined and simple values are not used in OpenC2")
    elif not math.isfinite(node):
        raise BadRequest("a number is not finite")


def _refuse(*_: object) -> NoReturn:
    raise BadRequest("CBOR tags are not used in OpenC2")


class _NoTags(Mapping[int, Any]):
    """Has an entry for every tag, which refuses it: also those the library would resolve itself."""

    def __getitem__(self, tag: int) -> Any:  # noqa: ANN401 - a callable of the library's
        return _refuse

    def __iter__(self) -> Iterator[int]:
        return iter(())

    def __len__(self) -> int:
        return 1


_NO_TAGS = _NoTags()
