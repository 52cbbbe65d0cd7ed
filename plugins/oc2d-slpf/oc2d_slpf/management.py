"""What stands in the base chains ahead of the lists, and what rules jump to. Pure.

The management set is data of `guard`; what it means in packets is here.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator

from oc2d_slpf import objects
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
from oc2d_slpf.netlink import Message
from oc2d_slpf.packet import (
    ADDRESS,
    DESTINATION,
    SOURCE,
    TYPE_ADDRESS,
    TYPE_INET_PROTOCOL,
    TYPE_INET_SERVICE,
    family,
    masked_address,
    protocol,
)
from oc2d_slpf.rules import PORT_PROTOCOLS, Network

__all__ = ["DECEIVE", "base", "decoy", "own_answers"]

RTN_UNICAST, RTN_LOCAL = (number.to_bytes(4, sys.byteorder) for number in (1, 2))
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

#: The verdict of false_ack, in prerouting: pass on, marked and not tracked, to the decoy.
DECEIVE = set_mark(_DECOY_MARK) + notrack() + ACCEPT


def base(
    never_block: Iterable[Network], *, early: bool = True, tracked: bool = False
) -> Iterator[Message]:
    """Fill the base chains, with what they look up and jump to.

    The lists are called ahead of connection tracking (`early`), behind it, or at both places.
    """
    never = defaultdict(list)
    for network in never_block:
        never[network.version, network.prefixlen].append(network.network_address.packed)
    for (version, prefix), keys in never.items():
        name = f"never{version}_{prefix}"
        yield objects.hash_set(name, [TYPE_ADDRESS[version]], ADDRESS[version])
        yield from objects.elements(objects.NEWSETELEM, name, keys)
    for family_ in (4, 6):
        types = (TYPE_ADDRESS[family_], TYPE_INET_PROTOCOL, TYPE_INET_SERVICE)
        yield objects.hash_set(f"management{family_}", types, ADDRESS[family_] + 8)
    yield objects.hash_set("with_ports", [TYPE_INET_PROTOCOL], 1)
    yield from objects.elements(
        objects.NEWSETELEM, "with_ports", [bytes([p]) for p in PORT_PROTOCOLS]
    )
    for name in ("ingress", "egress", "refuse", "decoy"):
        yield objects.chain(name)
    yield from (objects.rule("refuse", rule) for rule in _refusing())
    arriving = (*_arriving(never), jump("ingress"))
    leaving = (*_leaving(never), jump("egress"))
    lists = {
        "prerouting": arriving if early else (),
        "input": (_marked() + jump("decoy"),),
        "forward": (
            _marked() + jump("decoy"),
            *(rule + ACCEPT for rule in _never(never, SOURCE)),
            *(rule + ACCEPT for rule in _never(never, DESTINATION)),
            jump("egress"),
        ),
        "output": leaving if early else (),
    }
    if tracked:
        lists |= {"prerouting_tracked": arriving, "output_tracked": leaving}
    for chain, rules in lists.items():
        yield from (objects.rule(chain, rule) for rule in rules)


def _arriving(never: Iterable[tuple[int, int]]) -> Iterator[bytes]:
    here = fib_type() + compare(RTN_LOCAL)
    yield meta(Meta.IIF) + compare(_LOOPBACK) + ACCEPT
    for version in (4, 6):
        yield _endpoint(version, SOURCE, 0) + here + ACCEPT
        yield _too_big(version) + here + ACCEPT
    # forwarded packets meet both lists: never_block has both sides there as well
    yield from (rule + ACCEPT for rule in _never(never, SOURCE))
    through = fib_type() + compare(RTN_LOCAL, equal=False)
    yield from (rule + through + ACCEPT for rule in _never(never, DESTINATION))
    own = fib_type() + compare(RTN_UNICAST, equal=False)
    for opening in OPENINGS:
        for test in _opening(opening, opening.there, opening.here):
            yield test + own + ACCEPT


def _leaving(never: Iterable[tuple[int, int]]) -> Iterator[bytes]:
    yield meta(Meta.OIF) + compare(_LOOPBACK) + ACCEPT
    for version in (4, 6):
        yield _endpoint(version, DESTINATION, 2) + ACCEPT
    yield from (rule + ACCEPT for rule in _never(never, DESTINATION))
    for opening in OPENINGS:
        yield from (test + ACCEPT for test in _opening(opening, opening.here, opening.there))


def _endpoint(version: int, side: dict[int, int], port: int) -> bytes:
    """Test whether address . protocol . port of one side of the packet are permitted."""
    size = ADDRESS[version]
    then = size // 4
    address = load(Base.NETWORK, side[version], size)
    service = meta(Meta.L4PROTO, then) + load(Base.TRANSPORT, port, 2, then + 1)
    return family(version) + address + service + lookup(f"management{version}")


def _too_big(version: int) -> bytes:
    """Test for the ICMP error that path MTU needs, about a packet to a permitted endpoint."""
    number, icmp = TOO_BIG[version]
    size = ADDRESS[version]
    quoted = zip(_QUOTED[version], (size, 1, 2), (0, size // 4, size // 4 + 1), strict=True)
    fields = b"".join(load(Base.TRANSPORT, at, size, place) for at, size, place in quoted)
    (test,) = _icmp(icmp)
    head = family(version) + protocol(bytes([number]))
    return head + test + fields + lookup(f"management{version}")


def _never(never: Iterable[tuple[int, int]], side: dict[int, int]) -> Iterator[bytes]:
    for version, prefix in never:
        address = masked_address(version, side, prefix)
        yield family(version) + address + lookup(f"never{version}_{prefix}")


def _opening(opening: Opening, source: int | None, destination: int | None) -> Iterator[bytes]:
    test = family(opening.version) + protocol(bytes([opening.protocol]))
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
    yield from own_answers()
    yield protocol(_TCP) + reset()
    yield reject(Icmpx.ADMIN_PROHIBITED)


def own_answers() -> Iterator[bytes]:
    """Let pass by what this host refuses packets."""
    ours = meta(Meta.IIF) + compare(_NOWHERE)
    for version in (4, 6):
        kind = load(Base.TRANSPORT, 0, 2) + compare(_UNREACHABLE[version])
        yield ours + protocol(_ICMP[version]) + kind + ACCEPT
    flags = load(Base.TRANSPORT, _TCP_FLAGS, 1) + mask(_RST) + compare(_RST)
    yield ours + protocol(_TCP) + flags + ACCEPT


def _marked() -> bytes:
    return meta(Meta.MARK) + compare(_DECOY_MARK.to_bytes(4, sys.byteorder))


def decoy(*, on: bool) -> Iterator[Message]:
    """Answer each SYN that false_ack marked, and swallow everything else that it marked.

    Off while no rule wants it: synproxy makes the kernel track connections.
    """
    yield objects.flush("decoy")
    if on:
        syn = load(Base.TRANSPORT, _TCP_FLAGS, 1) + mask(_FIN_SYN_RST_ACK) + compare(_SYN)
        yield objects.rule("decoy", protocol(_TCP) + syn + synproxy(_MSS, _SCALE))
        yield objects.rule("decoy", DROP)
