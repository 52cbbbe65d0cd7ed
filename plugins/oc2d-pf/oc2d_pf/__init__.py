"""OpenC2 packet filtering, the successor of slpf, on the rule engine of slpf. Experimental."""

from __future__ import annotations

from oc2d_pf.profile import Pf

__all__ = ["Pf"]
