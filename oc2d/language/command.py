"""Commands: the tree of a request to a frozen structure, and back (LANG-11 to 37).

This is step 9 of REQUIREMENTS 2.6: what is wrong with the structure is a `BadRequest` here; what
nothing carries out is found later by the engine.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from oc2d.language.codec import Encoding, Tree
from oc2d.language.vocabulary import Action, ResponseType

__all__ = [
    "Args",
    "Dialect",
    "OpenC2Command",
    "Specified",
    "Target",
    "command_tree",
    "decode_extension",
    "extension_tree",
    "fingerprint",
    "parse_command",
]


@dataclass(frozen=True, slots=True)
class Target:
    name: str
    value: Any


@dataclass(frozen=True, slots=True)
class Args:
    start_time: int | None = None
    stop_time: int | None = None
    duration: int | None = None
    response_requested: ResponseType | None = None
    profiles: Mapping[str, Tree] = None
    unknown: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Specified:
    nsid: str
    specifiers: Tree


@dataclass(frozen=True, slots=True)
class OpenC2Command:
    action: Action
    target: Target
    args: Args | None = None
    actuator: Specified | None = None
    command_id: str | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Dialect:
    profile_field: bool = True
    strict_cidr: bool = False


def parse_command(
    tree: Tree,
    encoding: Encoding,
    dialect: Dialect = Dialect(),
    *,
    path: str = "$.body.openc2.request",
) -> OpenC2Command:
    raise NotImplementedError


def command_tree(command: OpenC2Command, encoding: Encoding) -> Tree:
    raise NotImplementedError


def decode_extension(tree: Tree, type_: Any, encoding: Encoding, *, path: str) -> Any:
    raise NotImplementedError


def extension_tree(value: Any, encoding: Encoding) -> Tree:
    raise NotImplementedError


def fingerprint(tree: Tree, command: OpenC2Command | None) -> bytes:
    raise NotImplementedError
