"""Ranks of networks that lie in each other: which rule decides about an address. Pure.

An address matches the rules of all networks it lies in, and the one with the lowest number decides
about it. So the rank of a network is the lowest number among its own rules and those of the wider
networks around it: of all networks an address lies in, the narrowest has the right one.

The filter looks into a map for each prefix length, and compares each with each. There are maps for
some lengths only, and a network of another length is in the next one as two parts, of IPv6 up to
eight: there most networks have a length of whole hexadecimal digits anyway. A part that several
networks share has the lowest of their ranks, for all of them are around any address in it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import lru_cache

from oc2d_slpf.operations import Rank, rank
from oc2d_slpf.overlap import KeySet
from oc2d_slpf.rules import Judgement, Key, Shape

__all__ = ["Ranks", "Sets", "is_wide", "map_shape", "ranks", "ranks_within"]

_MANY = 1000
_STEP = {4: 2, 6: 4}  # by IP version: maps are for prefix lengths that are multiples of this

Sets = Mapping[Shape, Mapping[Judgement, KeySet]]
Ranks = dict[Shape, dict[Key, Rank]]


@lru_cache(maxsize=1024)
def map_shape(shape: Shape) -> Shape:
    """Return the shape of the map in which a network of this shape, or its parts, are found."""
    step = _STEP[shape.version]
    return shape._replace(either=-(-_prefix(shape) // step) * step)


def ranks(sets: Sets) -> Ranks:
    """Return the rank of every key of every map; all shapes have the field `either` alone."""
    found: Ranks = {}
    for shape, verdicts in sets.items():
        own = found[shape] = {}
        for verdict, keys in verdicts.items():
            new = {key: rank(number, verdict) for key, number in keys.lows()}
            new.update((key, min(new[key], own[key])) for key in own.keys() & new.keys())
            own.update(new)
    if len(found) > 1:
        _descend(found, None)
    return _mapped(found)


def is_wide(sets: Sets, shape: Shape, key: Key) -> bool:
    """Tell whether so many keys lie in this network that it should not decide about their ranks."""
    last = _last(key, _prefix(shape))
    narrower = (parts for other, parts in sets.items() if _prefix(other) > _prefix(shape))
    return sum(keys.count(key, last) for parts in narrower for keys in parts.values()) > _MANY


def ranks_within(sets: Sets, shape: Shape, key: Key) -> Ranks:
    """Return the ranks in the maps of this network and of all that lie in it."""
    prefix, goal = _prefix(shape), map_shape(shape)
    around: Rank | None = None
    shared = False  # its parts stand for a wider network too
    found: Ranks = {}
    for other in sets:
        length = _prefix(other)
        if length < prefix:
            above = _own(sets, other, _masked(key, length))
            around = _lower(around, above)
            shared = shared or (above is not None and map_shape(other) == goal)
            continue
        keys: Iterable[Key] = (key,)
        if length > prefix:
            last = _last(key, prefix)
            keys = {one for part in sets[other].values() for one in part.between(key, last)}
        own = {one: low for one in keys if (low := _own(sets, other, one)) is not None}
        if own:
            found[other] = own
    _descend(found, around)
    mapped = _mapped(found)
    if shared and around is not None:
        parts = mapped.setdefault(goal, {})
        for one in _parts(key, prefix, _prefix(goal)):
            parts.setdefault(one, around)
    return mapped


def _mapped(found: Ranks) -> Ranks:
    """Return what is in the maps when these are the ranks of the networks."""
    maps: Ranks = {}
    for shape, keys in found.items():
        goal = map_shape(shape)
        parts = keys
        if goal != shape:
            prefix, length = _prefix(shape), _prefix(goal)
            parts = {one: own for key, own in keys.items() for one in _parts(key, prefix, length)}
        there = maps.setdefault(goal, parts)
        if there is not parts:
            parts.update((one, min(parts[one], there[one])) for one in parts.keys() & there.keys())
            there.update(parts)
    return maps


def _parts(key: Key, prefix: int, length: int) -> list[Key]:
    """Cut a network into parts of a longer prefix."""
    size, first = len(key), int.from_bytes(key, "big")
    step = 1 << 8 * size - length
    return [(first + n * step).to_bytes(size, "big") for n in range(1 << length - prefix)]


def _descend(found: Ranks, around: Rank | None) -> None:
    """Give each network the rank of the one around it where that is lower, the widest first."""
    if len(found) <= 1 and around is None:
        return
    nets = sorted((key, _prefix(shape), shape) for shape, keys in found.items() for key in keys)
    inside: list[tuple[Key, Rank]] = []  # the last address of each network that we are in, its rank
    for key, prefix, shape in nets:
        while inside and inside[-1][0] < key:
            inside.pop()
        own = found[shape][key]
        above = inside[-1][1] if inside else around
        if above is not None and above < own:
            found[shape][key] = own = above
        if prefix < 8 * len(key):
            inside.append((_last(key, prefix), own))


def _own(sets: Sets, shape: Shape, key: Key) -> Rank | None:
    lowest: Rank | None = None
    for verdict, keys in sets[shape].items():
        number = keys.lowest(key)
        if number is not None:
            lowest = _lower(lowest, rank(number, verdict))
    return lowest


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
