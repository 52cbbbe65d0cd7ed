"""The words of slpf: arguments, results, and a command turned into the match of a rule. Pure."""

from __future__ import annotations

from enum import Enum
from typing import Annotated

import msgspec

from oc2d.actuator import Command
from oc2d.errors import BadRequest, NotSupported
from oc2d.language.targets import IPv4Connection, IPv6Connection
from oc2d.language.values import IPv4Net, IPv6Net
from oc2d.language.vocabulary import Action, L4Protocol
from oc2d_slpf.rules import MAX_NUMBER, Direction, Match, Verdict

__all__ = [
    "COMMAND",
    "IN_USE",
    "NONE_LEFT",
    "NOT_REMOVED",
    "NOT_UPDATED",
    "NO_ACCESS",
    "OPTION",
    "TARGET",
    "TARGET_TYPE",
    "Args",
    "DropProcess",
    "Results",
    "RuleNumber",
    "match_of",
    "verdict_of",
]

# REQUIREMENTS 3.8: a status text starts with exactly one of these.
OPTION = "Option not supported"
TARGET_TYPE = "Target type not supported"
NOT_UPDATED = "Rule not updated"
IN_USE = "Rule number currently in use"
TARGET = "target not supported"
NOT_REMOVED = "firewall rule not removed or updated"
NONE_LEFT = f"{NOT_UPDATED}: no automatic number is left; give insert_rule"
COMMAND = "Command not supported"
NO_ACCESS = "cannot access file"

#: SLPF-25; strict decoding keeps booleans and text out.
RuleNumber = Annotated[int, msgspec.Meta(ge=1, le=MAX_NUMBER)]

_ICMP6 = 58


class DropProcess(str, Enum):
    """What the source of a denied packet is told (SLPF-16)."""

    NONE = "none"
    REJECT = "reject"
    FALSE_ACK = "false_ack"


class Args(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """`args.slpf`. Absent `drop_process` is told from none: with allow it may not be given."""

    drop_process: DropProcess | msgspec.UnsetType = msgspec.UNSET
    persistent: bool = True
    direction: Direction = Direction.BOTH
    insert_rule: RuleNumber | msgspec.UnsetType = msgspec.UNSET


class Results(msgspec.Struct, frozen=True):
    """`results.slpf`."""

    rule_number: int


def verdict_of(command: Command) -> Verdict:
    """Return what an allow or deny command wants; raises `NotSupported` (SLPF-11, SLPF-17)."""
    how = command.args.drop_process
    if command.action is Action.ALLOW:
        if how is not msgspec.UNSET:
            raise NotSupported(f"{OPTION}: drop_process does not go with allow")
        return Verdict.ALLOW
    if how is DropProcess.FALSE_ACK:
        tcp = getattr(command.target, "protocol", None) is L4Protocol.TCP
        if not tcp or command.args.direction is not Direction.INGRESS:
            raise NotSupported(
                f"{OPTION}: drop_process false_ack goes with protocol tcp and direction ingress"
            )
        return Verdict.FALSE_ACK
    return Verdict.REJECT if how is DropProcess.REJECT else Verdict.DROP


def match_of(target: object) -> Match:
    """Return which packets a target means; raises `BadRequest` for ports of icmp (AMB-34)."""
    match target:
        case IPv4Net() | IPv6Net():
            return Match(target.network.version, either=target.network)
        case IPv4Connection() | IPv6Connection():
            return _connection(target)
    raise NotSupported(TARGET_TYPE)


def _connection(target: IPv4Connection | IPv6Connection) -> Match:
    version = 4 if isinstance(target, IPv4Connection) else 6
    protocol = None if target.protocol is None else target.protocol.number
    if target.protocol is L4Protocol.ICMP:
        if (target.src_port, target.dst_port) != (None, None):
            raise BadRequest("icmp has no ports: leave out src_port and dst_port")
        if isinstance(target, IPv6Connection):
            protocol = _ICMP6  # AMB-46
    return Match(
        version,
        source=None if target.src_addr is None else target.src_addr.network,
        destination=None if target.dst_addr is None else target.dst_addr.network,
        protocol=protocol,
        source_port=target.src_port,
        destination_port=target.dst_port,
    )
