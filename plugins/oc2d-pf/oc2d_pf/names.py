"""Domain names to addresses, with the time for which the answer holds (PF-22 to PF-24)."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address

__all__ = ["Answer", "LookUp", "LookUpError", "look_up"]

_SHORTEST, _LONGEST = 5, 86_400  # seconds until the next look-up
_ABSENT = 60  # seconds, where a name has no address
_PATIENCE = 5.0  # seconds for one look-up


class LookUpError(Exception):
    """No name server answered; whether the name has addresses is not known."""


@dataclass(frozen=True, slots=True)
class Answer:
    """The addresses of a name, in order, and for how many seconds to believe it."""

    addresses: tuple[IPv4Address | IPv6Address, ...]
    lifetime: float


LookUp = Callable[[str], Answer]


def look_up(name: str) -> Answer:
    """Ask the name servers of this host, as /etc/resolv.conf has them now; takes its time."""
    # imported here: a tenth of the start of a daemon, which may have no name to look up
    import dns.exception  # noqa: PLC0415
    import dns.rdatatype  # noqa: PLC0415
    import dns.resolver  # noqa: PLC0415

    found: set[IPv4Address | IPv6Address] = set()
    lifetime = float(_LONGEST)
    try:
        resolver = dns.resolver.Resolver()
        resolver.lifetime = _PATIENCE
        for kind in (dns.rdatatype.A, dns.rdatatype.AAAA):
            try:
                answer = resolver.resolve(f"{name.rstrip('.')}.", kind, raise_on_no_answer=False)
            except dns.resolver.NXDOMAIN:  # some servers say so of one family (RFC 4074, 4.2)
                continue
            if answer.rrset is not None:
                found |= {ip_address(record.address) for record in answer.rrset}
                lifetime = min(lifetime, answer.expiration - time.time())
    # ValueError: what stands in /etc/resolv.conf is no address, or no text
    except (dns.exception.DNSException, OSError, ValueError) as error:
        raise LookUpError(f"{type(error).__name__}: {error}") from error
    usable = sorted((one for one in found if _is_usable(one)), key=lambda one: (one.version, one))
    if not usable:
        lifetime = _ABSENT
    return Answer(tuple(usable), max(_SHORTEST, lifetime))


def _is_usable(address: IPv4Address | IPv6Address) -> bool:
    """Leave out what is no traffic of a name, whatever its owner writes into the DNS (PF-24)."""
    mapped = getattr(address, "ipv4_mapped", None)
    return mapped is None and not (
        address.is_loopback
        or address.is_multicast
        or address.is_link_local
        or address.is_unspecified
        or address.is_reserved
    )
