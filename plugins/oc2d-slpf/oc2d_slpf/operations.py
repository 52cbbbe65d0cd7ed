"""What a change of the tiers means for a packet filter, whichever it is. Pure."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import Protocol

from oc2d_slpf.rules import Key, Shape, Verdict

__all__ = [
    "AddKeys",
    "Change",
    "DropKeys",
    "DropSet",
    "DropTier",
    "Fill",
    "MakeSet",
    "MakeTier",
    "Operation",
    "Order",
    "SetId",
]


@dataclass(frozen=True, slots=True)
class SetId:
    """One hash set: the rules of one shape in one tier."""

    tier: int
    shape: Shape


@dataclass(frozen=True, slots=True)
class MakeTier:
    """A new tier, empty and not yet consulted."""

    tier: int


@dataclass(frozen=True, slots=True)
class MakeSet:
    """A new empty set, not yet consulted."""

    id: SetId


@dataclass(frozen=True, slots=True)
class AddKeys:
    """Put these keys into a set; none of them is there."""

    id: SetId
    keys: tuple[Key, ...]


@dataclass(frozen=True, slots=True)
class DropKeys:
    """Take these keys out of a set; all of them are there."""

    id: SetId
    keys: tuple[Key, ...]


@dataclass(frozen=True, slots=True)
class Fill:
    """From now on the tier consults exactly these sets: a hit in any has its verdict."""

    tier: int
    verdict: Verdict
    shapes: tuple[Shape, ...]


@dataclass(frozen=True, slots=True)
class Order:
    """From now on a packet is judged by these tiers, one after the other."""

    tiers: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class DropSet:
    """Remove a set that no tier consults any more."""

    id: SetId


@dataclass(frozen=True, slots=True)
class DropTier:
    """Remove a tier that is no longer consulted."""

    tier: int


Operation = MakeTier | MakeSet | AddKeys | DropKeys | Fill | Order | DropSet | DropTier


class Arranged(Protocol):
    """What a change must know of the tiers as they are now."""

    def has(self, tier: int) -> bool:
        """Tell whether there is such a tier."""

    def fill(self, tier: int) -> Fill:
        """Return what makes a tier consult its sets."""

    def order(self) -> Order:
        """Return the tiers in order of evaluation."""


class Change:
    """What one or more edits of the tiers mean for the kernel, each thing once.

    Collected by element, so that a key that is added and dropped again costs nothing, and emitted
    in an order in which no operation refers to what is not there yet or no more.
    """

    def __init__(self) -> None:
        self._keys: dict[SetId, dict[Key, bool]] = defaultdict(dict)
        self._made: dict[int, None] = {}
        self._dropped: dict[int, None] = {}
        self._sets: dict[SetId, bool] = {}
        self._filled: dict[int, None] = {}
        self._reordered = False

    def key(self, id_: SetId, key: Key, *, there: bool) -> None:
        """Note that the key is in the set (`there`) or is not, where it was the other way round."""
        keys = self._keys[id_]
        if key in keys:
            del keys[key]
        else:
            keys[key] = there

    def set(self, id_: SetId, *, there: bool) -> None:
        """Note that the set came into being or is gone; its tier is filled anew."""
        self._filled[id_.tier] = None
        if id_ in self._sets:
            del self._sets[id_]
        else:
            self._sets[id_] = there

    def tier(self, tier: int, *, there: bool) -> None:
        """Note that the tier came into being or is gone; the order is made anew."""
        self._reordered = True
        if there:
            self._made[tier] = None
        elif tier in self._made:
            del self._made[tier]
        else:
            self._dropped[tier] = None

    def operations(self, tiers: Arranged) -> list[Operation]:
        """Return what to do, in order, to arrive at `tiers`."""
        made = [id_ for id_, there in self._sets.items() if there]
        gone = [id_ for id_, there in self._sets.items() if not there]
        found: list[Operation] = [MakeTier(tier) for tier in self._made]
        found += [MakeSet(id_) for id_ in made]
        for id_, keys in self._keys.items():
            if added := tuple(key for key, there in keys.items() if there):
                found.append(AddKeys(id_, added))
            dropped = tuple(key for key, there in keys.items() if not there)
            # a set that goes takes its keys along, and one that came and went is never seen
            if dropped and self._sets.get(id_) is not False:
                found.append(DropKeys(id_, dropped))
        found += [tiers.fill(tier) for tier in self._filled if tiers.has(tier)]
        if self._reordered:
            found.append(tiers.order())
        found += [DropTier(tier) for tier in self._dropped]
        found += [DropSet(id_) for id_ in gone]
        return found
