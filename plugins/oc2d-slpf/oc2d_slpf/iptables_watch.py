"""Notice what others do to our chains of iptables, or put ahead of them."""

from __future__ import annotations

import struct
from collections.abc import Callable

from oc2d_slpf.iptables_rules import HOOKS
from oc2d_slpf.netlink import attributes
from oc2d_slpf.watch import Watch

__all__ = ["IptablesWatch"]

_VERSIONS = {2: 4, 10: 6}  # NFPROTO_IPV4, NFPROTO_IPV6
# NFT_MSG_*, and which attribute names the chain: NFTA_CHAIN_NAME, NFTA_RULE_CHAIN
DELTABLE = 2
_NAMES = {3: 3, 5: 3, 6: 2, 8: 2}
_OURS = b"oc2d-"


class IptablesWatch(Watch):
    """Call `changed` after changes to our chains, or when `displaced` holds for an IP version.

    `displaced` is asked, on the thread of the watch, after changes to a built-in chain: others may
    well add their rules there, but not ahead of ours. Raises OSError.
    """

    def __init__(
        self, port: int, displaced: Callable[[int], bool], changed: Callable[[], None]
    ) -> None:
        self._displaced = displaced
        self._touched: set[int] = set()
        super().__init__(port, "filter", changed)

    def _read(self) -> bool:
        self._touched.clear()
        return super()._read() or any(map(self._displaced, sorted(self._touched)))

    def _is_ours(self, data: bytes) -> bool:
        at = 0
        while at + 20 <= len(data):
            size, kind = struct.unpack_from("=IH", data, at)
            found = dict(attributes(data[at + 20 : at + size]))
            version = _VERSIONS.get(data[at + 16])
            if version and found.get(1) == self._table:
                if kind & 0xFF == DELTABLE:
                    return True
                name = found.get(_NAMES.get(kind & 0xFF, -1), b"")
                if name.startswith(_OURS):
                    return True
                if name.rstrip(b"\0").decode(errors="replace") in HOOKS:
                    self._touched.add(version)
            at += max(size, 20) + 3 & ~3
        return False
