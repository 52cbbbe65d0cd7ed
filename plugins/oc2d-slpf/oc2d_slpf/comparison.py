"""Ranked sets in nf_tables: of two rule numbers found for a packet, the lower one decides. Pure.

Each ranked set is a map from address to rule number and verdict. A tier looks up the source in its
maps, then the destination; where only one of them is found, its verdict is taken. Where both are,
their numbers are compared. nf_tables cannot compare registers, but it can look two of them up
together: a rule loads both numbers into neighbouring registers, masks the same four bits of both,
and a small map says which is lower, from the highest bits down.

A rule must load all that it uses. So there is a chain for each pair of maps, with one rule that
loads from both, and for each map a chain that jumps to those of its pairs. A rule that refers to a
map costs the kernel a walk through the map when it is made: these chains are made once, when the
map is new, and the chains that put them in order refer to no map.

Needs nothing that came after Linux 4.1.
"""

from __future__ import annotations

import struct
import sys
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from itertools import product

from oc2d_slpf import objects
from oc2d_slpf.expressions import (
    NF_ACCEPT,
    NF_DROP,
    NFT_CONTINUE,
    NFT_JUMP,
    choose,
    get,
    jump,
    mask,
    put,
    verdict,
)
from oc2d_slpf.names import SIDES, set_name, tier_chain
from oc2d_slpf.netlink import Message
from oc2d_slpf.operations import RANKED, AddRanks, DropRanks, FillRanks, MakeRanks, SetId
from oc2d_slpf.packet import (
    ADDRESS,
    DESTINATION,
    SOURCE,
    TYPE_ADDRESS,
    TYPE_MARK,
    family,
    masked_address,
)
from oc2d_slpf.rules import MAX_NUMBER, Shape, Verdict

__all__ = ["base", "messages"]

# registers: number and verdict of the source's rule, of the destination's rule
_ADDRESS = 0
_ZERO = 5
_SOURCE, _DESTINATION = 6, 8
_BITS, _STATE = 11, 15  # what is compared, and what came out so far
_UNDECIDED, _LOWER = 0, 1  # the destination's number is the lower one; if it is not, the rule ends
_STEP = 4  # bits compared at once
_SHIFTS = range((MAX_NUMBER.bit_length() - 1) // _STEP * _STEP, -1, -_STEP)
_VERDICTS = {
    Verdict.ALLOW: verdict(NF_ACCEPT),
    Verdict.DROP: verdict(NF_DROP),
    Verdict.REJECT: verdict(NFT_JUMP, "refuse"),
}
_RANK = struct.Struct("=II")


def base() -> Iterator[Message]:
    """Make the maps that are the same for all ranked sets."""
    yield objects.hash_map("verdicts", [TYPE_MARK], 4, None)
    coded = {_word(code): _VERDICTS[verdict] for code, verdict in enumerate(RANKED)}
    yield from objects.pairs("verdicts", list(coded), list(coded.values()), verdicts=True)
    yield objects.hash_map("agreed", [TYPE_MARK] * 3, 12, None)
    for code, other in product(coded, coded):
        chosen = coded[code] if code == other else verdict(NFT_CONTINUE)
        yield from objects.pairs("agreed", [code + bytes(4) + other], [chosen], verdicts=True)
    for shift in _SHIFTS:
        found = _comparison(shift)
        yield objects.hash_map(f"compare{shift}", [TYPE_MARK] * 4, 16, [TYPE_MARK], 4)
        yield from objects.pairs(f"compare{shift}", list(found), list(found.values()))


def _comparison(shift: int) -> dict[bytes, bytes]:
    """Say by bits of source and destination and what came out before, what comes out."""
    digits = range(1 << _STEP)
    found = {}
    for mine, theirs in product(digits, digits):
        pair = _word(mine << shift) + bytes(4) + _word(theirs << shift)
        if mine == theirs:
            found[pair + _word(_UNDECIDED)] = _word(_UNDECIDED)
        elif mine > theirs:
            found[pair + _word(_UNDECIDED)] = _word(_LOWER)
        found[pair + _word(_LOWER)] = _word(_LOWER)
    return found


def messages(
    step: MakeRanks | AddRanks | FillRanks | DropRanks, room: Mapping[SetId, int]
) -> Iterator[Message]:
    """Write an operation on ranked sets as messages; `room` is that of large ones."""
    match step:
        case MakeRanks():
            yield from _make(step, room)
        case AddRanks(id_, keys, ranks):
            values = [_RANK.pack(rank // 4, rank % 4) for rank in ranks]
            yield from objects.pairs(set_name(id_), keys, values)
        case FillRanks(tier, shapes):
            for side in SIDES[shapes[0].direction]:
                yield from _fill(tier, shapes, tier_chain(tier, side))
            for shape in shapes:
                yield from _order(tier, shape, shapes)
        case DropRanks():
            yield from _drop(step)


def _make(step: MakeRanks, room: Mapping[SetId, int]) -> Iterator[Message]:
    """Make new maps, and the chains that look into them."""
    for shape in step.shapes:
        name = _map(step.tier, shape)
        types, size = [TYPE_ADDRESS[shape.version]], ADDRESS[shape.version]
        most = room.get(SetId(step.tier, shape), 0)
        yield objects.hash_map(name, types, size, [TYPE_MARK] * 2, 8, most)
        yield from map(objects.chain, (name, f"{name}_alone"))
        alone = _find(step.tier, shape, SOURCE, _SOURCE) + choose("verdicts", _SOURCE + 1)
        yield objects.rule(f"{name}_alone", family(shape.version) + alone)
    for source, destination in _pairs(step):
        chain = _pair(step.tier, source, destination)
        yield objects.chain(chain)
        yield objects.rule(chain, _compared(step.tier, source, destination))


def _fill(tier: int, shapes: Sequence[Shape], chain: str) -> Iterator[Message]:
    """Look up the source in each map, else the destination."""
    yield objects.flush(chain)
    for shape in shapes:
        found = _find(tier, shape, SOURCE, _SOURCE) + jump(_map(tier, shape))
        yield objects.rule(chain, family(shape.version) + found)
    for shape in shapes:
        found = _find(tier, shape, DESTINATION, _DESTINATION)
        found += choose("verdicts", _DESTINATION + 1)
        yield objects.rule(chain, family(shape.version) + found)


def _order(tier: int, source: Shape, shapes: Sequence[Shape]) -> Iterator[Message]:
    """Where the source was found: compare with the destination in each map."""
    chain = _map(tier, source)
    yield objects.flush(chain)
    yield from (objects.rule(chain, jump(_pair(tier, source, other))) for other in shapes)
    yield objects.rule(chain, jump(f"{chain}_alone"))


def _drop(step: DropRanks) -> Iterator[Message]:
    """Remove maps that no tier consults, and their chains."""
    names = [_map(step.tier, shape) for shape in step.shapes]
    yield from map(objects.delete_chain, names)
    yield from (objects.delete_chain(f"{name}_alone") for name in names)
    yield from (objects.delete_chain(_pair(step.tier, *pair)) for pair in _pairs(step))
    yield from map(objects.delete_set, names)


def _word(value: int) -> bytes:
    return value.to_bytes(4, sys.byteorder)


def _map(tier: int, shape: Shape) -> str:
    return set_name(SetId(tier, shape))


def _pair(tier: int, source: Shape, destination: Shape) -> str:
    return f"{_map(tier, source)}_to_{destination.either}"


def _pairs(step: MakeRanks | DropRanks) -> Iterator[tuple[Shape, Shape]]:
    """Yield the pairs of maps that these are in."""
    everything = (*step.beside, *step.shapes)
    for source, destination in product(everything, everything):
        if source in step.shapes or destination in step.shapes:
            yield source, destination


def _find(tier: int, shape: Shape, side: dict[int, int], into: int) -> bytes:
    """Look up one side of the packet; load number and verdict."""
    assert shape.either is not None  # noqa: S101 - for the type checker
    address = masked_address(shape.version, side, shape.either, _ADDRESS)
    return address + get(_map(tier, shape), _ADDRESS, into)


def _compared(tier: int, source: Shape, destination: Shape) -> bytes:
    """Take the verdict of the destination if both are found and its number is the lower one.

    Where both have one verdict it is taken at once.
    """
    found = _find(tier, destination, DESTINATION, _DESTINATION)
    found += _find(tier, source, SOURCE, _SOURCE)
    return family(source.version) + found + _comparing()


@cache
def _comparing() -> bytes:
    whole = b"\xff" * 4
    found = mask(whole + bytes(4) + whole, _SOURCE + 1, into=_BITS) + choose("agreed", _BITS)
    found += put(bytes(8), _ZERO - 1) + put(_word(_UNDECIDED), _STATE)
    for shift in _SHIFTS:
        bits = _word((1 << _STEP) - 1 << shift)
        found += mask(bytes(4) + bits + bytes(4) + bits, _ZERO, into=_BITS)
        found += get(f"compare{shift}", _BITS + 1, _STATE)
    return found + choose("verdicts", _DESTINATION + 1)
