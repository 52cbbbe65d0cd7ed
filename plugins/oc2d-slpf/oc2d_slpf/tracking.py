"""Rules about connections in nf_tables: looked up is what the packet that began it was like. Pure.

Nothing is kept of which rule a connection was allowed by: each packet, and each answer, is judged
by the rules as they are now (docs/decisions/011-state-and-logs.md). A packet that belongs to no
connection meets none of them.
"""

from __future__ import annotations

from collections.abc import Iterator

from oc2d_slpf.expressions import Ct, compare, ct, lookup, mask
from oc2d_slpf.names import SIDES, set_name
from oc2d_slpf.operations import SetId
from oc2d_slpf.packet import ADDRESS
from oc2d_slpf.rules import Direction

__all__ = ["tests"]

_SOURCE = {4: Ct.SRC_IP, 6: Ct.SRC_IP6}
_DESTINATION = {4: Ct.DST_IP, 6: Ct.DST_IP6}


def tests(id_: SetId, side: str) -> Iterator[bytes]:
    """Look up what the shape asks for, of the packets that are its direction's in this list."""
    shape = id_.shape
    which = ct(Ct.DIRECTION)
    if shape.direction is not Direction.BOTH:
        which += compare(bytes([side not in SIDES[shape.direction]]))
    found = lookup(set_name(id_)) if shape.fields else b""
    if shape.either is not None:
        for address in (_SOURCE, _DESTINATION):
            yield which + _masked(address, shape.version, shape.either, 0) + found
        return
    loads = b""
    at = 0
    for address, prefix in ((_SOURCE, shape.source), (_DESTINATION, shape.destination)):
        if prefix is not None:
            loads += _masked(address, shape.version, prefix, at)
            at += ADDRESS[shape.version] // 4
    if shape.protocol:
        loads += ct(Ct.PROTOCOL, at)
        at += 1
    elif shape.source_port or shape.destination_port:
        # without it, the numbers of a ping would be taken for ports
        which += ct(Ct.PROTOCOL) + lookup("with_ports")
    for port, asked in (
        (Ct.PROTO_SRC, shape.source_port),
        (Ct.PROTO_DST, shape.destination_port),
    ):
        if asked:
            loads += ct(port, at)
            at += 1
    yield which + loads + found


def _masked(address: dict[int, Ct], version: int, prefix: int, register: int) -> bytes:
    bits = ADDRESS[version] * 8
    loaded = ct(address[version], register)
    if prefix == bits:
        return loaded
    rest = (1 << bits) - (1 << (bits - prefix))
    return loaded + mask(rest.to_bytes(ADDRESS[version], "big"), register)
