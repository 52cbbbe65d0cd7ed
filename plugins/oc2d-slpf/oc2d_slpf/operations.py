"""What a change of the tiers means for a packet filter, whichever it is. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Protocol

import msgspec

from oc2d_slpf.rules import Judgement, Key, Shape, Verdict

__all__ = [
    "RANKED",
    "AddKeys",
    "AddRanks",
    "Change",
    "DropKeys",
    "DropRanks",
    "DropSet",
    "DropTier",
    "Fill",
    "FillRanks",
    "MakeRanks",
    "MakeSet",
    "MakeTier",
    "Operation",
    "Order",
    "Rank",
    "SetId",
    "Value",
    "add",
    "rank",
]


#: What a key of a ranked set stands for: the number of a rule, times four, and the place of its
#: verdict in `RANKED`. So ranks compare as the numbers do, and 100 000 of them are made quickly.
Rank = int
RANKED = (Verdict.ALLOW, Verdict.DROP, Verdict.REJECT)
#: What a filter has at a key: nothing, a plain element, or a rank.
Value = Rank | bool


def rank(number: int, verdict: Judgement) -> Rank:
    """Return the rank of a rule."""
    return 4 * number + RANKED.index(verdict)


class SetId(msgspec.Struct, frozen=True):
    """One hash set: the rules of one shape in one tier."""

    tier: int
    shape: Shape


class MakeTier(msgspec.Struct, frozen=True):
    """A new tier, empty and not yet consulted; `logged`: its verdict will be."""

    tier: int
    logged: bool = False


class MakeSet(msgspec.Struct, frozen=True):
    """A new empty set, not yet consulted."""

    id: SetId


class AddKeys(msgspec.Struct, frozen=True):
    """Put these keys into a set; none of them is there."""

    id: SetId
    keys: tuple[Key, ...]


class DropKeys(msgspec.Struct, frozen=True):
    """Take these keys out of a set; all of them are there."""

    id: SetId
    keys: tuple[Key, ...]


class Fill(msgspec.Struct, frozen=True):
    """From now on the tier consults exactly these sets: a hit in any has its verdict."""

    tier: int
    verdict: Judgement
    shapes: tuple[Shape, ...]


class Order(msgspec.Struct, frozen=True):
    """From now on a packet is judged by these tiers, one after the other."""

    tiers: tuple[int, ...]


class DropSet(msgspec.Struct, frozen=True):
    """Remove a set that no tier consults any more."""

    id: SetId


class DropTier(msgspec.Struct, frozen=True):
    """Remove a tier that is no longer consulted; `logged`: its verdict was."""

    tier: int
    logged: bool = False


class MakeRanks(msgspec.Struct, frozen=True):
    """New empty ranked sets in a tier, not yet consulted, beside those that it has already.

    A ranked set says of each key a rule number and a verdict.
    """

    tier: int
    shapes: tuple[Shape, ...]
    beside: tuple[Shape, ...]


class AddRanks(msgspec.Struct, frozen=True):
    """Put these keys into a ranked set; none of them is there."""

    id: SetId
    keys: tuple[Key, ...]
    ranks: tuple[Rank, ...]


class FillRanks(msgspec.Struct, frozen=True):
    """From now on the tier consults exactly these ranked sets, longest prefix first.

    Of each side of a packet the first hit counts, and of the two the lower number.
    """

    tier: int
    shapes: tuple[Shape, ...]


class DropRanks(msgspec.Struct, frozen=True):
    """Remove ranked sets that the tier does not consult any more, beside those that stay."""

    tier: int
    shapes: tuple[Shape, ...]
    beside: tuple[Shape, ...]


#: What every back end carries out.
Classic = MakeTier | MakeSet | AddKeys | DropKeys | Fill | Order | DropSet | DropTier
#: DropKeys is for ranked sets too; the others come only to a back end that is `ranked`.
Operation = Classic | MakeRanks | AddRanks | FillRanks | DropRanks


def add(id_: SetId, keys: tuple[Key, ...], values: tuple[Value, ...]) -> AddKeys | AddRanks:
    """Return what puts the keys, with what they stand for, into a set of either kind."""
    if values[0] is True:
        return AddKeys(id_, keys)
    return AddRanks(id_, keys, values)


class Arranged(Protocol):
    """What a change must know of the tiers as they are now."""

    def has(self, tier: int) -> bool:
        """Tell whether there is such a tier."""

    def fill(self, tier: int) -> Fill | FillRanks:
        """Return what makes a tier consult its sets."""

    def order(self) -> Order:
        """Return the tiers in order of evaluation."""


class Change:
    """What one or more edits of the tiers mean for the kernel, each thing once.

    Collected by element, so that a key that is added and dropped again costs nothing, and emitted
    in an order in which no operation refers to what is not there yet or no more.
    """

    def __init__(self) -> None:
        self._keys: dict[SetId, dict[Key, tuple[Value, Value]]] = defaultdict(dict)
        self._made: dict[int, bool] = {}  # of each tier whether its verdict is logged
        self._dropped: dict[int, bool] = {}
        self._sets: dict[SetId, bool] = {}
        self._filled: dict[int, None] = {}
        self._ranked: set[int] = set()
        self._reordered = False

    def keys(self, id_: SetId, before: Mapping[Key, Value], after: Mapping[Key, Value]) -> None:
        """Note what the set has at these keys, and had; False or absent: nothing."""
        keys = self._keys[id_]
        for key in before if before.keys() == after.keys() else {**before, **after}:
            old, new = before.get(key, False), after.get(key, False)
            if old == new:
                continue
            if key in keys:
                old = keys.pop(key)[0]
            if old != new:
                keys[key] = old, new

    def set(self, id_: SetId, *, there: bool, ranked: bool) -> None:
        """Note that the set came into being or is gone; its tier is filled anew."""
        self._filled[id_.tier] = None
        if ranked:
            self._ranked.add(id_.tier)
        if id_ in self._sets:
            del self._sets[id_]
        else:
            self._sets[id_] = there

    def tier(self, tier: int, *, there: bool, logged: bool) -> None:
        """Note that the tier came into being or is gone; the order is made anew."""
        self._reordered = True
        if there:
            self._made[tier] = logged
        elif tier in self._made:
            del self._made[tier]
        else:
            self._dropped[tier] = logged

    def operations(self, tiers: Arranged) -> list[Operation]:
        """Return what to do, in order, to arrive at `tiers`."""
        made = [id_ for id_, there in self._sets.items() if there]
        gone = [id_ for id_, there in self._sets.items() if not there]
        found: list[Operation] = [MakeTier(*made) for made in self._made.items()]
        fills = {tier: tiers.fill(tier) for tier in self._filled if tiers.has(tier)}
        ranked, dropped = self._rearranged(made, gone, fills)
        # to look into a set costs the kernel as much as the set has elements: before they come
        found += ranked
        found += [MakeSet(id_) for id_ in made if id_.tier not in self._ranked]
        for id_, keys in self._keys.items():
            found += self._elements(id_, keys)
        found += [fill for tier, fill in fills.items() if tier not in self._ranked]
        if self._reordered:
            found.append(tiers.order())
        found += [DropTier(*dropped) for dropped in self._dropped.items()]
        found += [DropSet(id_) for id_ in gone if id_.tier not in self._ranked]
        return found + dropped

    def _elements(
        self, id_: SetId, keys: Mapping[Key, tuple[Value, Value]]
    ) -> Iterator[AddKeys | AddRanks | DropKeys]:
        dropped = tuple(key for key, (old, _) in keys.items() if old)
        # a set that goes takes its keys along, and one that came and went is never seen
        if dropped and self._sets.get(id_) is not False:
            yield DropKeys(id_, dropped)
        added = {key: new for key, (_, new) in keys.items() if new}
        if added:
            yield add(id_, tuple(added), tuple(added.values()))

    def _rearranged(
        self, made: list[SetId], gone: list[SetId], fills: Mapping[int, Fill | FillRanks]
    ) -> tuple[list[Operation], list[Operation]]:
        """Return what to do first and what to do last with the tiers of ranked sets."""
        first: list[Operation] = []
        last: list[Operation] = []
        for tier in filter(self._ranked.__contains__, self._filled):
            new = tuple(id_.shape for id_ in made if id_.tier == tier)
            old = tuple(id_.shape for id_ in gone if id_.tier == tier)
            shapes = fills[tier].shapes if tier in fills else ()
            stay = tuple(shape for shape in shapes if shape not in new)
            if new:
                first.append(MakeRanks(tier, new, stay))
            if tier in fills:
                first.append(fills[tier])
            if old:
                last.append(DropRanks(tier, old, stay))
        return first, last
