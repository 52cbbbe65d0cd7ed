"""OpenC2 packet filtering, the successor of slpf, on the rule engine of slpf. Experimental."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from oc2d_pf.profile import Pf

__all__ = ["Pf"]


def __getattr__(name: str) -> type[Pf]:
    """Load the profile when it is asked for: a daemon without a table for it never does."""
    if name != "Pf":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from oc2d_pf.profile import Pf  # noqa: PLC0415 - see above

    return Pf
