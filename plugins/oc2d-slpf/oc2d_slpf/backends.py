"""Which packet filter the configuration asks for."""

from __future__ import annotations

from oc2d_slpf.backend import Backend
from oc2d_slpf.dry_run import DryRun
from oc2d_slpf.iptables import Iptables
from oc2d_slpf.nftables import Nftables
from oc2d_slpf.settings import Settings

__all__ = ["make_backend"]


def make_backend(config: Settings) -> Backend:
    """Make the back end that `backend` names; nothing is opened yet."""
    if config.backend == "nftables":
        return Nftables(config.never_block)
    if config.backend == "iptables":
        return Iptables(config.never_block)
    return DryRun()
