"""The tiers in order, and where in it a rule has a place. Pure."""

from __future__ import annotations

from collections.abc import Collection

from oc2d_slpf.operations import RANKED, Change
from oc2d_slpf.overlap import Patience
from oc2d_slpf.rules import Judgement, Logged, Rule, Shape
from oc2d_slpf.tier import Kind, Tier

__all__ = ["Arrangement"]


class Arrangement:
    """Tiers, and which of them a rule may be in.

    Of two rules of different verdicts that may match the same packet, the one with the lower
    number is in an earlier tier, or both are in the same ranked one.
    """

    def __init__(self, *, ranked: bool) -> None:
        self.tiers: list[Tier] = []
        self.by_id: dict[int, Tier] = {}
        self._ranked = ranked
        self._last_id = 0
        # no rule has a lower or a higher number; not brought back when rules go
        self._lowest, self._highest = float("inf"), float("-inf")

    def ranked_kind(self, shape: Shape, verdict: Judgement) -> Kind | None:
        """Return the kind of ranked tier that could hold such rules."""
        comparable = shape.either is not None and not shape.tracked
        if self._ranked and comparable and verdict in RANKED:
            return shape.direction, shape.version
        return None

    def kind(self, rule: Rule) -> Kind:
        """Return of what kind a new tier for the rule should be.

        Ranked only if there are such rules of another verdict: a plain tier is less work.
        """
        kind = self.ranked_kind(rule.shape, rule.verdict)
        if kind is not None:
            for tier in self.tiers:
                for keys in tier.opposed(rule):
                    if self.ranked_kind(keys.shape, keys.verdict) == kind:
                        return kind
        return rule.verdict

    def span(self, lowest: int, highest: int) -> None:
        """Note that there are rules with these numbers."""
        self._lowest = min(self._lowest, lowest)
        self._highest = max(self._highest, highest)

    def is_last(self, rule: Rule) -> bool:
        """Tell whether no rule has had a higher number."""
        return rule.number > self._highest

    def make(self, kind: Kind, at: int, change: Change) -> Tier:
        """Add an empty tier at this place."""
        self._last_id += 1
        tier = Tier(self._last_id, kind)
        self.by_id[tier.id] = tier
        self.tiers.insert(at, tier)
        change.tier(tier.id, there=True, logged=isinstance(kind, Logged))
        return tier

    def drop(self, tier: Tier, change: Change) -> None:
        """Remove an empty tier."""
        self.tiers.remove(tier)
        del self.by_id[tier.id]
        change.tier(tier.id, there=False, logged=isinstance(tier.kind, Logged))

    def holding(self, rule: Rule) -> Tier:
        """Return the tier that the rule is in."""
        return next(tier for tier in self.tiers if rule in tier)

    def bounds(
        self, rule: Rule, patience: Patience | None = None, besides: Collection[Tier | None] = ()
    ) -> tuple[int, int]:
        """Return the last tier that must be before the rule's, and the first that must be after.

        By index; -1 and the number of tiers are none. If they are the wrong way round, there is no
        place for the rule as things are. The tiers `besides` do not count.
        """
        after, before = -1, len(self.tiers)
        if rule.number < self._highest:
            for index, tier in enumerate(self.tiers):
                if tier not in besides and tier.sides(rule, patience)[1]:
                    before = index
                    break
        if rule.number > self._lowest:
            for index in range(len(self.tiers) - 1, -1, -1):
                tier = self.tiers[index]
                if tier not in besides and tier.sides(rule, patience)[0]:
                    after = index
                    break
        return after, before

    def ranked_place(
        self, rule: Rule, patience: Patience | None = None, leaving: Tier | None = None
    ) -> Tier | None:
        """Return a ranked tier that the rule can join: there it may meet any other."""
        kind = self.ranked_kind(rule.shape, rule.verdict)
        for index, tier in enumerate(self.tiers):
            if tier.kind == kind and tier is not leaving:
                after, before = self.bounds(rule, patience, (tier, leaving))
                if after < index < before:
                    return tier
        return None

    def between(self, after: int, before: int, kind: Kind, *, from_front: bool) -> Tier | None:
        """Return the first or the last tier of this kind there."""
        found = range(after + 1, before)
        for index in found if from_front else reversed(found):
            if self.tiers[index].kind == kind:
                return self.tiers[index]
        return None
