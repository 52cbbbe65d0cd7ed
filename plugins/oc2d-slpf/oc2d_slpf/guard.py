"""What stays open whatever the rules say, and what that means for a command (AMB-57). Pure.

Open are, ahead of every numbered rule: loopback, the endpoints of the broker and of the name
servers with the ICMP errors about them that path MTU discovery needs, `never_block`, and
`OPENINGS`. A 200 must be true, so it names what of this its rule would hit.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from ipaddress import ip_network

from oc2d_slpf.backend import Permit
from oc2d_slpf.rules import Match, Network

__all__ = ["OPENINGS", "TOO_BIG", "Guard", "Icmp", "Opening"]

_LOOPBACK = (ip_network("127.0.0.0/8"), ip_network("::1/128"))
_UDP = 17
_ICMP = 1
_ICMP6 = 58


@dataclass(frozen=True, slots=True)
class Icmp:
    """Kinds of ICMP or ICMPv6 messages; `code` None is any."""

    types: tuple[int, ...]
    code: int | None = None


@dataclass(frozen=True, slots=True)
class Opening:
    """What this host itself receives and sends ahead of every numbered rule, with any address.

    Never what it forwards: a packet that arrives is for this host, or is broad- or multicast.
    """

    title: str
    version: int
    protocol: int
    there: int | None = None
    """Port of the other side."""
    here: int | None = None
    """Port of this host."""
    icmp: Icmp | None = None
    hop_limit: int | None = None
    near: tuple[Network, ...] = ()
    """A rule is said to hit it when it is about these or this host; none: about any address."""


OPENINGS = (
    Opening("DHCP", 4, _UDP, there=67, here=68, near=(ip_network("255.255.255.255"),)),
    Opening("DHCPv6", 6, _UDP, there=547, here=546, near=(ip_network("ff02::1:2"),)),
    # RFC 4861: solicitations and advertisements of routers and neighbours; no redirects. With hop
    # limit 255 nobody beyond the link sent it.
    Opening(
        "IPv6 neighbour and router discovery",
        6,
        _ICMP6,
        icmp=Icmp((133, 134, 135, 136)),
        hop_limit=255,
    ),
)
#: By IP version, the protocol and kind of the errors that path MTU discovery lives by:
#: "fragmentation needed" and "packet too big". They pass towards this host when they quote a
#: packet that it sent to a permitted endpoint.
TOO_BIG = {4: (_ICMP, Icmp((3,), 4)), 6: (_ICMP6, Icmp((2,)))}


@dataclass(frozen=True)
class Guard:
    """The management set: `never_block`, addresses of this host, endpoints of broker and DNS."""

    never_block: tuple[Network, ...] = ()
    local: tuple[Network, ...] = ()
    permits: Collection[Permit] = ()
    resolvers: Collection[Permit] = ()

    @property
    def endpoints(self) -> frozenset[Permit]:
        """All that the packet filter is to permit."""
        return frozenset(self.permits) | frozenset(self.resolvers)

    def protects(self, match: Match) -> bool:
        """Tell whether the match is wholly inside `never_block`: a deny would do nothing."""
        ranges = (match.either, match.source, match.destination)
        return any(
            _inside(network, open_net)
            for network in ranges
            if network is not None
            for open_net in self.never_block
        )

    def stays_open(self, match: Match) -> list[str]:
        """Name what of the management set a deny of this match would have hit."""
        if self._is_elsewhere(match):
            return [one.title for one in OPENINGS if not one.near and _opens(one, match)]
        found = [f"never_block {net}" for net in self.never_block if _touches(match, (net,), ())]
        here = [net for net in (*_LOOPBACK, *self.local) if net.version == match.version]
        if _touches(match, here, here):
            found.append("loopback")
        found += [
            f"broker {permit.address} port {permit.port}"
            for permit in sorted(self.permits, key=lambda permit: (permit.address, permit.port))
            if self._hits(match, permit)
        ]
        servers = {permit.address for permit in self.resolvers if self._hits(match, permit)}
        found += [f"DNS server {address}" for address in sorted(servers)]
        found += [opening.title for opening in OPENINGS if self._hits_opening(match, opening)]
        return found

    def _is_elsewhere(self, match: Match) -> bool:
        """Tell quickly whether all addresses of the match are neither ours nor in the set."""
        given = (match.either,) if match.either is not None else (match.source, match.destination)
        for network in given:
            if network is None:
                return False
            first = int(network.network_address)
            # `broadcast_address` is cached behind a lock
            last = first | (1 << network.max_prefixlen - network.prefixlen) - 1
            if any(first <= end and start <= last for start, end in self._places[match.version]):
                return False
        return True

    @cached_property
    def _places(self) -> Mapping[int, list[tuple[int, int]]]:
        """First and last address, by IP version, of all networks that the answers depend on."""
        networks = [*_LOOPBACK, *self.local, *self.never_block]
        networks += [ip_network(permit.address) for permit in self.endpoints]
        networks += [network for opening in OPENINGS for network in opening.near]
        places: dict[int, list[tuple[int, int]]] = {4: [], 6: []}
        for network in networks:
            ends = (int(network.network_address), int(network.broadcast_address))
            places[network.version].append(ends)
        return places

    def _hits_opening(self, match: Match, opening: Opening) -> bool:
        if not _opens(opening, match):
            return False
        here = [net for net in self.local if net.version == opening.version]
        return not opening.near or _touches(match, (*opening.near, *here), ())

    def _hits(self, match: Match, permit: Permit) -> bool:
        """Compare with a packet from the endpoint to us, and with one from us to the endpoint."""
        if match.protocol not in (None, permit.protocol):
            return False
        there = (ip_network(permit.address),)
        here = [net for net in self.local if net.version == permit.version]
        arrives = match.source_port in (None, permit.port) and _flows(match, there, here)
        leaves = match.destination_port in (None, permit.port) and _flows(match, here, there)
        return arrives or leaves


def _opens(opening: Opening, match: Match) -> bool:
    """Tell whether protocol and ports may be those of a packet of the opening, either way."""
    if match.version != opening.version or match.protocol not in (None, opening.protocol):
        return False
    ports = (match.source_port, match.destination_port)
    if opening.icmp is not None:
        return ports == (None, None)
    ways = ((opening.there, opening.here), (opening.here, opening.there))
    return any(
        all(asked in (None, used) for asked, used in zip(ports, way, strict=True)) for way in ways
    )


def _inside(network: Network, other: Network) -> bool:
    return network.version == other.version and network.subnet_of(other)  # type: ignore[arg-type]  # one version, just compared


def _meet(network: Network | None, others: Iterable[Network]) -> bool:
    """Tell whether the ranges overlap; no range is every address."""
    return network is None or any(
        network.version == other.version and network.overlaps(other) for other in others
    )


def _flows(match: Match, sources: Sequence[Network], destinations: Sequence[Network]) -> bool:
    """Tell whether the addresses of a packet from one of these to one of those may match."""
    if match.version != (sources or destinations)[0].version:
        return False
    if match.either is not None:
        return _meet(match.either, sources) or _meet(match.either, destinations)
    return _meet(match.source, sources) and _meet(match.destination, destinations)


def _touches(match: Match, ends: Sequence[Network], others: Sequence[Network]) -> bool:
    """Tell whether packets may match that have one of `ends` on one side (both: with `others`)."""
    if not ends or ends[0].version != match.version:
        return False
    if match.either is not None:
        return _meet(match.either, ends)
    if others:
        return _meet(match.source, ends) and _meet(match.destination, others)
    return _meet(match.source, ends) or _meet(match.destination, ends)
