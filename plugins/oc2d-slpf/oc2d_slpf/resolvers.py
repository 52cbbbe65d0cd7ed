"""Which name servers this host asks: the way to them stays open, or the broker could not move."""

from __future__ import annotations

import re
from contextlib import suppress
from ipaddress import ip_address
from pathlib import Path

from oc2d.actuator import Endpoint
from oc2d_slpf.backend import Permit, permits

__all__ = ["FILES", "in_use"]

#: The second is what systemd-resolved asks when the first names only its stub on loopback.
FILES = (Path("/etc/resolv.conf"), Path("/run/systemd/resolve/resolv.conf"))
_PORT = 53


def in_use() -> frozenset[Permit]:
    """Read the name servers, by UDP and TCP; those on loopback need no permit."""
    found = set()
    for path in FILES:
        with suppress(OSError):
            text = path.read_text(encoding="utf-8", errors="replace")
            found |= set(re.findall(r"^\s*nameserver\s+(\S+)", text, re.MULTILINE))
    addresses = []
    for address in found:
        with suppress(ValueError):
            if not ip_address(address.partition("%")[0]).is_loopback:
                addresses.append(address)
    return permits(
        Endpoint(address, _PORT, protocol) for address in addresses for protocol in ("udp", "tcp")
    )
