"""What chains and sets of a tier are called in the kernel. Pure."""

from __future__ import annotations

from oc2d_slpf.operations import SetId
from oc2d_slpf.rules import Direction

__all__ = ["LISTS", "LOG", "SIDES", "set_name", "tier_chain"]

#: The lists, by the end of the names of their chains, and the chain that calls them in order.
LISTS = {"in": "ingress", "out": "egress"}
#: The end of the name of the chain that logs, and then judges.
LOG = "log"
#: In which lists rules of a direction are.
SIDES = {
    Direction.BOTH: ("in", "out"),
    Direction.INGRESS: ("in",),
    Direction.EGRESS: ("out",),
}


def tier_chain(tier: int, side: str) -> str:
    """Return the chain of a tier for one list: `t5_in`."""
    return f"t{tier}_{side}"


def set_name(id_: SetId) -> str:
    """Return the name of a set: `t5_both_ip4_s24_p_dp`."""
    return f"t{id_.tier}_{id_.shape.name}"
