"""Which packet filter the configuration asks for."""

from __future__ import annotations

from oc2d_slpf.backend import Backend
from oc2d_slpf.settings import Settings

__all__ = ["make_backend"]


def make_backend(config: Settings, name: str | None = None) -> Backend:
    """Make the back end of this name, else the configured one; no other one is imported.

    Nothing is opened yet.
    """
    name = name or config.backend
    if name == "nftables":
        from oc2d_slpf.nftables import Nftables  # noqa: PLC0415 - each is a tenth of the start

        return Nftables(config.never_block, log_group=config.log_group)
    if name == "iptables":
        from oc2d_slpf.iptables import Iptables  # noqa: PLC0415 - the same

        return Iptables(config.never_block)
    from oc2d_slpf.dry_run import DryRun  # noqa: PLC0415 - the same

    return DryRun()
