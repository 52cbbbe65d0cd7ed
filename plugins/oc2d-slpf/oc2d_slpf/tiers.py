"""The rule list as tiers of hash sets: flat cost for packets and for commands. Pure.

Consecutive rules of one verdict form a tier: within it order does not matter. In a tier, the rules
of one shape are one plain hash set. A packet is looked up tier by tier, the first hit decides: the
same as first match over the list. Each change yields the operations that bring the kernel from the
old structure to the new one; on an existing shape that is one element.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import groupby

from oc2d_slpf.rules import Key, Rule, Shape, Verdict

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
    "Tiers",
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


@dataclass(slots=True)
class _Tier:
    """`numbers` ascending; `sets` counts the rules behind each key: they share one element."""

    id: int
    verdict: Verdict
    numbers: list[int] = field(default_factory=list)
    sets: dict[Shape, dict[Key, int]] = field(default_factory=dict)


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

    def operations(self, tiers: Tiers) -> list[Operation]:
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


class Tiers:
    """The rules in force, by number, and the tiers they form."""

    def __init__(self, rules: Iterable[Rule] = ()) -> None:
        self._rules: dict[int, Rule] = {}
        self._tiers: list[_Tier] = []
        self._by_id: dict[int, _Tier] = {}
        self._last_id = 0
        self._load(rules)

    def __len__(self) -> int:
        return len(self._rules)

    def __contains__(self, number: int) -> bool:
        return number in self._rules

    def add(self, rule: Rule, change: Change) -> None:
        """Put a rule with a number that is free in its place."""
        tier = self._place(rule, change)
        insort(tier.numbers, rule.number)
        self._rules[rule.number] = rule
        self._count_up(tier, rule, change)

    def remove(self, number: int, change: Change) -> None:
        """Take the rule with this number out."""
        rule = self._rules.pop(number)
        index = self._index_of(number)
        tier = self._tiers[index]
        del tier.numbers[bisect_left(tier.numbers, number)]
        self._count_down(tier, rule, change)
        if not tier.numbers:
            self._drop(index, change)
            self._merge(index, change)

    def operations(self) -> list[Operation]:
        """Return what builds all of it from nothing."""
        ids = [SetId(tier.id, shape) for tier in self._tiers for shape in tier.sets]
        found: list[Operation] = [MakeTier(tier.id) for tier in self._tiers]
        found += [MakeSet(id_) for id_ in ids]
        found += [AddKeys(id_, tuple(self._by_id[id_.tier].sets[id_.shape])) for id_ in ids]
        found += [self.fill(tier.id) for tier in self._tiers]
        return [*found, self.order()]

    def has(self, tier: int) -> bool:
        """Tell whether there is such a tier."""
        return tier in self._by_id

    def fill(self, tier: int) -> Fill:
        """Return what makes a tier consult its sets."""
        found = self._by_id[tier]
        return Fill(tier, found.verdict, tuple(found.sets))

    def order(self) -> Order:
        """Return the tiers in order of evaluation."""
        return Order(tuple(tier.id for tier in self._tiers))

    # -- tiers

    def _load(self, rules: Iterable[Rule]) -> None:
        ordered = sorted(rules, key=lambda rule: rule.number)
        self._rules = {rule.number: rule for rule in ordered}
        unseen = Change()
        for verdict, run in groupby(ordered, key=lambda rule: rule.verdict):
            tier = self._make(len(self._tiers), verdict, unseen)
            for rule in run:
                tier.numbers.append(rule.number)
                keys = tier.sets.setdefault(rule.shape, {})
                keys[rule.key] = keys.get(rule.key, 0) + 1

    def _place(self, rule: Rule, change: Change) -> _Tier:
        """Find the tier that takes the rule, or make room for one."""
        after = bisect_right(self._tiers, rule.number, key=lambda tier: tier.numbers[0])
        before = self._tiers[after - 1] if after else None
        if before is not None and before.verdict is rule.verdict:
            return before
        if before is not None and before.numbers[-1] > rule.number:
            self._split(after - 1, rule.number, change)
        elif after < len(self._tiers) and self._tiers[after].verdict is rule.verdict:
            return self._tiers[after]
        return self._make(after, rule.verdict, change)

    def _index_of(self, number: int) -> int:
        return bisect_right(self._tiers, number, key=lambda tier: tier.numbers[0]) - 1

    def _make(self, index: int, verdict: Verdict, change: Change) -> _Tier:
        self._last_id += 1
        tier = _Tier(self._last_id, verdict)
        self._tiers.insert(index, tier)
        self._by_id[tier.id] = tier
        change.tier(tier.id, there=True)
        return tier

    def _drop(self, index: int, change: Change) -> None:
        tier = self._tiers.pop(index)
        del self._by_id[tier.id]
        change.tier(tier.id, there=False)

    def _split(self, index: int, number: int, change: Change) -> None:
        """Cut a tier in two before `number`; the smaller half moves into a tier of its own."""
        tier = self._tiers[index]
        cut = bisect_left(tier.numbers, number)
        first = cut <= len(tier.numbers) - cut
        moving = tier.numbers[:cut] if first else tier.numbers[cut:]
        tier.numbers = tier.numbers[cut:] if first else tier.numbers[:cut]
        half = self._make(index if first else index + 1, tier.verdict, change)
        self._move(moving, tier, half, change)

    def _merge(self, index: int, change: Change) -> None:
        """Join the tiers on both sides of `index` if they have one verdict: the smaller one moves.

        Without this, rules that come and go in the middle would grind the list to ever more tiers.
        """
        if not 0 < index < len(self._tiers):
            return
        pair = self._tiers[index - 1 : index + 1]
        if pair[0].verdict is not pair[1].verdict:
            return
        smaller = 0 if len(pair[0].numbers) < len(pair[1].numbers) else 1
        moving = pair[smaller].numbers
        pair[smaller].numbers = []
        self._move(moving, pair[smaller], pair[1 - smaller], change)
        self._drop(index - 1 + smaller, change)

    def _move(self, moving: list[int], source: _Tier, target: _Tier, change: Change) -> None:
        for number in moving:
            self._count_down(source, self._rules[number], change)
            self._count_up(target, self._rules[number], change)
        at_front = bool(target.numbers) and moving[0] < target.numbers[0]
        target.numbers = moving + target.numbers if at_front else target.numbers + moving

    # -- keys

    @staticmethod
    def _count_up(tier: _Tier, rule: Rule, change: Change) -> None:
        id_ = SetId(tier.id, rule.shape)
        if rule.shape not in tier.sets:
            tier.sets[rule.shape] = {}
            change.set(id_, there=True)
        keys = tier.sets[rule.shape]
        keys[rule.key] = keys.get(rule.key, 0) + 1
        if keys[rule.key] == 1:
            change.key(id_, rule.key, there=True)

    @staticmethod
    def _count_down(tier: _Tier, rule: Rule, change: Change) -> None:
        id_ = SetId(tier.id, rule.shape)
        keys = tier.sets[rule.shape]
        keys[rule.key] -= 1
        if not keys[rule.key]:
            del keys[rule.key]
            change.key(id_, rule.key, there=False)
        if not keys:
            del tier.sets[rule.shape]
            change.set(id_, there=False)
