"""What carries the tiers into a packet filter: few methods, so that another one is easily added."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from ipaddress import IPv6Address, ip_address
from typing import Protocol

from oc2d.actuator import Endpoint
from oc2d_slpf.operations import Operation
from oc2d_slpf.rules import Verdict

__all__ = ["Backend", "BackendError", "Full", "Permit", "Step", "Unpermit", "permits"]


class BackendError(Exception):
    """The packet filter refused or cannot be reached; the message is for the log only."""


class Full(BackendError):  # noqa: N818 - not an error where there is a way out
    """There is no room for the change as things stand; with `replace` there is."""


@dataclass(frozen=True, slots=True)
class Permit:
    """Keep the way to this endpoint open, ahead of every rule; `address` is in canonical form."""

    address: str
    protocol: int
    port: int

    @property
    def version(self) -> int:
        """The IP version of the address."""
        return ip_address(self.address).version

    def __str__(self) -> str:
        name = "udp" if self.protocol == socket.IPPROTO_UDP else "tcp"
        return f"{self.address} {name} port {self.port}"


@dataclass(frozen=True, slots=True)
class Unpermit:
    """Leave the way to this endpoint to the rules again."""

    permit: Permit


Step = Operation | Permit | Unpermit


class Backend(Protocol):
    """One packet filter, used on one thread. A call makes all its changes at once or none."""

    #: Whether it carries out the operations of ranked sets.
    ranked: bool

    def check(self) -> None:
        """Raise `StateError` when the filter cannot be used here; changes nothing."""

    def can(self, verdict: Verdict) -> bool:
        """Tell whether rules of this verdict can be put in force here."""
        ...

    def can_track(self) -> bool:
        """Tell whether rules about connections can be put in force here."""
        ...

    def can_log(self) -> bool:
        """Tell whether packets can be logged here."""
        ...

    def replace(self, steps: Iterable[Step]) -> None:
        """Make what is ours consist of exactly this, with no moment in between without rules.

        Raises `BackendError`.
        """

    def apply(self, steps: Sequence[Step]) -> None:
        """Change what is ours. Raises `BackendError` or `Full`, and then nothing was changed."""

    def remove(self) -> None:
        """Remove all that is ours. Raises `BackendError`."""

    def watch(self, changed: Callable[[], None]) -> None:
        """Call `changed`, on any thread, when others changed what is ours; until `close`."""

    def close(self) -> None:
        """Let go of the filter, which stays as it is; harmless when repeated."""


def permits(endpoints: Iterable[Endpoint]) -> frozenset[Permit]:
    """Put endpoints in canonical form; an IPv4 address in IPv6 clothes is what travels: IPv4."""
    found = set()
    for endpoint in endpoints:
        address = ip_address(endpoint.address.partition("%")[0])
        if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
            address = address.ipv4_mapped
        # not by name: a minimal Debian has no /etc/protocols
        protocol = {"tcp": socket.IPPROTO_TCP, "udp": socket.IPPROTO_UDP}[endpoint.protocol]
        found.add(Permit(str(address), protocol, endpoint.port))
    return frozenset(found)
