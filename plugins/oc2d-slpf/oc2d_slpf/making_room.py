"""Making a place for a rule where there is none, and keeping the tiers few. Pure."""

from __future__ import annotations

import sys
from itertools import pairwise

from oc2d_slpf.arrangement import Arrangement
from oc2d_slpf.operations import Change
from oc2d_slpf.overlap import Exhausted, KeySet, Patience
from oc2d_slpf.rules import Rule
from oc2d_slpf.tier import Tier

__all__ = ["disentangle", "dissolve", "tidy"]

# Limits that keep a change short; each trades the number of tiers against what is moved.
_PATIENCE = 4000  # candidates that the search for what to move may look at
_BRIEF = 500  # and the search for whether a small tier is needed
_ENDLESS = sys.maxsize
_MOVES = 500  # rules that are moved one by one; above it, tiers are cut in two
_FEW = 8  # rules of a tier that is tried to be done without
_LARGE = 1000  # rules that are not moved only to join two tiers, while there are
_SPARE = 4  # at most so many pairs to join


def disentangle(arrangement: Arrangement, rule: Rule, change: Change) -> None:
    """Put a rule in place that some of a tier must precede and some must follow."""
    _rank(arrangement, rule, change)
    tier = arrangement.ranked_place(rule)
    if tier is not None:
        tier.insert(rule, change)
        return
    try:
        groups, back = _in_the_way(arrangement, rule)
    except Exhausted:
        _cut(arrangement, rule, change)
    else:
        _rearrange(arrangement, rule, groups, change, back=back)
    tidy(arrangement, change)


def _rank(arrangement: Arrangement, rule: Rule, change: Change) -> None:
    """Make ranked what is in a rule's way and could then be in one tier with it."""
    kind = arrangement.ranked_kind(rule.shape, rule.verdict)
    if kind is None:
        return
    after, before = arrangement.bounds(rule)
    for tier in [tier for tier in arrangement.tiers[before : after + 1] if not tier.ranked]:
        sets = list(tier.key_sets())
        moving = [
            keys for keys in sets if arrangement.ranked_kind(keys.shape, keys.verdict) == kind
        ]
        if moving:
            ranked = arrangement.make(kind, arrangement.tiers.index(tier) + 1, change)
            _divide(tier, [keys for keys in sets if keys not in moving], ranked, moving, change)
    tidy(arrangement, change)


def _in_the_way(arrangement: Arrangement, rule: Rule) -> tuple[list[tuple[Tier, list[Rule]]], bool]:
    """Find the fewest rules to move, by tier in order, and whether they go back.

    What moves back takes along all that must stay behind it, as far as the tiers in question
    reach; it is the same to the front. Raises `Exhausted` when that is too many.
    """
    after, before = arrangement.bounds(rule, Patience(_PATIENCE))
    window = arrangement.tiers[before : after + 1]
    found: list[tuple[list[tuple[Tier, list[Rule]]], bool]] = []
    for back in (True, False):
        try:
            found.append((_closure(rule, window, Patience(_PATIENCE), back=back), back))
        except Exhausted:
            continue
    if not found:
        raise Exhausted
    return min(found, key=lambda way: sum(len(rules) for _, rules in way[0]))


def _closure(
    rule: Rule, window: list[Tier], patience: Patience, *, back: bool
) -> list[tuple[Tier, list[Rule]]]:
    moving: dict[Tier, dict[int, Rule]] = {tier: {} for tier in window}
    waiting, count = [rule], 0
    while waiting:
        one = waiting.pop()
        for tier in window:
            for keys in tier.opposed(one):
                for other in keys.overlapping(one, patience, behind=back):
                    if other.number not in moving[tier]:
                        moving[tier][other.number] = other
                        waiting.append(other)
                        count += 1
                        if count > _MOVES:
                            raise Exhausted
    return [(tier, list(rules.values())) for tier, rules in moving.items() if rules]


def _rearrange(
    arrangement: Arrangement,
    rule: Rule,
    groups: list[tuple[Tier, list[Rule]]],
    change: Change,
    *,
    back: bool,
) -> None:
    """Take the groups out; put the rule and then them where each still has a place.

    Going back, each group comes as far to the front as it may, and before all that the groups
    after it must precede, so there is a place for every one of them; to the front likewise.
    """
    for tier, group in groups:
        for one in group:
            tier.take(one, change)
    if not back:
        groups.reverse()
    waiting = [[rule], *(group for _, group in groups)]
    kinds = [
        (rule.verdict, arrangement.kind(rule)),
        *((tier.kind, tier.kind) for tier, _ in groups),
    ]
    for kind, new in kinds:
        bounds = [
            [arrangement.bounds(one, Patience(_ENDLESS)) for one in group] for group in waiting
        ]
        everything = [bound for group in bounds for bound in group]
        after = max(bound[0] for bound in (bounds[0] if back else everything))
        before = min(bound[1] for bound in (everything if back else bounds[0]))
        group = waiting.pop(0)
        place = arrangement.between(after, before, kind, from_front=back)
        if place is None:
            place = arrangement.make(new, after + 1 if back else before, change)
        for one in group:
            place.insert(one, change)


def _cut(arrangement: Arrangement, rule: Rule, change: Change) -> None:
    """Cut every tier in question at the rule's number; the smaller parts move."""
    after, before = arrangement.bounds(rule)
    tiers = arrangement.tiers
    ahead, window, behind = tiers[:before], tiers[before : after + 1], tiers[after + 1 :]
    lower, upper = [], []
    for tier in window:
        part = arrangement.make(tier.kind, 0, change)
        low = sum(keys.count_below(rule.number) for keys in tier.key_sets())
        smaller_first = 2 * low <= len(tier)
        _split(tier, rule.number, part, change, lower=smaller_first)
        lower.append(part if smaller_first else tier)
        upper.append(tier if smaller_first else part)
    own = arrangement.make(arrangement.kind(rule), 0, change)
    own.insert(rule, change)
    arrangement.tiers = [*ahead, *lower, own, *upper, *behind]


def _split(tier: Tier, number: int, part: Tier, change: Change, *, lower: bool) -> None:
    """Move the rules with lower numbers, or those with higher ones, to a new tier."""
    sets = list(tier.key_sets())
    below = sum(keys.count_below(number) for keys in sets)
    if (below if lower else len(tier) - below) <= _LARGE:
        for rule in [
            one for keys in sets for one in keys.rules() if (one.number < number) is lower
        ]:
            tier.take(rule, change)
            part.insert(rule, change)
        return
    parts = [keys.split(number) for keys in sets]
    low, high = ([pair[side] for pair in parts if pair[side]] for side in (0, 1))
    _divide(tier, high if lower else low, part, low if lower else high, change)


def _divide(
    one: Tier, ones: list[KeySet], other: Tier, others: list[KeySet], change: Change
) -> None:
    one.exchange(ones, change)
    other.exchange(others, change)


def tidy(arrangement: Arrangement, change: Change) -> None:
    """Drop tiers that are empty and join neighbours of one kind: the smaller one moves.

    Large ones are left apart while there are few such pairs: the next split is likely there.
    """
    for tier in [tier for tier in arrangement.tiers if not tier.sets]:
        arrangement.drop(tier, change)
    while True:
        pairs = [
            (min(len(one), len(other)), index)
            for index, (one, other) in enumerate(pairwise(arrangement.tiers))
            if one.kind == other.kind
        ]
        size, index = min(pairs, default=(0, 0))
        if not pairs or (size > _LARGE and len(pairs) <= _SPARE):
            return
        small, large = sorted(arrangement.tiers[index : index + 2], key=len)
        if size > _LARGE:
            _divide(small, [], large, [*large.joined(small)], change)
        else:
            for rule in small.rules():
                small.take(rule, change)
                large.insert(rule, change)
        arrangement.drop(small, change)


def dissolve(arrangement: Arrangement, turn: int, change: Change) -> bool:
    """Try whether one small tier is needed any longer: each time another one, in turn.

    Without this, rules that come and go would grind the list to ever more tiers.
    """
    tier = arrangement.tiers[turn % len(arrangement.tiers)]
    if len(tier) > _FEW:
        return False
    moves = []
    patience = Patience(_BRIEF)
    for rule in tier.rules():
        try:
            place = _elsewhere(arrangement, tier, rule, patience)
        except Exhausted:
            return False
        if place is None:
            return False
        moves.append((rule, place))
    for rule, place in moves:
        tier.take(rule, change)
        place.insert(rule, change)
    return True


def _elsewhere(arrangement: Arrangement, tier: Tier, rule: Rule, patience: Patience) -> Tier | None:
    """Return another tier of the kind that the rule could be in, if it alone moved."""
    if tier.ranked and len(tier) == 1:
        return arrangement.ranked_place(rule, patience, leaving=tier)
    after, before = arrangement.bounds(rule, patience)
    places = [
        other
        for other in arrangement.tiers[after + 1 : before]
        if other is not tier and other.kind == tier.kind
    ]
    return places[-1] if places else None
