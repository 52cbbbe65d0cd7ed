"""Tiers of many rules at once: whole sets find their places, where they can be in order. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import combinations

from oc2d_slpf.arrangement import Arrangement
from oc2d_slpf.operations import Change
from oc2d_slpf.overlap import KeySet, Projections, order
from oc2d_slpf.rules import Alike, Rule
from oc2d_slpf.tier import Kind, Tier

__all__ = ["build"]


class _Part:
    """Sets that go into one tier, and which other parts must be ahead of and behind it."""

    def __init__(self, kind: Kind, sets: list[KeySet]) -> None:
        self.kind = kind
        self.sets = sets
        self.ahead: set[_Part] = set()
        self.behind: set[_Part] = set()
        self.place = -1


def build(arrangement: Arrangement, groups: Iterable[Alike]) -> list[Rule]:
    """Fill an empty arrangement; return what is left to be added one by one, in that order.

    Nothing is left unless parts must be ahead of each other both ways, as when a list of denies
    has an allow in its middle that overlaps rules above and below.
    """
    parts = list(_parts(arrangement, groups))
    known: Projections = {}
    for one, other in combinations(parts, 2):
        _relate(one, other, known)
    first = _sorted(parts, lambda part: part.ahead)
    rest = [part for part in parts if part not in first]
    last = _sorted(rest, lambda part: part.behind)[::-1]
    _place(arrangement, first)
    _place(arrangement, last)
    for part in parts:
        for keys in part.sets:
            arrangement.span(*keys.extremes)
    left = [part for part in rest if part not in last]
    rules = (rule for part in left for keys in part.sets for rule in keys.rules())
    return sorted(rules, reverse=True)


def _parts(arrangement: Arrangement, groups: Iterable[Alike]) -> Iterator[_Part]:
    ranked: dict[Kind, list[KeySet]] = {}
    for group in groups:
        kind = arrangement.ranked_kind(group.shape, group.verdict)
        keys = KeySet(*group)
        if kind is None:
            yield _Part(group.verdict, [keys])
        else:
            ranked.setdefault(kind, []).append(keys)
    for kind, sets in ranked.items():
        if len({keys.verdict for keys in sets}) == 1:
            yield from (_Part(keys.verdict, [keys]) for keys in sets)
        else:
            yield _Part(kind, sets)


def _relate(one: _Part, other: _Part, known: Projections) -> None:
    for mine in one.sets:
        for theirs in other.sets:
            if mine.verdict == theirs.verdict:
                continue
            ahead, behind = order(mine, theirs, known)
            if ahead:
                one.behind.add(other)
                other.ahead.add(one)
            if behind:
                one.ahead.add(other)
                other.behind.add(one)
            if one in other.ahead and one in other.behind:
                return


def _sorted(parts: list[_Part], needs: Callable[[_Part], set[_Part]]) -> list[_Part]:
    """Return parts whose needs are met by those before them, as far as that goes."""
    done: dict[_Part, None] = {}
    among = set(parts)
    while ready := [
        part for part in parts if part not in done and (needs(part) & among) <= done.keys()
    ]:
        done |= dict.fromkeys(ready)
    return list(done)


def _place(arrangement: Arrangement, parts: list[_Part]) -> None:
    """Put parts in tiers behind all those that there are, each as far to the front as it may."""
    start = len(arrangement.tiers)
    for part in parts:
        after = max([start - 1, *(other.place for other in part.ahead)])
        tier = _tier(arrangement, part, after)
        for keys in part.sets:
            tier.sets.setdefault(keys.shape, {})[keys.verdict] = keys
        part.place = arrangement.tiers.index(tier)


def _tier(arrangement: Arrangement, part: _Part, after: int) -> Tier:
    for tier in arrangement.tiers[after + 1 :]:
        if tier.kind == part.kind and not tier.ranked:
            return tier
    return arrangement.make(part.kind, len(arrangement.tiers), Change())
