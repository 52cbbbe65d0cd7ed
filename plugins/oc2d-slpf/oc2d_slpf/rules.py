"""What a rule is: which packets it matches, cut into a shape and a key. Pure.

Two rules of one *shape* test the same fields with the same prefix lengths, so both fit into one
hash set; their *keys* are the values of those fields, already masked.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import NamedTuple

__all__ = [
    "FIRST_AUTOMATIC",
    "MAX_NUMBER",
    "PORT_PROTOCOLS",
    "Alike",
    "Direction",
    "Key",
    "Match",
    "Network",
    "Rule",
    "Shape",
    "Verdict",
    "alike",
    "decode",
    "describe",
    "encode",
    "unpack",
]

Network = IPv4Network | IPv6Network
Key = bytes

#: The largest rule number (SLPF-25).
MAX_NUMBER = 2**31 - 1
#: Automatic numbers count down from here: the newest is ahead of older ones (AMB-39).
FIRST_AUTOMATIC = 1_000_000_000
#: tcp, udp, sctp: what ports without a protocol match (AMB-55).
PORT_PROTOCOLS = (6, 17, 132)
_PROTOCOL_NAMES = {1: "icmp", 58: "icmp", 6: "tcp", 17: "udp", 132: "sctp"}


class Verdict(str, Enum):
    """What happens to a packet; consecutive rules of one verdict form a tier."""

    ALLOW = "allow"
    DROP = "drop"
    REJECT = "reject"
    FALSE_ACK = "false_ack"

    __hash__ = str.__hash__  # Enum's is Python code, and these are in the keys of every dict


class Direction(str, Enum):
    """Which lists a rule stands in (SLPF-14): ingress, egress, or both under one number."""

    BOTH = "both"
    INGRESS = "ingress"
    EGRESS = "egress"

    __hash__ = str.__hash__


@dataclass(frozen=True, slots=True)
class Match:
    """Which packets a rule is about; an absent field matches any value (SLPF-29).

    `either` is an address range that matches as source or as destination (SLPF-31); it stands
    alone. Ports without a protocol match `PORT_PROTOCOLS` only.
    """

    version: int
    either: Network | None = None
    source: Network | None = None
    destination: Network | None = None
    protocol: int | None = None
    source_port: int | None = None
    destination_port: int | None = None


class Shape(NamedTuple):
    """Which fields a rule tests; addresses by their prefix lengths."""

    direction: Direction
    version: int
    either: int | None
    source: int | None
    destination: int | None
    protocol: bool
    source_port: bool
    destination_port: bool

    @property
    def fields(self) -> int:
        """How many values a key has; none: every packet of the address family."""
        prefixes = (self.either, self.source, self.destination)
        flags = (self.protocol, self.source_port, self.destination_port)
        return sum(prefix is not None for prefix in prefixes) + sum(flags)

    @property
    def name(self) -> str:
        """The shape as a word, for the store and the names of sets: `both_ip4_s24_p_dp`."""
        return _name(self)

    @staticmethod
    @lru_cache(maxsize=1024)
    def parse(name: str) -> Shape:
        """Read `name` back; the cache lets equal shapes share one object. Raises ValueError."""
        found = _SHAPE.fullmatch(name)
        if found is None:
            raise ValueError(f"not the name of a shape: {name!r}")
        either, source, destination = (_int(found[group]) for group in (3, 4, 5))
        flags = (found[6] is not None, found[7] is not None, found[8] is not None)
        return Shape(Direction(found[1]), int(found[2]), either, source, destination, *flags)


@lru_cache(maxsize=1024)
def _name(shape: Shape) -> str:
    words = [shape.direction.value, f"ip{shape.version}"]
    for letter, prefix in zip("nsd", (shape.either, shape.source, shape.destination), strict=True):
        if prefix is not None:
            words.append(f"{letter}{prefix}")
    flags = (shape.protocol, shape.source_port, shape.destination_port)
    words += [word for word, flag in zip(("p", "sp", "dp"), flags, strict=True) if flag]
    return "_".join(words)


def _int(text: str | None) -> int | None:
    return None if text is None else int(text)


_SHAPE = re.compile(
    r"(both|ingress|egress)_ip([46])(?:_n(\d+))?(?:_s(\d+))?(?:_d(\d+))?(_p)?(_sp)?(_dp)?"
)


class Rule(NamedTuple):
    """One rule. The number is both its identity and its place: lower is evaluated first."""

    number: int
    verdict: Verdict
    shape: Shape
    key: Key


class Alike(NamedTuple):
    """Rules of one shape and one verdict: their numbers, descending, and the key of each.

    100 000 rules are read at start; as lists, not as objects, that takes a tenth of a second.
    """

    shape: Shape
    verdict: Verdict
    numbers: list[int]
    keys: list[Key]


def alike(rules: Iterable[Rule]) -> list[Alike]:
    """Put rules together by shape and verdict."""
    found: dict[tuple[Shape, Verdict], Alike] = {}
    for number, verdict, shape, key in sorted(rules, reverse=True):
        group = found.get((shape, verdict))
        if group is None:
            group = found[shape, verdict] = Alike(shape, verdict, [], [])
        group.numbers.append(number)
        group.keys.append(key)
    return list(found.values())


def encode(match: Match, direction: Direction) -> tuple[Shape, Key]:
    """Cut a match into shape and key. A range of prefix length 0 is the same as no range."""
    ranges = [
        None if network is None or network.prefixlen == 0 else network
        for network in (match.either, match.source, match.destination)
    ]
    prefixes = [None if network is None else network.prefixlen for network in ranges]
    shape = Shape(
        direction,
        match.version,
        prefixes[0],
        prefixes[1],
        prefixes[2],
        match.protocol is not None,
        match.source_port is not None,
        match.destination_port is not None,
    )
    key = b"".join(network.network_address.packed for network in ranges if network is not None)
    if match.protocol is not None:
        key += match.protocol.to_bytes(1, "big")
    for port in (match.source_port, match.destination_port):
        if port is not None:
            key += port.to_bytes(2, "big")
    return Shape.parse(shape.name), key


def unpack(shape: Shape, key: Key) -> list[str]:
    """Return the values of a key as text, in the order of the shape's fields."""
    family, length = (socket.AF_INET, 4) if shape.version == 4 else (socket.AF_INET6, 16)  # noqa: PLR2004 - the IP versions are their own names
    values: list[str] = []
    at = 0
    for prefix in (shape.either, shape.source, shape.destination):
        if prefix is not None:
            values.append(socket.inet_ntop(family, key[at : at + length]))
            at += length
    if shape.protocol:
        values.append(str(key[at]))
        at += 1
    while at < len(key):
        values.append(str(int.from_bytes(key[at : at + 2], "big")))
        at += 2
    return values


def decode(shape: Shape, key: Key) -> Match:
    """Undo `encode`."""
    values = iter(unpack(shape, key))
    ranges = [
        None if prefix is None else ip_network(f"{next(values)}/{prefix}")
        for prefix in (shape.either, shape.source, shape.destination)
    ]
    flags = (shape.protocol, shape.source_port, shape.destination_port)
    numbers = [int(next(values)) if flag else None for flag in flags]
    return Match(shape.version, ranges[0], ranges[1], ranges[2], *numbers)


def describe(shape: Shape, key: Key) -> str:
    """Say in a Producer's words what a rule matches: `ipv4_connection protocol=tcp dst_port=22`."""
    match = decode(shape, key)
    family = f"ipv{match.version}"
    if shape.fields == 0:
        return f"{family}_net {'0.0.0.0' if match.version == 4 else '::'}/0"  # noqa: PLR2004, S104 - as above
    if match.either is not None:
        return f"{family}_net {match.either}"
    protocol = None if match.protocol is None else _PROTOCOL_NAMES[match.protocol]
    members = {
        "src_addr": match.source,
        "src_port": match.source_port,
        "dst_addr": match.destination,
        "dst_port": match.destination_port,
        "protocol": protocol,
    }
    given = (f"{name}={value}" for name, value in members.items() if value is not None)
    return f"{family}_connection {' '.join(given)}"
