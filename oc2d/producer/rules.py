"""What a Producer must not send although its structure is right, and the words of slpf.

The language's own types check structure and values; here is what the conformance clauses for
Producers add (LANG-57, 59; SLPF-26, 43, 46, 60; AMB-34).
"""

from __future__ import annotations

import contextlib
import difflib
from collections.abc import Callable
from typing import Annotated, Literal

import msgspec

from oc2d.errors import BadRequest, NotSupported, UsageError
from oc2d.language.codec import Encoding, Tree
from oc2d.language.command import (
    Dialect,
    OpenC2Command,
    command_tree,
    decode_extension,
    parse_command,
)
from oc2d.language.features import is_query_features
from oc2d.language.targets import TARGET_TYPES
from oc2d.language.vocabulary import Action, L4Protocol, ResponseType

__all__ = ["checked"]

_RuleNumber = Annotated[int, msgspec.Meta(ge=1, le=2**31 - 1)]
_RULE = "slpf:rule_number"


class _Arguments(msgspec.Struct, frozen=True):
    drop_process: Literal["none", "reject", "false_ack"] | msgspec.UnsetType = msgspec.UNSET
    persistent: bool | msgspec.UnsetType = msgspec.UNSET
    direction: Literal["both", "ingress", "egress"] | msgspec.UnsetType = msgspec.UNSET
    insert_rule: _RuleNumber | msgspec.UnsetType = msgspec.UNSET


class _Specifiers(msgspec.Struct, frozen=True):
    hostname: str | msgspec.UnsetType = msgspec.UNSET
    named_group: str | msgspec.UnsetType = msgspec.UNSET
    asset_id: str | msgspec.UnsetType = msgspec.UNSET
    asset_tuple: Annotated[list[str], msgspec.Meta(min_length=1, max_length=10)] | (
        msgspec.UnsetType
    ) = msgspec.UNSET


def checked(tree: Tree, encoding: Encoding, warn: Callable[[str], None] = lambda _: None) -> Tree:
    """Check a command, and give it as it goes out: the target in its canonical form.

    `tree` is JSON, whatever `encoding` it goes out in. `warn` hears what is odd but legal. Raises
    `BadRequest`, `NotSupported` (structure, values) and `UsageError` (rules for Producers).
    """
    try:
        command = _parse(tree)
    except BadRequest as error:
        raise BadRequest(error.text + _hint(tree)) from None
    for note in command.notes:
        warn(note)
    _check_slpf(command)
    for rule in (_extended_args, _query, _insert, _drop, _ports, _delete, _update):
        rule(command, warn)
    return {**tree, "target": command_tree(command, encoding)["target"]}


def _parse(tree: Tree) -> OpenC2Command:
    return parse_command(tree, Encoding.JSON, Dialect(), path="command")


def _hint(tree: Tree) -> str:
    """Name what was probably meant: the other address family, or a member spelt right."""
    target = tree.get("target") if isinstance(tree, dict) else None
    if not isinstance(target, dict) or len(target) != 1:
        return ""
    ((name, value),) = target.items()
    other = name.replace("v4", "v6") if "v4" in name else name.replace("v6", "v4")
    if other != name:
        with contextlib.suppress(BadRequest, NotSupported):
            _parse({"action": "deny", "target": {other: value}})
            return f"; did you mean {other}?"
    known = getattr(TARGET_TYPES.get(name), "__struct_fields__", ())
    for member in value if isinstance(value, dict) else ():
        if member not in known:
            near = difflib.get_close_matches(member, known, n=1)
            return f"; did you mean {near[0]}?" if near else f"; it has {', '.join(known)}"
    return ""


def _check_slpf(command: OpenC2Command) -> None:
    """Check the values of the one profile whose words are known here."""
    name = command.target.name
    if name.startswith("slpf:") and name != _RULE:
        raise UsageError(f"slpf has no target {name!r}; did you mean {_RULE}?")
    for present, value, type_, path in (
        (command.target.name == _RULE, command.target.value, _RuleNumber, f"target.{_RULE}"),
        ("slpf" in _own(command), _own(command).get("slpf"), _Arguments, "args.slpf"),
        (_profile(command) == "slpf", _specifiers(command), _Specifiers, "actuator.slpf"),
    ):
        if present:
            decode_extension(value, type_, Encoding.JSON, path=f"command.{path}")


def _own(command: OpenC2Command) -> dict[str, Tree]:
    return dict(command.args.profiles) if command.args else {}


def _profile(command: OpenC2Command) -> str | None:
    return command.actuator.nsid if command.actuator else None


def _specifiers(command: OpenC2Command) -> Tree:
    return command.actuator.specifiers if command.actuator else None


def _response(command: OpenC2Command) -> ResponseType | None:
    return command.args.response_requested if command.args else None


def _only_response(command: OpenC2Command, *allowed: ResponseType) -> bool:
    """Whether there is no argument but `response_requested`, absent or one of these."""
    args = command.args
    return args is None or (args.only_response and args.response_requested in (None, *allowed))


def _extended_args(command: OpenC2Command, _: Callable[[str], None]) -> None:
    if command.args and command.args.unknown:
        names = ", ".join(map(repr, command.args.unknown))
        raise UsageError(
            f"no argument {names}: further ones belong to a profile (--arg NSID.NAME=…)"
        )


def _query(command: OpenC2Command, _: Callable[[str], None]) -> None:
    if is_query_features(command) and not _only_response(command, ResponseType.COMPLETE):
        raise UsageError("query features takes no argument but response_requested complete")


def _insert(command: OpenC2Command, _: Callable[[str], None]) -> None:
    inserts = "insert_rule" in _own(command).get("slpf", {})
    if inserts and _response(command) is not ResponseType.COMPLETE:
        raise UsageError("insert_rule needs response_requested complete (--response complete)")


def _drop(command: OpenC2Command, _: Callable[[str], None]) -> None:
    drops = "drop_process" in _own(command).get("slpf", {})
    if drops and command.action is not Action.DENY:
        raise UsageError("drop_process goes with deny only")


def _ports(command: OpenC2Command, _: Callable[[str], None]) -> None:
    target = command.target.value
    icmp = getattr(target, "protocol", None) is L4Protocol.ICMP
    if icmp and (target.src_port, target.dst_port) != (None, None):
        raise UsageError("icmp has no ports: leave out src_port and dst_port")


def _delete(command: OpenC2Command, _: Callable[[str], None]) -> None:
    deletes = command.action is Action.DELETE and command.target.name == _RULE
    if deletes and not _only_response(command, ResponseType.COMPLETE):
        raise UsageError(f"delete {_RULE} takes no argument but response_requested complete")


def _update(command: OpenC2Command, warn: Callable[[str], None]) -> None:
    updates = command.action is Action.UPDATE and command.target.name == "file"
    if not updates or _profile(command) not in (None, "slpf"):
        return
    if command.target.value.name is None:
        raise UsageError("update file needs name=…")
    if command.target.value.path is None:
        warn("update file without path=…: the Consumer has to know where the file is")
    allowed = (ResponseType.COMPLETE, ResponseType.ACK, ResponseType.NONE)
    if not _only_response(command, *allowed):
        raise UsageError(
            "update file takes no argument but response_requested complete, ack or none"
        )
