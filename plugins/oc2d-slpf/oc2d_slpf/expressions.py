"""The expressions of nf_tables as bytes, each under the name that `nft --debug=netlink` prints.

A rule is a list of expressions. Each is an nlattr NFTA_LIST_ELEM with NFTA_EXPR_NAME and
NFTA_EXPR_DATA; they work on registers of 4 bytes, NFT_REG32_00 (8) to NFT_REG32_15, and on
NFT_REG_VERDICT (0). A register is given here by its number from 0 on. An expression that does not
hold, or cannot be had from this packet (ports of a fragment), ends the rule without a verdict.
Constants are those of `linux/netfilter/nf_tables.h`.
"""

from __future__ import annotations

import sys
from enum import IntEnum

from oc2d_slpf.netlink import attribute, nested, string, u32

__all__ = [
    "ACCEPT",
    "DROP",
    "NFT_CONTINUE",
    "NFT_JUMP",
    "NF_ACCEPT",
    "NF_DROP",
    "Base",
    "Ct",
    "Icmpx",
    "Meta",
    "choose",
    "compare",
    "ct",
    "fib_type",
    "get",
    "jump",
    "limit",
    "load",
    "log",
    "lookup",
    "mask",
    "meta",
    "notrack",
    "put",
    "reject",
    "reset",
    "set_mark",
    "synproxy",
    "verdict",
]

NFTA_LIST_ELEM = 1
NFTA_EXPR_NAME, NFTA_EXPR_DATA = 1, 2
NFTA_DATA_VALUE, NFTA_DATA_VERDICT = 1, 2
NFTA_VERDICT_CODE, NFTA_VERDICT_CHAIN = 1, 2
NFT_REG_VERDICT, NFT_REG32_00 = 0, 8
NF_DROP, NF_ACCEPT, NFT_CONTINUE, NFT_JUMP = 0, 1, -1, -3
NFT_CMP_EQ, NFT_CMP_NEQ = 0, 1
NFT_FIB_RESULT_ADDRTYPE = 3
NFTA_FIB_F_DADDR = 2
NFT_REJECT_TCP_RST, NFT_REJECT_ICMPX_UNREACH = 1, 2
NFT_LOGLEVEL_INFO = 6
IP_CT_DIR_ORIGINAL = 0
NF_SYNPROXY_OPT_MSS, NF_SYNPROXY_OPT_WSCALE = 1, 2
NF_SYNPROXY_OPT_SACK_PERM, NF_SYNPROXY_OPT_TIMESTAMP = 4, 8


class Meta(IntEnum):
    """NFT_META_*: what is known of a packet beside its bytes."""

    MARK = 3  # host byte order
    IIF = 4  # host byte order; 0 for a packet that begins here
    OIF = 5
    NFPROTO = 15  # one byte: 2 or 10
    L4PROTO = 16  # one byte: the upper-layer protocol, behind IPv6 extension headers too


class Ct(IntEnum):
    """NFT_CT_*: what is known of the connection that a packet belongs to, if it belongs to one."""

    DIRECTION = 1  # one byte: 0 as the packet that began it, 1 an answer
    PROTOCOL = 10  # one byte
    PROTO_SRC = 11
    PROTO_DST = 12
    SRC_IP = 19
    DST_IP = 20
    SRC_IP6 = 21
    DST_IP6 = 22


class Base(IntEnum):
    """NFT_PAYLOAD_*_HEADER: where the offset of `load` begins."""

    NETWORK = 1
    TRANSPORT = 2


class Icmpx(IntEnum):
    """NFT_REJECT_ICMPX_*: one code for both families."""

    ADMIN_PROHIBITED = 3  # ICMP 3/13, ICMPv6 1/1


def _expression(name: str, *parts: bytes) -> bytes:
    return nested(NFTA_LIST_ELEM, string(NFTA_EXPR_NAME, name), nested(NFTA_EXPR_DATA, *parts))


def _value(kind: int, value: bytes) -> bytes:
    return nested(kind, attribute(NFTA_DATA_VALUE, value))


def verdict(code: int, chain: str | None = None) -> bytes:
    """Return a verdict as an element of a map has it: NFTA_SET_ELEM_DATA (2)."""
    goal = b"" if chain is None else string(NFTA_VERDICT_CHAIN, chain)
    return nested(2, nested(NFTA_DATA_VERDICT, u32(NFTA_VERDICT_CODE, code), goal))


def _verdict(code: int, chain: str | None = None) -> bytes:
    return _expression("immediate", u32(1, NFT_REG_VERDICT), verdict(code, chain))


#: immediate reg 0 accept: NFTA_IMMEDIATE_DREG, NFTA_IMMEDIATE_DATA.
ACCEPT = _verdict(NF_ACCEPT)
#: immediate reg 0 drop.
DROP = _verdict(NF_DROP)


def jump(chain: str) -> bytes:
    """Jump: immediate reg 0 jump -> chain."""
    return _verdict(NFT_JUMP, chain)


def meta(key: Meta, register: int = 0) -> bytes:
    """Load what is known: NFTA_META_DREG (1), NFTA_META_KEY (2)."""
    return _expression("meta", u32(1, NFT_REG32_00 + register), u32(2, key))


def ct(key: Ct, register: int = 0) -> bytes:
    """Load what is known of the connection: NFTA_CT_DREG (1), NFTA_CT_KEY (2), _DIRECTION (3).

    Addresses and ports are those of the packet that began it.
    """
    asked = u32(1, NFT_REG32_00 + register) + u32(2, key)
    if key > Ct.PROTOCOL:
        asked += attribute(3, bytes([IP_CT_DIR_ORIGINAL]))
    return _expression("ct", asked)


def limit(rate: int, burst: int) -> bytes:
    """Hold for so many packets a second: NFTA_LIMIT_RATE (1), _UNIT (2), _BURST (3)."""
    numbers = (attribute(kind, value.to_bytes(8, "big")) for kind, value in ((1, rate), (2, 1)))
    return _expression("limit", *numbers, u32(3, burst))


def log(prefix: str, group: int | None, size: int) -> bytes:
    """Log the packet and go on: NFTA_LOG_GROUP (1), _PREFIX (2), _SNAPLEN, _QTHRESHOLD, _LEVEL (5).

    To a group of nfnetlink_log, that many bytes of each packet and at once; without one to the
    kernel's log.
    """
    if group is None:
        return _expression("log", string(2, prefix), u32(5, NFT_LOGLEVEL_INFO))
    where = attribute(1, group.to_bytes(2, "big"))
    at_once = attribute(4, (1).to_bytes(2, "big"))
    return _expression("log", where, string(2, prefix), u32(3, size), at_once)


def set_mark(value: int) -> bytes:
    """Set the mark: immediate, then meta with NFTA_META_SREG (3)."""
    given = put(value.to_bytes(4, sys.byteorder), 0)
    return given + _expression("meta", u32(2, Meta.MARK), u32(3, NFT_REG32_00))


def load(base: Base, offset: int, size: int, register: int = 0) -> bytes:
    """Load bytes of the packet: NFTA_PAYLOAD_DREG (1), _BASE (2), _OFFSET (3), _LEN (4)."""
    where = u32(2, base) + u32(3, offset) + u32(4, size)
    return _expression("payload", u32(1, NFT_REG32_00 + register), where)


def mask(value: bytes, register: int = 0, into: int | None = None) -> bytes:
    """Mask registers, in place or `into` others: NFTA_BITWISE_SREG (1), _DREG, _LEN, _MASK, _XOR.

    At most 16 bytes.
    """
    goal = register if into is None else into
    registers = u32(1, NFT_REG32_00 + register) + u32(2, NFT_REG32_00 + goal) + u32(3, len(value))
    return _expression("bitwise", registers, _value(4, value), _value(5, bytes(len(value))))


def compare(value: bytes, register: int = 0, *, equal: bool = True) -> bytes:
    """Hold if the register is that value, or is not: NFTA_CMP_SREG (1), _OP (2), _DATA (3)."""
    operation = u32(2, NFT_CMP_EQ if equal else NFT_CMP_NEQ)
    return _expression("cmp", u32(1, NFT_REG32_00 + register), operation, _value(3, value))


def lookup(name: str, register: int = 0) -> bytes:
    """Hold if the set has what is in the registers: NFTA_LOOKUP_SET (1), NFTA_LOOKUP_SREG (2)."""
    return _expression("lookup", string(1, name), u32(2, NFT_REG32_00 + register))


def get(name: str, register: int, into: int) -> bytes:
    """Hold if the map has what is in the registers; load what it stands for: NFTA_LOOKUP_DREG."""
    where = u32(2, NFT_REG32_00 + register) + u32(3, NFT_REG32_00 + into)
    return _expression("lookup", string(1, name), where)


def choose(name: str, register: int) -> bytes:
    """Take the verdict that the map has for what is in the registers, if it has one."""
    where = u32(2, NFT_REG32_00 + register) + u32(3, NFT_REG_VERDICT)
    return _expression("lookup", string(1, name), where)


def put(value: bytes, register: int) -> bytes:
    """Load a constant: NFTA_IMMEDIATE_DREG, NFTA_IMMEDIATE_DATA."""
    return _expression("immediate", u32(1, NFT_REG32_00 + register), _value(2, value))


def fib_type() -> bytes:
    """Load the destination's kind (RTN_*, host order): NFTA_FIB_DREG (1), _RESULT, _FLAGS (3)."""
    result = u32(2, NFT_FIB_RESULT_ADDRTYPE)
    return _expression("fib", u32(1, NFT_REG32_00), result, u32(3, NFTA_FIB_F_DADDR))


def reject(code: Icmpx) -> bytes:
    """Drop and answer by ICMP: NFTA_REJECT_TYPE (1), NFTA_REJECT_ICMP_CODE (2)."""
    return _expression("reject", u32(1, NFT_REJECT_ICMPX_UNREACH), attribute(2, bytes([code])))


def reset() -> bytes:
    """Drop and answer by a TCP segment with RST; the packet must be TCP."""
    return _expression("reject", u32(1, NFT_REJECT_TCP_RST))


def notrack() -> bytes:
    """Keep connection tracking from this packet."""
    return _expression("notrack")


def synproxy(mss: int, scale: int) -> bytes:
    """Answer a SYN as a server would: NFTA_SYNPROXY_MSS (1), _WSCALE (2), _FLAGS (3)."""
    options = NF_SYNPROXY_OPT_MSS | NF_SYNPROXY_OPT_WSCALE
    options |= NF_SYNPROXY_OPT_SACK_PERM | NF_SYNPROXY_OPT_TIMESTAMP
    given = attribute(1, mss.to_bytes(2, "big")) + attribute(2, bytes([scale]))
    return _expression("synproxy", given, u32(3, options))
