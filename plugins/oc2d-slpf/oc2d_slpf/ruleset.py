"""The table `inet oc2d` as nf_tables messages: steps and the management set rendered. Pure.

Chains run at priority -310, ahead of connection tracking, so that a rule cuts established flows
too, and sees addresses before translation. Two lists hold the numbered rules: `ingress` (called
from prerouting) and `egress` (called from output and forward), each a jump per tier. What the
daemon and the host need themselves is accepted ahead of both.

Keys in a set are the fields one after the other, in network order, each padded to 4 bytes; a field
that stands alone is not padded.
"""

from __future__ import annotations

import struct
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from ipaddress import ip_address

from oc2d_slpf.backend import Permit, Step, Unpermit
from oc2d_slpf.expressions import (
    ACCEPT,
    DROP,
    Base,
    Icmpx,
    Meta,
    compare,
    fib_type,
    jump,
    load,
    lookup,
    mask,
    meta,
    notrack,
    reject,
    reset,
    set_mark,
    synproxy,
)
from oc2d_slpf.guard import OPENINGS, TOO_BIG, Icmp, Opening
from oc2d_slpf.netlink import CREATE, EXCLUSIVE, Message, attribute, nested, string, u32
from oc2d_slpf.rules import PORT_PROTOCOLS, Direction, Key, Network, Shape, Verdict
from oc2d_slpf.tiers import (
    AddKeys,
    DropKeys,
    DropSet,
    DropTier,
    Fill,
    MakeSet,
    MakeTier,
    Order,
    SetId,
)

__all__ = [
    "HOOKS",
    "PRIORITY",
    "TABLE",
    "base",
    "base_chain",
    "decoy",
    "delete_chain",
    "delete_set",
    "delete_table",
    "flush",
    "render",
    "table",
]

TABLE = "oc2d"
PRIORITY = -310
#: Base chains and their NF_INET_* hook.
HOOKS = {"prerouting": 0, "input": 1, "forward": 2, "output": 3}

# NFT_MSG_*
NEWTABLE, DELTABLE = 0, 2
NEWCHAIN, DELCHAIN = 3, 5
NEWRULE, DELRULE = 6, 8
NEWSET, DELSET = 9, 11
NEWSETELEM, DELSETELEM = 12, 14

NLM_F_APPEND = 0x800
NF_ACCEPT = 1
RTN_UNICAST, RTN_LOCAL = (number.to_bytes(4, sys.byteorder) for number in (1, 2))
# the numbers nft has for types of keys, so that it can print them; 6 bits each in a concatenation
TYPE_INET_PROTOCOL, TYPE_INET_SERVICE = 12, 13
TYPE_ADDRESS = {4: 7, 6: 8}
_ADDRESS = {4: 4, 6: 16}  # bytes
_FAMILY = {4: b"\x02", 6: b"\x0a"}  # NFPROTO_IPV4, NFPROTO_IPV6
_SOURCE = {4: 12, 6: 8}  # offsets in the network header
_DESTINATION = {4: 16, 6: 24}
_HOP_LIMIT = {4: 8, 6: 7}
# in an ICMP error, of the packet that it quotes: destination, protocol, destination port
_QUOTED = {4: (24, 17, 30), 6: (32, 14, 50)}
_ICMP = {4: b"\x01", 6: b"\x3a"}
_UNREACHABLE = {4: b"\x03\x0d", 6: b"\x01\x01"}  # type and code of what `reject` sends
_TCP = b"\x06"
_TCP_FLAGS = 13
_FIN_SYN_RST_ACK, _SYN, _RST = b"\x17", b"\x02", b"\x04"
_LOOPBACK = (1).to_bytes(4, sys.byteorder)  # LOOPBACK_IFINDEX
_NOWHERE = bytes(4)
# says from prerouting to input and forward: this one is to be deceived
_DECOY_MARK = 0x0C2DFA1C
_MSS, _SCALE = 1460, 7

_CHUNK = 60_000  # bytes of elements in one message: an nlattr ends at 65 535
_LISTS = {"in": (Direction.INGRESS, Direction.BOTH), "out": (Direction.EGRESS, Direction.BOTH)}
_CHAINS = {"in": "ingress", "out": "egress"}
_VERDICTS = {
    Verdict.ALLOW: ACCEPT,
    Verdict.DROP: DROP,
    Verdict.REJECT: jump("refuse"),
    Verdict.FALSE_ACK: set_mark(_DECOY_MARK) + notrack() + ACCEPT,
}


# -- structure


def table(flags: int) -> Message:
    """Make the table, or adopt it: NFTA_TABLE_NAME, NFTA_TABLE_FLAGS."""
    return Message(NEWTABLE, string(1, TABLE) + u32(2, flags), CREATE)


def delete_table() -> Message:
    """Remove the table with all that is in it; it must be there."""
    return Message(DELTABLE, string(1, TABLE))


def base_chain(name: str) -> Message:
    """Make a base chain: NFTA_CHAIN_TABLE, _NAME (3), _HOOK (4), _POLICY (5), _TYPE (7)."""
    hook = nested(4, u32(1, HOOKS[name]), u32(2, PRIORITY))
    body = string(1, TABLE) + string(3, name) + hook + u32(5, NF_ACCEPT) + string(7, "filter")
    return Message(NEWCHAIN, body, CREATE)


def delete_chain(name: str) -> Message:
    """Remove a chain with its rules; none may jump to it any more."""
    return Message(DELCHAIN, string(1, TABLE) + string(3, name))


def delete_set(name: str) -> Message:
    """Remove a set with its elements; no rule may look into it any more."""
    return Message(DELSET, string(1, TABLE) + string(2, name))


def flush(chain: str | None = None) -> Message:
    """Remove all rules of a chain, or of the table: NFTA_RULE_TABLE, NFTA_RULE_CHAIN."""
    return Message(DELRULE, string(1, TABLE) + (string(2, chain) if chain else b""))


def _chain(name: str) -> Message:
    return Message(NEWCHAIN, string(1, TABLE) + string(3, name), CREATE)


def _rule(chain: str, expressions: bytes) -> Message:
    """Add a rule at the end: NFTA_RULE_TABLE, _CHAIN, _EXPRESSIONS (4)."""
    body = string(1, TABLE) + string(2, chain) + nested(4, expressions)
    return Message(NEWRULE, body, CREATE | NLM_F_APPEND)


def _set(name: str, types: Sequence[int], size: int) -> Message:
    """Make a set: NFTA_SET_TABLE, _NAME, _FLAGS, _KEY_TYPE, _KEY_LEN, _ID (10), the last unused."""
    kind = 0
    for number in types:
        kind = kind << 6 | number
    head = string(1, TABLE) + string(2, name)
    return Message(NEWSET, head + u32(3, 0) + u32(4, kind) + u32(5, size) + u32(10, 1), CREATE)


def _elements(kind: int, name: str, keys: Sequence[bytes]) -> Iterator[Message]:
    """Add or delete: NFTA_SET_ELEM_LIST_TABLE, _SET, _ELEMENTS (3).

    Each element is NFTA_LIST_ELEM (NFTA_SET_ELEM_KEY (NFTA_DATA_VALUE)). All keys have one length,
    so everything between two keys is the same bytes: Python joins 100 000 of them in 10 ms.
    """
    size = len(keys[0])
    one = nested(1, nested(1, attribute(1, bytes(size))))
    padding = bytes(-size & 3)
    before = one[: len(one) - size - len(padding)]
    head = string(1, TABLE) + string(2, name)
    # one that is there already means that somebody else was here
    flags = CREATE | EXCLUSIVE if kind == NEWSETELEM else 0
    most = _CHUNK // len(one)
    for start in range(0, len(keys), most):
        joined = before + (padding + before).join(keys[start : start + most]) + padding
        yield Message(kind, head + nested(3, joined), flags)


# -- what passes ahead of the rules


def base(never_block: Iterable[Network]) -> Iterator[Message]:
    """Fill the base chains, with what they look up and jump to."""
    never = defaultdict(list)
    for network in never_block:
        never[network.version, network.prefixlen].append(network.network_address.packed)
    for (family, prefix), keys in never.items():
        name = f"never{family}_{prefix}"
        yield _set(name, [TYPE_ADDRESS[family]], _ADDRESS[family])
        yield from _elements(NEWSETELEM, name, keys)
    for version in (4, 6):
        address = TYPE_ADDRESS[version]
        types = (address, TYPE_INET_PROTOCOL, TYPE_INET_SERVICE)
        yield _set(f"management{version}", types, _ADDRESS[version] + 8)
    yield _set("with_ports", [TYPE_INET_PROTOCOL], 1)
    yield from _elements(NEWSETELEM, "with_ports", [bytes([p]) for p in PORT_PROTOCOLS])
    for name in ("ingress", "egress", "refuse", "decoy"):
        yield _chain(name)
    yield from (_rule("refuse", rule) for rule in _refusing())
    lists = {
        "prerouting": (*_arriving(never), jump("ingress")),
        "input": (_marked() + jump("decoy"),),
        "forward": (
            _marked() + jump("decoy"),
            *(rule + ACCEPT for rule in _never(never, _SOURCE)),
            *(rule + ACCEPT for rule in _never(never, _DESTINATION)),
            jump("egress"),
        ),
        "output": (*_leaving(never), jump("egress")),
    }
    for chain, rules in lists.items():
        yield from (_rule(chain, rule) for rule in rules)


def _arriving(never: Iterable[tuple[int, int]]) -> Iterator[bytes]:
    here = fib_type() + compare(RTN_LOCAL)
    yield meta(Meta.IIF) + compare(_LOOPBACK) + ACCEPT
    for version in (4, 6):
        yield _endpoint(version, _SOURCE, 0) + here + ACCEPT
        yield _too_big(version) + here + ACCEPT
    # forwarded packets meet both lists: never_block has both sides there as well
    yield from (rule + ACCEPT for rule in _never(never, _SOURCE))
    through = fib_type() + compare(RTN_LOCAL, equal=False)
    yield from (rule + through + ACCEPT for rule in _never(never, _DESTINATION))
    own = fib_type() + compare(RTN_UNICAST, equal=False)
    for opening in OPENINGS:
        for test in _opening(opening, opening.there, opening.here):
            yield test + own + ACCEPT


def _leaving(never: Iterable[tuple[int, int]]) -> Iterator[bytes]:
    yield meta(Meta.OIF) + compare(_LOOPBACK) + ACCEPT
    for version in (4, 6):
        yield _endpoint(version, _DESTINATION, 2) + ACCEPT
    yield from (rule + ACCEPT for rule in _never(never, _DESTINATION))
    for opening in OPENINGS:
        yield from (test + ACCEPT for test in _opening(opening, opening.here, opening.there))


def _family(version: int) -> bytes:
    return meta(Meta.NFPROTO) + compare(_FAMILY[version])


def _protocol(number: bytes) -> bytes:
    return meta(Meta.L4PROTO) + compare(number)


def _endpoint(version: int, side: dict[int, int], port: int) -> bytes:
    """Test whether address . protocol . port of one side of the packet are permitted."""
    size = _ADDRESS[version]
    then = size // 4
    address = load(Base.NETWORK, side[version], size)
    service = meta(Meta.L4PROTO, then) + load(Base.TRANSPORT, port, 2, then + 1)
    return _family(version) + address + service + lookup(f"management{version}")


def _too_big(version: int) -> bytes:
    """Test for the ICMP error that path MTU needs, about a packet to a permitted endpoint."""
    protocol, icmp = TOO_BIG[version]
    size = _ADDRESS[version]
    quoted = zip(_QUOTED[version], (size, 1, 2), (0, size // 4, size // 4 + 1), strict=True)
    fields = b"".join(load(Base.TRANSPORT, at, size, place) for at, size, place in quoted)
    (test,) = _icmp(icmp)
    head = _family(version) + _protocol(bytes([protocol]))
    return head + test + fields + lookup(f"management{version}")


def _never(never: Iterable[tuple[int, int]], side: dict[int, int]) -> Iterator[bytes]:
    for version, prefix in never:
        address = _masked(version, side, prefix)
        yield _family(version) + address + lookup(f"never{version}_{prefix}")


def _opening(opening: Opening, source: int | None, destination: int | None) -> Iterator[bytes]:
    test = _family(opening.version) + _protocol(bytes([opening.protocol]))
    if opening.hop_limit is not None:
        limit = load(Base.NETWORK, _HOP_LIMIT[opening.version], 1)
        test += limit + compare(bytes([opening.hop_limit]))
    for offset, port in ((0, source), (2, destination)):
        if port is not None:
            test += load(Base.TRANSPORT, offset, 2) + compare(port.to_bytes(2, "big"))
    kinds = (b"",) if opening.icmp is None else _icmp(opening.icmp)
    yield from (test + kind for kind in kinds)


def _icmp(icmp: Icmp) -> list[bytes]:
    tail = b"" if icmp.code is None else bytes([icmp.code])
    return [
        load(Base.TRANSPORT, 0, 1 + len(tail)) + compare(bytes([type_]) + tail)
        for type_ in icmp.types
    ]


def _refusing() -> Iterator[bytes]:
    """Answer a rejected packet by what its sender notices; the answer itself may pass.

    A reset ends established TCP connections too, which take ICMP errors for passing trouble; of
    those a connected UDP socket sees "prohibited" but not "host unreachable" (docs/slpf.md).

    It leaves through the egress list. Where a rule of direction both matches its own answer, this
    is where it comes out again: without these exceptions the reject would be a silent drop. What
    begins here has no device that it came in by.
    """
    ours = meta(Meta.IIF) + compare(_NOWHERE)
    for version in (4, 6):
        kind = load(Base.TRANSPORT, 0, 2) + compare(_UNREACHABLE[version])
        yield ours + _protocol(_ICMP[version]) + kind + ACCEPT
    flags = load(Base.TRANSPORT, _TCP_FLAGS, 1) + mask(_RST) + compare(_RST)
    yield ours + _protocol(_TCP) + flags + ACCEPT
    yield _protocol(_TCP) + reset()
    yield reject(Icmpx.ADMIN_PROHIBITED)


def _marked() -> bytes:
    return meta(Meta.MARK) + compare(_DECOY_MARK.to_bytes(4, sys.byteorder))


def decoy(*, on: bool) -> Iterator[Message]:
    """Answer each SYN that false_ack marked, and swallow everything else that it marked.

    Off while no rule wants it: synproxy makes the kernel track connections.
    """
    yield flush("decoy")
    if on:
        syn = load(Base.TRANSPORT, _TCP_FLAGS, 1) + mask(_FIN_SYN_RST_ACK) + compare(_SYN)
        yield _rule("decoy", _protocol(_TCP) + syn + synproxy(_MSS, _SCALE))
        yield _rule("decoy", DROP)


# -- steps


def render(steps: Iterable[Step]) -> list[Message]:
    """Write steps as messages, in order."""
    return [message for step in steps for message in _messages(step)]


def _messages(step: Step) -> Iterator[Message]:  # noqa: C901, PLR0912 - one case an operation
    match step:
        case AddKeys(id_, keys) if id_.shape.fields:
            yield from _elements(NEWSETELEM, _name(id_), _laid_out(id_.shape, keys))
        case DropKeys(id_, keys) if id_.shape.fields:
            yield from _elements(DELSETELEM, _name(id_), _laid_out(id_.shape, keys))
        case MakeTier(tier):
            yield from (_chain(_tier(tier, side)) for side in _LISTS)
        case DropTier(tier):
            yield from (delete_chain(_tier(tier, side)) for side in _LISTS)
        case MakeSet(id_) if id_.shape.fields:
            yield _set(_name(id_), *_type(id_.shape))
        case DropSet(id_) if id_.shape.fields:
            yield delete_set(_name(id_))
        case Fill(tier, verdict, shapes):
            yield from _fill(tier, verdict, shapes)
        case Order(tiers):
            for side, chain in _CHAINS.items():
                yield flush(chain)
                yield from (_rule(chain, jump(_tier(tier, side))) for tier in tiers)
        case Permit():
            yield from _elements(NEWSETELEM, f"management{step.version}", [_permitted(step)])
        case Unpermit(permit):
            yield from _elements(DELSETELEM, f"management{permit.version}", [_permitted(permit)])


def _tier(tier: int, side: str) -> str:
    return f"t{tier}_{side}"


def _name(id_: SetId) -> str:
    return f"t{id_.tier}_{id_.shape.name}"


def _permitted(permit: Permit) -> bytes:
    return struct.pack(
        ">%dsB3xH2x" % _ADDRESS[permit.version],  # noqa: UP031 - shorter than the braces
        ip_address(permit.address).packed,
        permit.protocol,
        permit.port,
    )


def _type(shape: Shape) -> tuple[list[int], int]:
    """Return nft's types of the fields of a key, and its length in the kernel."""
    prefixes = (shape.either, shape.source, shape.destination)
    addresses = sum(prefix is not None for prefix in prefixes)
    ports = shape.source_port + shape.destination_port
    types = [TYPE_ADDRESS[shape.version]] * addresses
    types += [TYPE_INET_PROTOCOL] * shape.protocol + [TYPE_INET_SERVICE] * ports
    if len(types) == 1 and not addresses:
        return types, shape.protocol + 2 * ports
    return types, addresses * _ADDRESS[shape.version] + 4 * (shape.protocol + ports)


@lru_cache(maxsize=1024)
def _layout(shape: Shape) -> tuple[struct.Struct, struct.Struct] | None:
    """Return how to take a key of ours apart and put it together for the kernel, if it differs."""
    types, size = _type(shape)
    tail = "".join(
        {TYPE_INET_PROTOCOL: "1s3x", TYPE_INET_SERVICE: "2s2x"}.get(t, "") for t in types
    )
    if len(types) == 1 or not tail:
        return None
    head = f">{size - struct.calcsize('>' + tail)}s"
    return struct.Struct(head + tail.replace("3x", "").replace("2x", "")), struct.Struct(
        head + tail
    )


def _laid_out(shape: Shape, keys: Sequence[Key]) -> Sequence[bytes]:
    layout = _layout(shape)
    if layout is None:
        return keys
    ours, theirs = layout
    return [theirs.pack(*ours.unpack(key)) for key in keys]


def _fill(tier: int, verdict: Verdict, shapes: Sequence[Shape]) -> Iterator[Message]:
    for side, directions in _LISTS.items():
        chain = _tier(tier, side)
        yield flush(chain)
        for shape in shapes:
            if shape.direction in directions:
                for test in _tests(SetId(tier, shape)):
                    yield _rule(chain, _family(shape.version) + test + _VERDICTS[verdict])


def _tests(id_: SetId) -> Iterator[bytes]:
    """Look up what the shape asks for; a range that matches on either side is two lookups."""
    shape = id_.shape
    found = lookup(_name(id_)) if shape.fields else b""
    if shape.either is not None:
        for side in (_SOURCE, _DESTINATION):
            yield _masked(shape.version, side, shape.either) + found
        return
    loads = b""
    at = 0
    for side, prefix in ((_SOURCE, shape.source), (_DESTINATION, shape.destination)):
        if prefix is not None:
            loads += _masked(shape.version, side, prefix, at)
            at += _ADDRESS[shape.version] // 4
    if shape.protocol:
        loads += meta(Meta.L4PROTO, at)
        at += 1
    elif shape.source_port or shape.destination_port:
        # without it, the first bytes of any protocol would be read as ports
        loads = meta(Meta.L4PROTO) + lookup("with_ports") + loads
    for offset, asked in ((0, shape.source_port), (2, shape.destination_port)):
        if asked:
            loads += load(Base.TRANSPORT, offset, 2, at)
            at += 1
    yield loads + found


def _masked(version: int, side: dict[int, int], prefix: int, register: int = 0) -> bytes:
    size = _ADDRESS[version]
    address = load(Base.NETWORK, side[version], size, register)
    bits = size * 8
    if prefix == bits:
        return address
    return address + mask(((1 << bits) - (1 << (bits - prefix))).to_bytes(size, "big"), register)
