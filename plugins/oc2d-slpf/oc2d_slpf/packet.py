"""Where things are in a packet, and the tests that everything else is made of. Pure."""

from __future__ import annotations

from oc2d_slpf.expressions import Base, Meta, compare, load, mask, meta

__all__ = [
    "ADDRESS",
    "DESTINATION",
    "SOURCE",
    "TYPE_ADDRESS",
    "TYPE_INET_PROTOCOL",
    "TYPE_INET_SERVICE",
    "TYPE_MARK",
    "family",
    "masked_address",
    "protocol",
]

# the numbers nft has for types of keys, so that it can print them
TYPE_ADDRESS = {4: 7, 6: 8}
TYPE_INET_PROTOCOL, TYPE_INET_SERVICE, TYPE_MARK = 12, 13, 19

#: By IP version: bytes of an address, and offsets of both in the network header.
ADDRESS = {4: 4, 6: 16}
SOURCE = {4: 12, 6: 8}
DESTINATION = {4: 16, 6: 24}
_FAMILY = {4: b"\x02", 6: b"\x0a"}  # NFPROTO_IPV4, NFPROTO_IPV6


def family(version: int) -> bytes:
    """Hold for packets of one IP version."""
    return meta(Meta.NFPROTO) + compare(_FAMILY[version])


def protocol(number: bytes) -> bytes:
    """Hold for one upper-layer protocol."""
    return meta(Meta.L4PROTO) + compare(number)


def masked_address(version: int, side: dict[int, int], prefix: int, register: int = 0) -> bytes:
    """Load an address, and of it what a prefix of this length leaves."""
    size = ADDRESS[version]
    address = load(Base.NETWORK, side[version], size, register)
    bits = size * 8
    if prefix == bits:
        return address
    return address + mask(((1 << bits) - (1 << (bits - prefix))).to_bytes(size, "big"), register)
