"""How a tree is read into values: what every value type of the language has in common."""

from __future__ import annotations

import re
from typing import Any

import msgspec

from oc2d.language.codec import Encoding, Tree

__all__ = ["Reading", "Value", "inside", "shown"]

_SHOWN = 64


def shown(value: object) -> str:
    """Quote a Producer's value for a message, not at any length."""
    text = repr(value) if isinstance(value, (str, bytes, int, float)) else type(value).__name__
    return text if len(text) <= _SHOWN else text[:_SHOWN] + "…"


def inside(path: str, name: str) -> str:
    """Name the place of a member, whatever its name holds."""
    return f"{path}.{name}" if _PLAIN_NAME.fullmatch(name) else f"{path}[{shown(name)}]"


_PLAIN_NAME = re.compile(r"[A-Za-z0-9_:-]{1,64}")


class Reading(msgspec.Struct, frozen=True):
    """How a tree is read; `masked` collects what lost its host bits (AMB-31)."""

    encoding: Encoding
    strict_cidr: bool = False
    masked: list[str] = msgspec.field(default_factory=list)


class Value:
    """A type that reads and writes itself."""

    __slots__ = ()

    @classmethod
    def read(cls, tree: Tree, reading: Reading) -> Any:  # noqa: ANN401 - the class itself
        """Read one from a tree; raises `ValueError`."""
        raise NotImplementedError

    def tree(self, encoding: Encoding) -> Tree:
        """Write the canonical form."""
        raise NotImplementedError
