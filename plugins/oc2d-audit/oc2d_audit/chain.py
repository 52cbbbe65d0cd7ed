"""The form of a line: JSON that ends with the hash of itself and names that of the line before."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

__all__ = ["NOTHING", "Link", "link_of", "seal"]

_SUFFIX = b',"hash":"%s"}\n'
_SUFFIX_LENGTH = len(_SUFFIX % bytes(64))


@dataclass(frozen=True, slots=True)
class Link:
    """A place in the chain: the number of a record and its hash."""

    seq: int
    hash: str


#: What stands before the first record.
NOTHING = Link(0, "0" * 64)


def seal(record: Mapping[str, Any], before: Link) -> tuple[bytes, Link]:
    """Write a record behind another: its line, and where the chain ends then.

    The hash is SHA-256 of the line without its member `hash`, the closing brace kept.
    """
    seq = before.seq + 1
    body = msgspec.json.encode({"seq": seq, **record, "prev": before.hash})
    digest = hashlib.sha256(body).hexdigest()
    return body[:-1] + _SUFFIX % digest.encode(), Link(seq, digest)


def link_of(line: bytes) -> tuple[Link, dict[str, Any]]:
    """Read a line, its newline included, and check its hash; raise `ValueError` if it is wrong."""
    body = line[:-_SUFFIX_LENGTH] + b"}"
    digest = hashlib.sha256(body).hexdigest()
    if line[-_SUFFIX_LENGTH:] != _SUFFIX % digest.encode():
        raise ValueError("the hash does not fit the line")
    try:
        record: dict[str, Any] = msgspec.json.decode(body, type=dict[str, Any])
        return Link(msgspec.convert(record["seq"], int), digest), record
    except (msgspec.DecodeError, msgspec.ValidationError, KeyError):
        raise ValueError("the line is no record") from None
