"""The words of pf, and a command of pf as what slpf's engine understands. Pure."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Annotated, Any

import msgspec

from oc2d.actuator import Command, Reason
from oc2d.errors import BadRequest, Failed, NotSupported, Refusal
from oc2d.language.targets import IPv4Connection, IPv6Connection
from oc2d.language.values import DomainName, IPv4Net, IPv6Net
from oc2d.language.vocabulary import Action, L4Protocol
from oc2d_slpf import language as slpf
from oc2d_slpf.language import DropProcess
from oc2d_slpf.rules import Direction

__all__ = [
    "ARGUMENT",
    "HIGHEST",
    "IN_USE",
    "MAX_NUMBER",
    "NOT_IMPLEMENTED",
    "NOT_REMOVED",
    "SLOTS",
    "AdvancedConnection",
    "Args",
    "EngineArgs",
    "Insertion",
    "Results",
    "RuleNumber",
    "Target",
    "engine_args",
    "engine_number",
    "engine_targets",
    "host_target",
    "masked",
    "read_args",
    "refusal",
    "reworded",
]

# PF-8: a status text starts with exactly one of these.
ARGUMENT = "Argument not supported"
COMMAND = "Command not supported"
IN_USE = slpf.IN_USE
NOT_IMPLEMENTED = "Rule not implemented"
NOT_REMOVED = "Firewall rule not removed or updated"
TARGET = "Target not supported"
TARGET_TYPE = slpf.TARGET_TYPE
_REWORDED = {
    slpf.OPTION: ARGUMENT,
    slpf.NOT_UPDATED: NOT_IMPLEMENTED,
    slpf.NOT_REMOVED: NOT_REMOVED,
}

#: Places in the order of the engine that one rule has (PF-34): a name has several addresses.
SLOTS = 64
#: The largest number that tells a place of its own (PF-34), and the largest there is.
MAX_NUMBER = (2**31 - 1) // SLOTS
HIGHEST = 2**31 - 1
_LONGEST_DESCRIPTION = 1024

Insertion = Annotated[int, msgspec.Meta(ge=1, le=MAX_NUMBER)]
RuleNumber = Annotated[int, msgspec.Meta(ge=1, le=HIGHEST)]
_Port = Annotated[int, msgspec.Meta(ge=0, le=65535)]
_Description = Annotated[str, msgspec.Meta(max_length=_LONGEST_DESCRIPTION)]


class Args(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """`args.pf`; what is absent is told from what is given."""

    drop_process: DropProcess | msgspec.UnsetType = msgspec.UNSET
    persistent: bool = True
    direction: Direction = Direction.INGRESS
    insert_rule: Insertion | msgspec.UnsetType = msgspec.UNSET
    logged: bool = False
    description: _Description | msgspec.UnsetType = msgspec.UNSET
    stateful: bool = False
    priority: int | msgspec.UnsetType = msgspec.UNSET


class EngineArgs(slpf.Args, frozen=True, omit_defaults=True):
    """What the engine is told of a rule beyond what slpf can say; `logged`: the number to log."""

    stateful: bool = False
    logged: int | None = None


class AdvancedConnection(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`pf:advanced_connection`; null is any, as absent (PF-25)."""

    src_addr: str | None = None
    src_port: _Port | None = None
    dst_addr: str | None = None
    dst_port: _Port | None = None
    protocol: L4Protocol | None = None
    network: str | None = None
    application: str | None = None


class Results(msgspec.Struct, frozen=True, omit_defaults=True):
    """`results.pf`: the number alone for allow and deny, all of the rule for a query."""

    rule_number: int
    action: Action | None = None
    ipv4_net: Any = None
    ipv6_net: Any = None
    ipv4_connection: Any = None
    ipv6_connection: Any = None
    domain_name: Any = None
    advanced_connection: Any = None
    args: dict[str, Any] | None = None


#: What the engine is given for a rule of pf: the name of a core target and its value.
Target = tuple[str, IPv4Net | IPv6Net | IPv4Connection | IPv6Connection]


def engine_number(place: int, slot: int) -> int:
    """Return the engine's number for a slot of the rule at a place; lower slots come last."""
    return place * SLOTS - slot


def engine_args(args: Args, place: int, number: int) -> EngineArgs:
    """Turn the arguments into the engine's, for one place of a rule; raises `NotSupported`."""
    if args.stateful and args.drop_process is DropProcess.FALSE_ACK:
        raise NotSupported(f"{ARGUMENT}: drop_process false_ack does not go with stateful")
    logged = number if args.logged else None
    return EngineArgs(
        args.drop_process, args.persistent, args.direction, place, args.stateful, logged
    )


def read_args(tree: dict[str, Any]) -> Args:
    """Read arguments that were kept."""
    return msgspec.convert(tree, Args)


def engine_targets(command: Command) -> tuple[Target, ...]:
    """Return what the engine is given for a target that needs no look-up; of a name: nothing."""
    target = command.target
    if isinstance(target, DomainName):
        return ()
    if isinstance(target, AdvancedConnection):
        return tuple(_advanced(target))
    return ((command.target_name, target),)


def host_target(address: IPv4Address | IPv6Address) -> Target:
    """Return the traffic from and to one host."""
    return f"ipv{address.version}_net", _net(ip_network(address))


def _net(network: IPv4Network | IPv6Network) -> IPv4Net | IPv6Net:
    return IPv4Net(network) if isinstance(network, IPv4Network) else IPv6Net(network)


def _advanced(target: AdvancedConnection) -> list[Target]:
    if target == AdvancedConnection():
        raise BadRequest("advanced_connection needs a member")
    for name in ("network", "application"):
        if getattr(target, name) is not None:
            raise NotSupported(f"{NOT_IMPLEMENTED}: this filter knows no {name} by name")
    source, destination = _network(target.src_addr), _network(target.dst_addr)
    versions = {network.version for network in (source, destination) if network is not None}
    if len(versions) > 1:
        raise BadRequest("src_addr and dst_addr are of different families")
    members = {
        "src_addr": None if source is None else _net(source),
        "src_port": target.src_port,
        "dst_addr": None if destination is None else _net(destination),
        "dst_port": target.dst_port,
        "protocol": target.protocol,
    }
    kinds: dict[int, Any] = {4: IPv4Connection, 6: IPv6Connection}
    wanted = versions or kinds  # without an address: both families
    return [(f"ipv{version}_connection", kinds[version](**members)) for version in wanted]


def masked(target: object) -> list[str]:
    """Say which ranges lost their host bits, as of targets that the core reads (AMB-31)."""
    if not isinstance(target, AdvancedConnection):
        return []
    found = []
    for text in (target.src_addr, target.dst_addr):
        network = _network(text)
        if text and network and ip_address(text.partition("/")[0]) != network.network_address:
            found.append(f"target pf:advanced_connection {text} taken as {network}")
    return found


def _network(text: str | None) -> IPv4Network | IPv6Network | None:
    """Read an address; anything else is a tag, and nothing here has tags (PF-26)."""
    if text is None:
        return None
    try:
        if "%" in text or ("/" in text and not text.rpartition("/")[2].isdecimal()):
            raise ValueError
        return ip_network(text, strict=False)
    except ValueError:
        raise NotSupported(f"{NOT_IMPLEMENTED}: this filter knows no address by a tag") from None


def reworded(refusal: Refusal) -> Refusal:
    """Say what the engine said in the words of pf (PF-8)."""
    text = refusal.text
    for old, new in _REWORDED.items():
        if text.startswith(old):
            text = new + text.removeprefix(old)
    if text.startswith(IN_USE):
        return Failed(text)
    return type(refusal)(text)


def refusal(reason: Reason, action: Action) -> str:
    """Word the engine's own refusals."""
    if reason is Reason.OPTION:
        return ARGUMENT
    if reason is Reason.WINDOW_OVER:
        return f"{NOT_IMPLEMENTED}: time window is over"
    if action in {Action.ALLOW, Action.DENY}:
        return TARGET_TYPE
    return TARGET if action is Action.DELETE else COMMAND
