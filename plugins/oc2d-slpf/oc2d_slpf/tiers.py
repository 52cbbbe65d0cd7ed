"""The rule list as tiers of hash sets: flat cost for packets and for commands. Pure.

A packet is judged by the tiers one after the other; within a tier order does not matter. Rules
that cannot match the same packet commute. So this is all that must hold: of two rules of different
verdicts that may match the same packet, the one with the lower number is in an earlier tier, or
both are in one ranked tier, which compares their numbers. It makes the first hit the same as first
match over the list (docs/decisions/005-tiers-and-overlaps.md has the costs).

Each change yields the operations that bring the kernel from the old structure to the new one; on an
existing shape that is one element.
"""

from __future__ import annotations

from collections.abc import Iterable

from oc2d_slpf.arrangement import Arrangement
from oc2d_slpf.building import build
from oc2d_slpf.making_room import disentangle, dissolve, tidy
from oc2d_slpf.operations import (
    Change,
    Fill,
    FillRanks,
    MakeRanks,
    MakeSet,
    MakeTier,
    Operation,
    Order,
    SetId,
    add,
)
from oc2d_slpf.ranks import is_wide
from oc2d_slpf.rules import Alike, Logged, Rule, alike
from oc2d_slpf.tier import Tier

__all__ = ["Tiers"]


class Tiers:
    """The rules in force and the tiers they form.

    `ranked`: the packet filter can compare rule numbers, so nets that match on either side need
    no tiers for each other.
    """

    def __init__(
        self,
        rules: Iterable[Rule] = (),
        *,
        groups: Iterable[Alike] | None = None,
        ranked: bool = False,
    ) -> None:
        """Make the tiers of rules, or of groups that each have another shape or verdict."""
        self._arrangement = Arrangement(ranked=ranked)
        self._turn = 0
        for rule in build(self._arrangement, alike(rules) if groups is None else groups):
            self.add(rule, Change())

    def __len__(self) -> int:
        return sum(map(len, self._arrangement.tiers))

    @property
    def tracked(self) -> bool:
        """Whether there is a rule about connections."""
        return any(shape.tracked for tier in self._arrangement.tiers for shape in tier.sets)

    @property
    def logged(self) -> set[int]:
        """The numbers under which packets are logged; each costs all packets a look of its own."""
        kinds = (tier.kind for tier in self._arrangement.tiers)
        return {kind.number for kind in kinds if isinstance(kind, Logged)}

    def add(self, rule: Rule, change: Change) -> None:
        """Put a rule with a number that is free in its place."""
        tier = self._place(rule, change)
        self._arrangement.span(rule.number, rule.number)
        if tier is None:
            disentangle(self._arrangement, rule, change)
        else:
            tier.insert(rule, change)

    def _place(self, rule: Rule, change: Change) -> Tier | None:
        arrangement = self._arrangement
        ranked = arrangement.ranked_place(rule)
        if ranked is not None and not is_wide(ranked.sets, rule.shape, rule.key):
            return ranked
        after, before = arrangement.bounds(rule)
        if after >= before:
            return ranked
        # rules mostly come at one end of the list: keep away from it, so that they fit there
        at_end = before == len(arrangement.tiers)
        from_front = at_end and (after >= 0 or arrangement.is_last(rule))
        plain = arrangement.between(after, before, rule.verdict, from_front=from_front)
        at = after + 1 if from_front else before
        return arrangement.make(arrangement.kind(rule), at, change) if plain is None else plain

    def remove(self, rule: Rule, change: Change) -> None:
        """Take out a rule that is there."""
        arrangement = self._arrangement
        tier = arrangement.holding(rule)
        tier.take(rule, change)
        self._turn += 1
        if dissolve(arrangement, self._turn, change) or not tier.sets:
            tidy(arrangement, change)

    def operations(self) -> list[Operation]:
        """Return what builds all of it from nothing."""
        tiers = self._arrangement.tiers
        plain = [tier for tier in tiers if not tier.ranked]
        found: list[Operation] = [
            MakeTier(tier.id, isinstance(tier.kind, Logged)) for tier in tiers
        ]
        for tier in tiers:
            if tier.ranked:
                found += [MakeRanks(tier.id, tier.shapes, ()), tier.fill()]
        found += [MakeSet(SetId(tier.id, shape)) for tier in plain for shape in tier.sets]
        for tier in tiers:
            for shape, keys in tier.content().items():
                id_ = SetId(tier.id, shape)
                found.append(add(id_, tuple(keys), tuple(keys.values())))
        found += [tier.fill() for tier in plain]
        return [*found, self.order()]

    def has(self, tier: int) -> bool:
        """Tell whether there is such a tier."""
        return tier in self._arrangement.by_id

    def fill(self, tier: int) -> Fill | FillRanks:
        """Return what makes a tier consult its sets."""
        return self._arrangement.by_id[tier].fill()

    def order(self) -> Order:
        """Return the tiers in order of evaluation."""
        return Order(tuple(tier.id for tier in self._arrangement.tiers))
