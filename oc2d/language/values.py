"""Stand-in for the language package, as little as slpf needs."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network

__all__ = ["IPv4Net", "IPv6Net"]


@dataclass(frozen=True, slots=True)
class IPv4Net:
    """Stand-in."""

    network: IPv4Network


@dataclass(frozen=True, slots=True)
class IPv6Net:
    """Stand-in."""

    network: IPv6Network
