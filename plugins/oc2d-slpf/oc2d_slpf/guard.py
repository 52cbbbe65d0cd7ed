"""What stays open whatever the rules say, and what that means for a command (AMB-57). Pure.

Open are, ahead of every numbered rule: loopback, the broker's endpoints, `never_block`, and IPv6
neighbour and router discovery. A 200 must be true, so it names what of this its rule would hit.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from ipaddress import ip_network

from oc2d_slpf.backend import Permit
from oc2d_slpf.rules import Match, Network

__all__ = ["Guard"]

_LOOPBACK = (ip_network("127.0.0.0/8"), ip_network("::1/128"))
_ICMP6 = 58
_IPV6 = 6


@dataclass(frozen=True, slots=True)
class Guard:
    """The management set: `never_block`, addresses of this host, endpoints of the broker."""

    never_block: tuple[Network, ...] = ()
    local: tuple[Network, ...] = ()
    permits: Collection[Permit] = ()

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
        found = [f"never_block {net}" for net in self.never_block if _touches(match, (net,), ())]
        here = [net for net in (*_LOOPBACK, *self.local) if net.version == match.version]
        if _touches(match, here, here):
            found.append("loopback")
        found += [
            f"broker {permit.address} port {permit.port}"
            for permit in sorted(self.permits, key=lambda permit: (permit.address, permit.port))
            if self._hits_broker(match, permit)
        ]
        ports = (match.source_port, match.destination_port)
        if match.version == _IPV6 and match.protocol in (None, _ICMP6) and ports == (None, None):
            found.append("IPv6 neighbour and router discovery")
        return found

    def _hits_broker(self, match: Match, permit: Permit) -> bool:
        """Compare with a packet from the endpoint to us, and with one from us to the endpoint."""
        if match.protocol not in (None, permit.protocol):
            return False
        there = (ip_network(permit.address),)
        here = [net for net in self.local if net.version == permit.version]
        arrives = match.source_port in (None, permit.port) and _flows(match, there, here)
        leaves = match.destination_port in (None, permit.port) and _flows(match, here, there)
        return arrives or leaves


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
