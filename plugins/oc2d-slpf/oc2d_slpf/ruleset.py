"""The operations of the tiers, and permits, as nf_tables messages. Pure.

Chains run at priority -310, ahead of connection tracking, so that a rule cuts established flows
too, and sees addresses before translation. Two lists hold the numbered rules: `ingress` (called
from prerouting) and `egress` (called from output and forward), each a jump per tier. What the
daemon and the host need themselves is accepted ahead of both.

Keys in a set are the fields one after the other, in network order, each padded to 4 bytes; a field
that stands alone is not padded.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from ipaddress import ip_address

from oc2d_slpf import comparison, objects, tracking
from oc2d_slpf.backend import Permit, Step, Unpermit
from oc2d_slpf.expressions import ACCEPT, DROP, Base, Meta, jump, limit, load, log, lookup, meta
from oc2d_slpf.management import DECEIVE, own_answers
from oc2d_slpf.names import LISTS, LOG, SIDES, set_name, tier_chain
from oc2d_slpf.netlink import Message
from oc2d_slpf.operations import (
    AddKeys,
    AddRanks,
    DropKeys,
    DropRanks,
    DropSet,
    DropTier,
    Fill,
    FillRanks,
    MakeRanks,
    MakeSet,
    MakeTier,
    Order,
    SetId,
)
from oc2d_slpf.packet import (
    ADDRESS,
    DESTINATION,
    SOURCE,
    TYPE_ADDRESS,
    TYPE_INET_PROTOCOL,
    TYPE_INET_SERVICE,
    family,
    masked_address,
)
from oc2d_slpf.rules import Judgement, Key, Logged, Shape, Verdict, bare

__all__ = ["render"]

_MANY = 10_000
# docs/decisions/011-state-and-logs.md has why
_RATE, _BURST = 1, 20  # packets a second that a rule logs, and at once after a silence
_HEADERS = 128  # bytes of a packet that go to a reader of logs

_VERDICTS = {
    Verdict.ALLOW: ACCEPT,
    Verdict.DROP: DROP,
    Verdict.REJECT: jump("refuse"),
    Verdict.FALSE_ACK: DECEIVE,
}


def render(steps: Iterable[Step], log_group: int | None = None) -> list[Message]:
    """Write steps as messages, in order. Packets are logged to a group, or in the kernel's log.

    A set that is made to hold many keys gets room for as many again; one that is full is refused
    with ENFILE. Others grow, which takes the kernel twice the time.
    """
    steps = list(steps)
    room = {
        step.id: 2 * len(step.keys)
        for step in steps
        if isinstance(step, (AddKeys, AddRanks)) and len(step.keys) >= _MANY
    }
    return [message for step in steps for message in _messages(step, room, log_group)]


def _messages(  # noqa: C901, PLR0912 - one case an operation
    step: Step, room: Mapping[SetId, int], log_group: int | None
) -> Iterator[Message]:
    match step:
        case AddKeys(id_, keys) if id_.shape.fields:
            yield from objects.elements(
                objects.NEWSETELEM, set_name(id_), _laid_out(id_.shape, keys)
            )
        case DropKeys(id_, keys) if id_.shape.fields:
            yield from objects.elements(
                objects.DELSETELEM, set_name(id_), _laid_out(id_.shape, keys)
            )
        case MakeTier(tier, logged):
            yield from map(objects.chain, _chains(tier, logged=logged))
        case DropTier(tier, logged):
            yield from map(objects.delete_chain, _chains(tier, logged=logged))
        case MakeSet(id_) if id_.shape.fields:
            yield objects.hash_set(set_name(id_), *_type(id_.shape), room.get(id_, 0))
        case DropSet(id_) if id_.shape.fields:
            yield objects.delete_set(set_name(id_))
        case Fill(tier, verdict, shapes):
            if isinstance(verdict, Logged):
                yield from _log(tier, verdict, log_group)
            yield from _fill(tier, verdict, shapes)
        case Order(tiers):
            for side, chain in LISTS.items():
                yield objects.flush(chain)
                yield from (objects.rule(chain, jump(tier_chain(tier, side))) for tier in tiers)
        case MakeRanks() | AddRanks() | FillRanks() | DropRanks():
            yield from comparison.messages(step, room)
        case Permit():
            yield from objects.elements(
                objects.NEWSETELEM, f"management{step.version}", [_permitted(step)]
            )
        case Unpermit(permit):
            yield from objects.elements(
                objects.DELSETELEM, f"management{permit.version}", [_permitted(permit)]
            )


def _permitted(permit: Permit) -> bytes:
    return struct.pack(
        ">%dsB3xH2x" % ADDRESS[permit.version],  # noqa: UP031 - shorter than the braces
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
    return types, addresses * ADDRESS[shape.version] + 4 * (shape.protocol + ports)


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


def _chains(tier: int, *, logged: bool) -> list[str]:
    return [tier_chain(tier, side) for side in (*LISTS, *[LOG] * logged)]


def _fill(tier: int, verdict: Judgement, shapes: Sequence[Shape]) -> Iterator[Message]:
    then = jump(tier_chain(tier, LOG)) if isinstance(verdict, Logged) else _VERDICTS[verdict]
    for side in LISTS:
        chain = tier_chain(tier, side)
        yield objects.flush(chain)
        for shape in shapes:
            tests: Iterable[bytes] = ()
            if shape.tracked:
                tests = tracking.tests(SetId(tier, shape), side)
            elif side in SIDES[shape.direction]:
                tests = _tests(SetId(tier, shape))
            for test in tests:
                yield objects.rule(chain, family(shape.version) + test + then)


def _log(tier: int, verdict: Logged, group: int | None) -> Iterator[Message]:
    """Log some of the packets, and judge all of them."""
    chain = tier_chain(tier, LOG)
    yield objects.flush(chain)
    if bare(verdict) is Verdict.REJECT:
        yield from (objects.rule(chain, rule) for rule in own_answers())
    yield objects.rule(chain, limit(_RATE, _BURST) + log(_prefix(verdict), group, _HEADERS))
    yield objects.rule(chain, _VERDICTS[bare(verdict)])


def _prefix(verdict: Logged) -> str:
    """Return what the log says ahead of the packet."""
    return f"oc2d rule {verdict.number} {bare(verdict).value}: "


def _tests(id_: SetId) -> Iterator[bytes]:
    """Look up what the shape asks for; a range that matches on either side is two lookups."""
    shape = id_.shape
    found = lookup(set_name(id_)) if shape.fields else b""
    if shape.either is not None:
        for side in (SOURCE, DESTINATION):
            yield masked_address(shape.version, side, shape.either) + found
        return
    loads = b""
    at = 0
    for side, prefix in ((SOURCE, shape.source), (DESTINATION, shape.destination)):
        if prefix is not None:
            loads += masked_address(shape.version, side, prefix, at)
            at += ADDRESS[shape.version] // 4
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
