"""What passes ahead of every rule, as tests of iptables. Pure.

The management set is data of `guard`; here is what it means in the chains INPUT, FORWARD and
OUTPUT. Each string is what stands between the chain and the target of a rule, with a leading blank.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from ipaddress import ip_address

from oc2d_slpf.backend import Permit
from oc2d_slpf.guard import OPENINGS, TOO_BIG, Icmp, Opening
from oc2d_slpf.rules import PORT_PROTOCOLS, Network

__all__ = ["Guarded", "with_ports"]

# protocols that have ports, and the module that tests them
_MODULES = dict(zip(PORT_PROTOCOLS, ("tcp", "udp", "sctp"), strict=True))
_ICMP = {4: "-m icmp --icmp-type", 6: "-m icmp6 --icmpv6-type"}
_HOP_LIMIT = {4: "-m ttl --ttl-eq", 6: "-m hl --hl-eq"}
_HERE = " -m addrtype --dst-type LOCAL"  # INPUT sees broad- and multicast too
# where the module u32 finds what an ICMP error quotes: before its offsets, and words of the
# destination, the word that ends with the protocol, the one that ends with the destination port
_QUOTED = {
    4: ("0>>22&0x3C@", (24,), 14, 28),
    6: ("", (72, 76, 80, 84), 51, 88),
}


@dataclass(frozen=True, slots=True)
class Guarded:
    """The management set for one address family; `never_block` may hold both."""

    version: int
    never_block: Sequence[Network] = ()

    def arriving(self, permits: Iterable[Permit]) -> Iterator[str]:
        """What this host may receive."""
        yield " -i lo"
        for permit in self._ours(permits):
            ports = with_ports(permit.protocol, permit.port)
            yield f" -s {permit.address}{ports}{_HERE}"
            yield self._too_big(permit) + _HERE
        yield from self._never("-s")
        # the address of this host in never_block protects what it sends, not what it is sent
        yield from (f"{test} -m addrtype ! --dst-type LOCAL" for test in self._never("-d"))
        for opening in self._openings():
            yield from self._opening(opening, opening.there, opening.here)

    def leaving(self, permits: Iterable[Permit]) -> Iterator[str]:
        """What this host may send."""
        yield " -o lo"
        for permit in self._ours(permits):
            yield f" -d {permit.address}{with_ports(permit.protocol, None, permit.port)}"
        yield from self._never("-d")
        for opening in self._openings():
            yield from self._opening(opening, opening.here, opening.there)

    def forwarded(self) -> Iterator[str]:
        """What passes through: nothing but `never_block` is open for others."""
        yield from self._never("-s")
        yield from self._never("-d")

    def _ours(self, permits: Iterable[Permit]) -> list[Permit]:
        ours = [permit for permit in permits if permit.version == self.version]
        return sorted(ours, key=lambda permit: (permit.address, permit.protocol, permit.port))

    def _openings(self) -> Iterator[Opening]:
        return (opening for opening in OPENINGS if opening.version == self.version)

    def _never(self, side: str) -> Iterator[str]:
        return (f" {side} {net}" for net in self.never_block if net.version == self.version)

    def _opening(self, opening: Opening, source: int | None, there: int | None) -> Iterator[str]:
        test = with_ports(opening.protocol, source, there)
        if opening.hop_limit is not None:
            test += f" {_HOP_LIMIT[self.version]} {opening.hop_limit}"
        kinds = [""] if opening.icmp is None else self._icmp(opening.icmp)
        yield from (test + kind for kind in kinds)

    def _icmp(self, icmp: Icmp) -> list[str]:
        code = "" if icmp.code is None else f"/{icmp.code}"
        return [f" {_ICMP[self.version]} {type_}{code}" for type_ in icmp.types]

    def _too_big(self, permit: Permit) -> str:
        """Test for the ICMP error that path MTU needs, about a packet to a permitted endpoint."""
        number, icmp = TOO_BIG[self.version]
        start, words, protocol, port = _QUOTED[self.version]
        packed = ip_address(permit.address).packed
        wanted = [
            f"{start}{at}=0x{packed[4 * index : 4 * index + 4].hex()}"
            for index, at in enumerate(words)
        ]
        if self.version == 6:  # noqa: PLR2004 - the IP versions are their own names
            wanted.append(f"3&0xFF={number}")  # no header in between: the offsets are fixed
        wanted.append(f"{start}{protocol}&0xFF={permit.protocol}")
        wanted.append(f"{start}{port}&0xFFFF={permit.port}")
        (kind,) = self._icmp(icmp)
        return f' -p {number}{kind} -m u32 --u32 "{"&&".join(wanted)}"'


def with_ports(protocol: int, source: object = None, destination: object = None) -> str:
    """Test for a protocol and, of those that have them, ports."""
    test = f" -p {protocol}"
    if source is None and destination is None:
        return test
    test += f" -m {_MODULES[protocol]}"
    if source is not None:
        test += f" --sport {source}"
    if destination is not None:
        test += f" --dport {destination}"
    return test
