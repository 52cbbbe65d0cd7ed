"""The rule list as tiers of hash sets: flat cost for packets and for commands. Pure.

A tier has one verdict, and a packet is judged by the tiers one after the other, so within a tier
order does not matter; its rules of one shape are one plain hash set. Rules that cannot match the
same packet commute. So this is all that must hold: of two rules of different verdicts that may
match the same packet, the one with the lower number is in an earlier tier. It makes the first hit
the same as first match over the list (docs/decisions/005-tiers-and-overlaps.md has the costs).

Each change yields the operations that bring the kernel from the old structure to the new one; on an
existing shape that is one element.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise

from oc2d_slpf.operations import (
    AddKeys,
    Change,
    DropKeys,
    DropSet,
    DropTier,
    Fill,
    MakeSet,
    MakeTier,
    Operation,
    Order,
    SetId,
)
from oc2d_slpf.overlap import Exhausted, KeySet, Patience
from oc2d_slpf.rules import Rule, Shape, Verdict

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


# Limits that keep a change short; each trades the number of tiers against what is moved.
_PATIENCE = 50_000  # candidates that the search for what to move may look at
_ENDLESS = sys.maxsize
_MOVES = 500  # rules that are moved one by one; above it, tiers are cut in two
_FEW = 8  # rules of a tier that is tried to be done without
_LARGE = 1000  # rules that are not moved only to join two tiers, while there are
_SPARE = 4  # at most so many pairs to join


@dataclass(slots=True, eq=False)
class _Tier:
    """One verdict, and the rules that have it here by shape."""

    id: int
    verdict: Verdict
    sets: dict[Shape, KeySet] = field(default_factory=dict)

    def __len__(self) -> int:
        return sum(len(keys) for keys in self.sets.values())

    @property
    def numbers(self) -> list[int]:
        """The numbers of its rules, in no order."""
        return [number for keys in self.sets.values() for number in keys.numbers]


class Tiers:
    """The rules in force, by number, and the tiers they form."""

    def __init__(self, rules: Iterable[Rule] = ()) -> None:
        self._rules: dict[int, tuple[Rule, _Tier]] = {}
        self._tiers: list[_Tier] = []
        self._by_id: dict[int, _Tier] = {}
        self._last_id = 0
        self._turn = 0
        # no rule has a lower or a higher number; not brought back when rules go
        self._lowest, self._highest = float("inf"), float("-inf")
        unseen = Change()
        for rule in sorted(rules, key=lambda rule: -rule.number):
            self.add(rule, unseen)

    def __len__(self) -> int:
        return len(self._rules)

    def __contains__(self, number: int) -> bool:
        return number in self._rules

    def add(self, rule: Rule, change: Change) -> None:
        """Put a rule with a number that is free in its place."""
        after, before = self._bounds(rule)
        self._lowest = min(self._lowest, rule.number)
        newest = rule.number > self._highest
        self._highest = max(self._highest, rule.number)
        if after < before:
            # rules mostly come at one end of the list: keep away from it, so that they fit there
            from_front = before == len(self._tiers) and (after >= 0 or newest)
            tier = self._room(rule.verdict, after, before, change, from_front=from_front)
            self._insert(rule, tier, change)
        else:
            self._disentangle(rule, change)

    def remove(self, number: int, change: Change) -> None:
        """Take the rule with this number out."""
        tier = self._rules[number][1]
        self._take(number, change)
        if self._dissolve(change) or not tier.sets:
            self._tidy(change)

    def operations(self) -> list[Operation]:
        """Return what builds all of it from nothing."""
        ids = [SetId(tier.id, shape) for tier in self._tiers for shape in tier.sets]
        found: list[Operation] = [MakeTier(tier.id) for tier in self._tiers]
        found += [MakeSet(id_) for id_ in ids]
        found += [AddKeys(id_, self._by_id[id_.tier].sets[id_.shape].keys) for id_ in ids]
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

    # -- where a rule may be

    def _bounds(self, rule: Rule, patience: Patience | None = None) -> tuple[int, int]:
        """Return the last tier that must be before the rule's, and the first that must be after.

        By index; -1 and the number of tiers are none. If they are the wrong way round, there is no
        place for the rule as things are.
        """
        after, before = -1, len(self._tiers)
        if rule.number < self._highest:
            for index, tier in enumerate(self._tiers):
                if self._sides(tier, rule, patience)[1]:
                    before = index
                    break
        if rule.number > self._lowest:
            for index in range(len(self._tiers) - 1, -1, -1):
                if self._sides(self._tiers[index], rule, patience)[0]:
                    after = index
                    break
        return after, before

    @staticmethod
    def _sides(tier: _Tier, rule: Rule, patience: Patience | None) -> tuple[bool, bool]:
        """Tell whether the tier has rules that must come before this one, and some after."""
        ahead = behind = False
        if tier.verdict is not rule.verdict:
            for keys in tier.sets.values():
                found = keys.sides(rule, patience)
                ahead, behind = ahead or found[0], behind or found[1]
        return ahead, behind

    def _room(
        self, verdict: Verdict, after: int, before: int, change: Change, *, from_front: bool
    ) -> _Tier:
        """Return a tier of this verdict between the two, the first or the last, or a new one."""
        between = range(after + 1, before)
        for index in between if from_front else reversed(between):
            if self._tiers[index].verdict is verdict:
                return self._tiers[index]
        tier = self._make(verdict, change)
        self._tiers.insert(after + 1 if from_front else before, tier)
        return tier

    # -- making a place where there is none

    def _disentangle(self, rule: Rule, change: Change) -> None:
        """Put a rule in place that some of a tier must precede and some must follow."""
        try:
            groups, back = self._in_the_way(rule)
        except Exhausted:
            self._cut(rule, change)
        else:
            self._rearrange(rule, groups, change, back=back)
        self._tidy(change)

    def _in_the_way(self, rule: Rule) -> tuple[list[list[Rule]], bool]:
        """Find the fewest rules to move, by tier in order, and whether they go back.

        What moves back takes along all that must stay behind it, as far as the tiers in question
        reach; it is the same to the front. Raises `Exhausted` when that is too many.
        """
        patience = Patience(_PATIENCE)
        after, before = self._bounds(rule, patience)
        window = self._tiers[before : after + 1]
        found: list[tuple[list[list[Rule]], bool]] = []
        for back in (True, False):
            patience = Patience(_PATIENCE)
            try:
                found.append((self._closure(rule, window, patience, back=back), back))
            except Exhausted:
                continue
        if not found:
            raise Exhausted
        return min(found, key=lambda way: sum(map(len, way[0])))

    def _closure(
        self, rule: Rule, window: list[_Tier], patience: Patience, *, back: bool
    ) -> list[list[Rule]]:
        moving: dict[_Tier, dict[int, Rule]] = {tier: {} for tier in window}
        waiting, count = [rule], 0
        while waiting:
            one = waiting.pop()
            for tier in window:
                for other in self._opposed(tier, one, patience, back=back):
                    if other not in moving[tier]:
                        moving[tier][other] = self._rules[other][0]
                        waiting.append(moving[tier][other])
                        count += 1
                        if count > _MOVES:
                            raise Exhausted
        return [list(rules.values()) for rules in moving.values() if rules]

    @staticmethod
    def _opposed(tier: _Tier, rule: Rule, patience: Patience, *, back: bool) -> Iterator[int]:
        if tier.verdict is not rule.verdict:
            for keys in tier.sets.values():
                for number in keys.overlapping(rule, patience):
                    if (number > rule.number) is back:
                        yield number

    def _rearrange(
        self, rule: Rule, groups: list[list[Rule]], change: Change, *, back: bool
    ) -> None:
        """Take the groups out; put the rule and then them where each still has a place.

        Going back, each group comes as far to the front as it may, and before all that the groups
        after it must precede, so there is a place for every one of them; to the front likewise.
        """
        for group in groups:
            for one in group:
                self._take(one.number, change)
        waiting = [[rule], *(groups if back else reversed(groups))]
        while waiting:
            bounds = [[self._bounds(one, Patience(_ENDLESS)) for one in group] for group in waiting]
            everything = [bound for group in bounds for bound in group]
            after = max(bound[0] for bound in (bounds[0] if back else everything))
            before = min(bound[1] for bound in (everything if back else bounds[0]))
            group = waiting.pop(0)
            tier = self._room(group[0].verdict, after, before, change, from_front=back)
            for one in group:
                self._insert(one, tier, change)

    def _cut(self, rule: Rule, change: Change) -> None:
        """Cut every tier in question at the rule's number; the smaller parts move."""
        after, before = self._bounds(rule)
        lower, upper = [], []
        for tier in self._tiers[before : after + 1]:
            numbers = tier.numbers
            low = [number for number in numbers if number < rule.number]
            part = self._make(tier.verdict, change)
            if 2 * len(low) <= len(numbers):
                moving = low
                lower.append(part)
                upper.append(tier)
            else:
                moving = [number for number in numbers if number > rule.number]
                lower.append(tier)
                upper.append(part)
            for number in moving:
                self._insert(self._take(number, change), part, change)
        own = self._make(rule.verdict, change)
        self._tiers[before : after + 1] = [*lower, own, *upper]
        self._insert(rule, own, change)

    # -- keeping the tiers few

    def _tidy(self, change: Change) -> None:
        """Drop tiers that are empty and join neighbours of one verdict: the smaller one moves.

        Large ones are left apart while there are few such pairs: the next split is likely there.
        """
        for tier in [tier for tier in self._tiers if not tier.sets]:
            self._drop(tier, change)
        while True:
            pairs = [
                (min(len(one), len(other)), index)
                for index, (one, other) in enumerate(pairwise(self._tiers))
                if one.verdict is other.verdict
            ]
            size, index = min(pairs, default=(0, 0))
            if not pairs or (size > _LARGE and len(pairs) <= _SPARE):
                return
            small, large = sorted(self._tiers[index : index + 2], key=len)
            for number in small.numbers:
                self._insert(self._take(number, change), large, change)
            self._drop(small, change)

    def _dissolve(self, change: Change) -> bool:
        """Try whether one small tier is needed any longer: each time another one, in turn.

        Without this, rules that come and go would grind the list to ever more tiers.
        """
        self._turn = (self._turn + 1) % len(self._tiers)
        tier = self._tiers[self._turn]
        if len(tier) > _FEW:
            return False
        moves = []
        for rule in [self._rules[number][0] for number in tier.numbers]:
            after, before = self._bounds(rule)
            places = [
                other
                for other in self._tiers[after + 1 : before]
                if other.verdict is tier.verdict and other is not tier
            ]
            if not places:
                return False
            moves.append((rule.number, places[-1]))
        for number, place in moves:
            self._insert(self._take(number, change), place, change)
        return True

    # -- tiers and keys

    def _make(self, verdict: Verdict, change: Change) -> _Tier:
        self._last_id += 1
        tier = _Tier(self._last_id, verdict)
        self._by_id[tier.id] = tier
        change.tier(tier.id, there=True)
        return tier

    def _drop(self, tier: _Tier, change: Change) -> None:
        self._tiers.remove(tier)
        del self._by_id[tier.id]
        change.tier(tier.id, there=False)

    def _insert(self, rule: Rule, tier: _Tier, change: Change) -> None:
        self._rules[rule.number] = rule, tier
        id_ = SetId(tier.id, rule.shape)
        if rule.shape not in tier.sets:
            tier.sets[rule.shape] = KeySet(rule.shape)
            change.set(id_, there=True)
        if tier.sets[rule.shape].add(rule):
            change.key(id_, rule.key, there=True)

    def _take(self, number: int, change: Change) -> Rule:
        rule, tier = self._rules.pop(number)
        id_ = SetId(tier.id, rule.shape)
        keys = tier.sets[rule.shape]
        if keys.remove(rule):
            change.key(id_, rule.key, there=False)
        if not keys:
            del tier.sets[rule.shape]
            change.set(id_, there=False)
        return rule
