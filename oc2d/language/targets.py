"""Stand-in for the language package, as little as slpf needs."""

from __future__ import annotations

import msgspec

from oc2d.language.values import IPv4Net, IPv6Net
from oc2d.language.vocabulary import L4Protocol

__all__ = ["IPv4Connection", "IPv6Connection"]


class IPv4Connection(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Stand-in."""

    src_addr: IPv4Net | None = None
    src_port: int | None = None
    dst_addr: IPv4Net | None = None
    dst_port: int | None = None
    protocol: L4Protocol | None = None


class IPv6Connection(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Stand-in."""

    src_addr: IPv6Net | None = None
    src_port: int | None = None
    dst_addr: IPv6Net | None = None
    dst_port: int | None = None
    protocol: L4Protocol | None = None
