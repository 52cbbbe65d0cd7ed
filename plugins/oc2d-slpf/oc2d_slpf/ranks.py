"""Ranks of networks that lie in each other: which rule decides about an address. Pure.

An address matches the rules of all networks it lies in, and the one with the lowest number decides
about it. So the rank of a network is the lowest number among its own rules and those of the wider
networks around it: of all networks an address lies in, the narrowest has the right one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from oc2d_slpf.operations import Rank
from oc2d_slpf.overlap import KeySet
from oc2d_slpf.rules import Key, Shape, Verdict

__all__ = ["Ranks", "Sets", "is_wide", "ranks", "ranks_within"]

_MANY = 1000

Sets = Mapping[Shape, Mapping[Verdict, KeySet]]
Ranks = dict[Shape, dict[Key, Rank]]


def ranks(sets: Sets) -> Ranks:
    """Return the rank of every key; all shapes have the field `either` alone."""
    found: Ranks = {}
    for shape, verdicts in sets.items():
        own = found[shape] = {}
        for verdict, keys in verdicts.items():
            new = {key: (number, verdict) for key, number in keys.lows()}
            new.update((key, min(new[key], own[key])) for key in own.keys() & new.keys())
            own.update(new)
    if len(found) > 1:
        _descend(found, None)
    return found


def is_wide(sets: Sets, shape: Shape, key: Key) -> bool:
    """Tell whether so many keys lie in this network that it should not decide about their ranks."""
    last = _last(key, _prefix(shape))
    narrower = (parts for other, parts in sets.items() if _prefix(other) > _prefix(shape))
    return sum(keys.count(key, last) for parts in narrower for keys in parts.values()) > _MANY


def ranks_within(sets: Sets, shape: Shape, key: Key) -> Ranks:
    """Return the ranks of this key and of all networks that lie in it."""
    prefix = _prefix(shape)
    around: Rank | None = None
    found: Ranks = {}
    for other in sets:
        length = _prefix(other)
        if length < prefix:
            around = _lower(around, _own(sets, other, _masked(key, length)))
            continue
        keys: Iterable[Key] = (key,)
        if length > prefix:
            last = _last(key, prefix)
            keys = {one for part in sets[other].values() for one in part.between(key, last)}
        own = {one: rank for one in keys if (rank := _own(sets, other, one)) is not None}
        if own:
            found[other] = own
    _descend(found, around)
    return found


def _descend(found: Ranks, around: Rank | None) -> None:
    """Give each network the rank of the one around it where that is lower, the widest first."""
    if len(found) == 1 and around is None:
        return
    nets = sorted((key, _prefix(shape), shape) for shape, keys in found.items() for key in keys)
    inside: list[tuple[Key, Rank]] = []  # the last address of each network that we are in, its rank
    for key, prefix, shape in nets:
        while inside and inside[-1][0] < key:
            inside.pop()
        rank = found[shape][key]
        above = inside[-1][1] if inside else around
        if above is not None and above < rank:
            found[shape][key] = rank = above
        if prefix < 8 * len(key):
            inside.append((_last(key, prefix), rank))


def _own(sets: Sets, shape: Shape, key: Key) -> Rank | None:
    rank: Rank | None = None
    for verdict, keys in sets[shape].items():
        number = keys.lowest(key)
        if number is not None:
            rank = _lower(rank, (number, verdict))
    return rank


def _lower(one: Rank | None, other: Rank | None) -> Rank | None:
    if one is None or other is None:
        return one or other
    return min(one, other)


def _prefix(shape: Shape) -> int:
    assert shape.either is not None  # noqa: S101 - for the type checker
    return shape.either


def _masked(key: Key, prefix: int) -> Key:
    rest = 8 * len(key) - prefix
    return (int.from_bytes(key, "big") >> rest << rest).to_bytes(len(key), "big")


def _last(key: Key, prefix: int) -> Key:
    rest = (1 << 8 * len(key) - prefix) - 1
    return (int.from_bytes(key, "big") | rest).to_bytes(len(key), "big")
