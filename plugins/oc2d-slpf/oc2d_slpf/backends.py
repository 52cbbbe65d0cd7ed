"""Which packet filter the configuration asks for."""

from __future__ import annotations

from oc2d_slpf.backend import Backend
from oc2d_slpf.settings import Settings

__all__ = ["make_backend"]


def make_backend(config: Settings) -> Backend:
    """Make the back end that `backend` names; nothing is opened yet, and no other one imported."""
    if config.backend == "nftables":
        from oc2d_slpf.nftables import Nftables  # noqa: PLC0415 - each is a tenth of the start

        return Nftables(config.never_block, log_group=config.log_group)
    if config.backend == "iptables":
        from oc2d_slpf.iptables import Iptables  # noqa: PLC0415 - the same

        return Iptables(config.never_block)
    from oc2d_slpf.dry_run import DryRun  # noqa: PLC0415 - the same

    return DryRun()
