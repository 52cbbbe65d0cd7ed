"""OpenC2 stateless packet filtering (slpf) for oc2d."""

from oc2d_slpf.profile import Slpf

__all__ = ["Slpf"]
