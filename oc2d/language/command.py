"""Commands: the tree of a request to a frozen structure, and back (LANG-11 to 37).

This is step 9 of REQUIREMENTS 2.6: what is wrong with the structure is a `BadRequest` here; what
nothing carries out is found later by the engine. An argument whose name is a legal NSID belongs to
that profile and must be an object; any other name that is not of the language is kept by name
(`Args.unknown`), for the engine to answer 501 (AMB-22).
"""

from __future__ import annotations

import difflib
import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import msgspec

from oc2d.errors import BadRequest
from oc2d.language.codec import Encoding, Tree
from oc2d.language.reading import Reading, inside, shown
from oc2d.language.targets import TARGET_TYPES
from oc2d.language.typed import decode_extension, extension_tree, from_tree, refuse_nulls
from oc2d.language.values import Binary, CommandId
from oc2d.language.vocabulary import Action, ResponseType, nsid_problem

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


class Target(msgspec.Struct, frozen=True):
    """What the action is done to: `value` is typed for a core target (`TARGET_TYPES`).

    For a target of a profile (`slpf:rule_number`) it is the tree: the profile knows the type
    (`decode_extension`).
    """

    name: str
    value: Any


class Args(msgspec.Struct, frozen=True):
    """The arguments; times and duration in milliseconds (LANG-7, LANG-19).

    `profiles` holds the tree of each profile's own arguments by NSID; `unknown` the names that are
    neither the language's nor an NSID.
    """

    start_time: int | None = None
    stop_time: int | None = None
    duration: int | None = None
    response_requested: ResponseType | None = None
    profiles: Mapping[str, Tree] = msgspec.field(default_factory=lambda: MappingProxyType({}))
    unknown: tuple[str, ...] = ()

    @property
    def only_response(self) -> bool:
        """Whether there is no argument but `response_requested`."""
        times = (self.start_time, self.stop_time, self.duration)
        return not (self.profiles or self.unknown or any(time is not None for time in times))


class Specified(msgspec.Struct, frozen=True):
    """The actuator that shall execute: its profile and a tree of specifiers (LANG-34)."""

    nsid: str
    specifiers: Tree


class OpenC2Command(msgspec.Struct, frozen=True):
    """A command whose structure is right.

    `notes` say what was changed on the way in: ranges that lost their host bits (AMB-31).
    """

    action: Action
    target: Target
    args: Args | None = None
    actuator: Specified | None = None
    command_id: str | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Dialect:
    """`profile_field`: take `profile` for `actuator` (AMB-30); `strict_cidr`: 400 for host bits."""

    profile_field: bool = True
    strict_cidr: bool = False


_DEFAULT_DIALECT = Dialect()


def parse_command(
    tree: Tree,
    encoding: Encoding,
    dialect: Dialect = _DEFAULT_DIALECT,
    *,
    path: str = "$.body.openc2.request",
) -> OpenC2Command:
    """Read a command; raises `BadRequest` with the place, `NotSupported` for other protocols.

    A target of an unknown namespace is fine here; a name without a namespace that is no core
    target is not (LANG-43).
    """
    if not isinstance(tree, dict):
        raise BadRequest(f"a command is an object, not {shown(tree)}", path=path)
    members = _MEMBERS_WITH_PROFILE if dialect.profile_field else _MEMBERS
    for name in tree:
        if name not in members:
            raise BadRequest(_no_such("member", name, members), path=path)
    for name in ("action", "target"):
        if name not in tree:
            raise BadRequest(f"missing {name}", path=path)
    reading = Reading(encoding, strict_cidr=dialect.strict_cidr)
    action = _action(tree["action"], f"{path}.action")
    args = _args(tree["args"], f"{path}.args") if "args" in tree else None
    actuator = _actuator(tree, path)
    command_id = _command_id(tree["command_id"], path) if "command_id" in tree else None
    # Last, because it alone may end in 501, and what is malformed is answered 400 first.
    target = _target(tree["target"], reading, f"{path}.target")
    notes = tuple(f"target {target.name} {masked}" for masked in sorted(reading.masked))
    return OpenC2Command(action, target, args, actuator, command_id, notes)


_MEMBERS = ("action", "target", "args", "actuator", "command_id")
_MEMBERS_WITH_PROFILE = (*_MEMBERS, "profile")
_ACTIONS = {action.value: action for action in Action}
_RESPONSE_TYPES = {kind.value: kind for kind in ResponseType}
_TIMES = ("start_time", "stop_time", "duration")
_ARGS = (*_TIMES, "response_requested")
_EXTENDED_TARGET = re.compile(
    r"(?!x-[^A-Za-z0-9])[A-Za-z0-9][A-Za-z0-9_-]*:[A-Za-z0-9][\w-]*", re.ASCII
)
_SUGGESTION_LENGTH = 64


def _no_such(what: str, name: str, known: Iterable[str]) -> str:
    """Word an unknown name, with the nearest known one."""
    near: list[str] = []
    if len(name) <= _SUGGESTION_LENGTH:
        near = difflib.get_close_matches(name.lower(), known, n=1)
    return f"there is no {what} {shown(name)}" + (f"; did you mean {near[0]!r}?" if near else "")


def _action(tree: Tree, path: str) -> Action:
    if not isinstance(tree, str):
        raise BadRequest(f"an action is one name, not {shown(tree)}", path=path)
    if tree not in _ACTIONS:
        raise BadRequest(_no_such("action", tree, _ACTIONS), path=path)
    return _ACTIONS[tree]


def _target(tree: Tree, reading: Reading, path: str) -> Target:
    if not isinstance(tree, dict) or len(tree) != 1:
        raise BadRequest("a target is an object with exactly one member", path=path)
    ((name, value),) = tree.items()
    where = inside(path, name)
    if name in TARGET_TYPES:
        refuse_nulls(value, where)
        return Target(name, from_tree(value, TARGET_TYPES[name], reading, where))
    if ":" in name:
        if not _EXTENDED_TARGET.fullmatch(name):
            raise BadRequest(f"{shown(name)} is no <nsid>:<name>", path=path)
        return Target(name, value)
    if nsid_problem(name) is None and isinstance(value, dict) and len(value) == 1:
        ((own, inner),) = value.items()  # the form of later drafts (AMB-29)
        return _target({f"{name}:{own}": inner}, reading, path)
    raise BadRequest(_no_such("target", name, TARGET_TYPES), path=path)


def _args(tree: Tree, path: str) -> Args:
    if not isinstance(tree, dict) or not tree:
        raise BadRequest("args are an object with at least one member", path=path)
    for name in _TIMES:
        if name in tree and (type(tree[name]) is not int or tree[name] < 0):
            where = f"{path}.{name}"
            raise BadRequest(f"milliseconds expected, not {shown(tree[name])}", path=where)
    start, stop, duration = (tree.get(name) for name in _TIMES)
    if start is not None and stop is not None:
        if duration is not None:
            raise BadRequest("start_time, stop_time and duration exclude each other", path=path)
        if stop < start:
            raise BadRequest("stop_time is before start_time", path=path)
    own = {name: value for name, value in tree.items() if name not in _ARGS}
    profiles = {name: value for name, value in own.items() if nsid_problem(name) is None}
    for nsid, value in profiles.items():
        if not isinstance(value, dict):
            raise BadRequest("the arguments of a profile are an object", path=f"{path}.{nsid}")
    wanted = _response_type(tree, path) if "response_requested" in tree else None
    unknown = tuple(name for name in own if name not in profiles)
    return Args(start, stop, duration, wanted, MappingProxyType(profiles), unknown)


def _response_type(args: dict[str, Tree], path: str) -> ResponseType:
    value = args["response_requested"]
    if not isinstance(value, str) or value not in _RESPONSE_TYPES:
        names = ", ".join(_RESPONSE_TYPES)
        where = f"{path}.response_requested"
        raise BadRequest(f"{shown(value)} is none of {names}", path=where)
    return _RESPONSE_TYPES[value]


def _actuator(command: dict[str, Tree], path: str) -> Specified | None:
    if "profile" in command and "actuator" in command:
        raise BadRequest("actuator and profile exclude each other", path=path)
    member = "profile" if "profile" in command else "actuator"
    if member not in command:
        return None
    tree = command[member]
    if member == "profile" and isinstance(tree, str):
        tree = {tree: {}}
    where = f"{path}.{member}"
    if not isinstance(tree, dict) or len(tree) != 1:
        raise BadRequest("exactly one profile is named here", path=where)
    ((nsid, specifiers),) = tree.items()
    if not nsid or not isinstance(specifiers, dict):
        raise BadRequest("a profile's name with an object of specifiers belongs here", path=where)
    return Specified(nsid, specifiers)


def _command_id(tree: Tree, path: str) -> str:
    try:
        return str(CommandId.read(tree, _PLAIN))
    except ValueError as error:
        raise BadRequest(str(error), path=f"{path}.command_id") from None


_PLAIN = Reading(Encoding.JSON)


def command_tree(command: OpenC2Command, encoding: Encoding) -> Tree:
    """Write a command in its canonical form; names in `Args.unknown` cannot be written."""
    target = command.target
    core = target.name in TARGET_TYPES
    tree: dict[str, Tree] = {
        "action": command.action.value,
        "target": {target.name: (extension_tree if core else _raw)(target.value, encoding)},
    }
    if command.args is not None and (args := _args_tree(command.args, encoding)):
        tree["args"] = args
    if command.actuator is not None:
        tree["actuator"] = {command.actuator.nsid: _raw(command.actuator.specifiers, encoding)}
    if command.command_id is not None:
        tree["command_id"] = command.command_id
    return tree


def _args_tree(args: Args, encoding: Encoding) -> dict[str, Tree]:
    tree: dict[str, Tree] = {}
    for name in _TIMES:
        if (value := getattr(args, name)) is not None:
            tree[name] = value
    if args.response_requested is not None:
        tree["response_requested"] = args.response_requested.value
    return {**tree, **{nsid: _raw(own, encoding) for nsid, own in args.profiles.items()}}


def fingerprint(tree: Tree, command: OpenC2Command | None) -> bytes:
    """Digest a request body for telling duplicates (AMB-21): 16 bytes.

    The same for the same command whatever its encoding, the order of its members and the spelling
    of its addresses. Without a command (it did not parse) the tree itself counts.
    """
    if command is None:
        tree = _raw(tree, Encoding.JSON)
    else:
        names = command.args.unknown if command.args else ()
        unknown = {name: _raw(tree["args"][name], Encoding.JSON) for name in names}
        tree = [command_tree(command, Encoding.JSON), unknown]
    return hashlib.blake2b(msgspec.json.encode(tree, order="sorted"), digest_size=16).digest()


def _raw(tree: Tree, encoding: Encoding) -> Tree:
    """Give a tree that nothing here has a type for; JSON has no byte strings."""
    if isinstance(tree, dict):
        return {name: _raw(value, encoding) for name, value in tree.items()}
    if isinstance(tree, list):
        return [_raw(value, encoding) for value in tree]
    return Binary(tree).tree(encoding) if isinstance(tree, bytes) else tree
