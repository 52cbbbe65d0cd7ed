"""The software of this host as an OpenC2 actuator: which SBOMs there are, and their content.

Experimental: the profile is a draft (docs/requirements-sbom.md).
"""

from __future__ import annotations

from oc2d_sbom.profile import Sbom

__all__ = ["Sbom"]
