"""Whether a command with specifiers is for this host (REQUIREMENTS 3.7)."""

from __future__ import annotations

import socket
import threading
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Annotated

import msgspec

from oc2d_slpf.netlink import own_addresses
from oc2d_slpf.settings import Settings

__all__ = ["Here", "Specifiers"]

_PATIENCE = 1.0  # seconds


class Specifiers(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """`actuator.slpf`: absent members do not matter, all that are there must match (SLPF-58)."""

    hostname: str | msgspec.UnsetType = msgspec.UNSET
    named_group: str | msgspec.UnsetType = msgspec.UNSET
    asset_id: str | msgspec.UnsetType = msgspec.UNSET
    asset_tuple: (
        Annotated[tuple[str, ...], msgspec.Meta(min_length=1, max_length=10)] | msgspec.UnsetType
    ) = msgspec.UNSET


@dataclass(frozen=True, slots=True)
class Here:
    """Names (in lower case) and addresses (in canonical form) of this host."""

    names: frozenset[str] = frozenset()
    addresses: frozenset[str] = frozenset()

    @classmethod
    def look(cls) -> Here:
        """Ask the system; the FQDN only as long as the resolver answers within a second."""
        name = socket.gethostname()
        full = name if "." in name else _full_name(name)
        names = {part.lower() for part in (name, full, name.partition(".")[0])}
        return cls(frozenset(names), frozenset(_addresses()))

    def matches(self, settings: Settings, wanted: Specifiers) -> bool:
        """Tell whether all given specifiers are ours. Pure."""
        unset = msgspec.UNSET
        return (
            (wanted.hostname is unset or self._is_me(settings, wanted.hostname))
            and (wanted.named_group is unset or wanted.named_group in settings.named_groups)
            and (wanted.asset_id is unset or wanted.asset_id == settings.asset_id)
            and (wanted.asset_tuple is unset or wanted.asset_tuple == settings.asset_tuple)
        )

    def _is_me(self, settings: Settings, hostname: str) -> bool:
        name = hostname.lower().rstrip(".")
        if name in self.names or name in {own.lower().rstrip(".") for own in settings.hostnames}:
            return True
        with suppress(ValueError):
            return str(ip_address(name)) in self.addresses
        return False


def _full_name(name: str) -> str:
    """Ask the resolver on a thread, which it may hold up for as long as it likes."""
    found = [name]
    asking = threading.Thread(
        target=lambda: found.append(socket.getfqdn(name)), name="oc2d-fqdn", daemon=True
    )
    with suppress(RuntimeError):  # there may be no room for a thread
        asking.start()
        asking.join(_PATIENCE)
    return found[-1]


def _addresses() -> set[str]:
    """Ask the kernel, of which a router's table of routes would take minutes to read."""
    found: set[str] = set()
    with suppress(OSError):
        found.update(str(ip_address(address)) for address in own_addresses())
    return found
