"""One tier: rules that may be looked up in any order, as sets of keys. Pure.

A plain tier has one verdict. A ranked tier holds rules of any verdict that match addresses on
either side: each of its elements carries the rank of its key, and the filter compares the ranks of
the two sides (docs/decisions/005-tiers-and-overlaps.md).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping

from oc2d_slpf.operations import Change, Fill, FillRanks, SetId, Value
from oc2d_slpf.overlap import KeySet, Patience
from oc2d_slpf.ranks import map_shape, ranks, ranks_within
from oc2d_slpf.rules import Direction, Judgement, Key, Rule, Shape

__all__ = ["Kind", "Tier"]

#: The verdict of a plain tier; list and IP version of a ranked one.
Kind = Judgement | tuple[Direction, int]
Content = Mapping[Shape, Mapping[Key, Value]]


class Tier:
    """Some rules, by shape and verdict."""

    __slots__ = ("id", "kind", "sets")

    def __init__(self, id_: int, kind: Kind) -> None:
        self.id = id_
        self.kind = kind
        self.sets: dict[Shape, dict[Judgement, KeySet]] = {}

    def __len__(self) -> int:
        return sum(map(len, self.key_sets()))

    def __contains__(self, rule: Rule) -> bool:
        keys = self.sets.get(rule.shape, {}).get(rule.verdict)
        return keys is not None and rule in keys

    @property
    def ranked(self) -> bool:
        """Whether rules of all verdicts may be here."""
        return isinstance(self.kind, tuple)

    @property
    def shapes(self) -> tuple[Shape, ...]:
        """The shapes of the sets that the filter has: of a ranked tier, there may be fewer."""
        if self.ranked:
            return tuple(dict.fromkeys(map(map_shape, self.sets)))
        return tuple(self.sets)

    def key_sets(self) -> Iterator[KeySet]:
        """Yield all sets."""
        for verdicts in self.sets.values():
            yield from verdicts.values()

    def rules(self) -> list[Rule]:
        """Return the rules, in no order."""
        return [rule for keys in self.key_sets() for rule in keys.rules()]

    def opposed(self, rule: Rule) -> Iterator[KeySet]:
        """Yield the sets of other verdicts."""
        for verdicts in self.sets.values():
            for verdict, keys in verdicts.items():
                if verdict != rule.verdict:
                    yield keys

    def sides(self, rule: Rule, patience: Patience | None = None) -> tuple[bool, bool]:
        """Tell whether it has rules that must come before this one, and some after."""
        ahead = behind = False
        for keys in self.opposed(rule):
            found = keys.sides(rule, patience)
            ahead, behind = ahead or found[0], behind or found[1]
        return ahead, behind

    def fill(self) -> Fill | FillRanks:
        """Return what makes the filter consult the sets."""
        if not isinstance(self.kind, tuple):
            return Fill(self.id, self.kind, self.shapes)
        narrow_first = sorted(self.shapes, key=lambda shape: -(shape.either or 0))
        return FillRanks(self.id, tuple(narrow_first))

    # -- changing

    def insert(self, rule: Rule, change: Change) -> None:
        """Take a rule in."""
        before = self._at(rule)
        if rule.shape not in self.sets:
            shapes = self.shapes
            self.sets[rule.shape] = {}
            self._tell_shapes(shapes, change)
        verdicts = self.sets[rule.shape]
        if rule.verdict not in verdicts:
            verdicts[rule.verdict] = KeySet(rule.shape, rule.verdict)
        verdicts[rule.verdict].add(rule)
        self._tell(before, self._at(rule), change)

    def take(self, rule: Rule, change: Change) -> None:
        """Take a rule out."""
        before = self._at(rule)
        verdicts = self.sets[rule.shape]
        verdicts[rule.verdict].remove(rule)
        if not verdicts[rule.verdict]:
            del verdicts[rule.verdict]
        if not verdicts:
            shapes = self.shapes
            del self.sets[rule.shape]
            self._tell_shapes(shapes, change)
        self._tell(before, self._at(rule), change)

    def joined(self, other: Tier) -> Iterator[KeySet]:
        """Yield the sets of both as one."""
        for one in self.key_sets():
            match = other.sets.get(one.shape, {}).get(one.verdict)
            yield one if match is None else one.joined(match)
        for match in other.key_sets():
            if match.verdict not in self.sets.get(match.shape, {}):
                yield match

    def exchange(self, key_sets: Iterable[KeySet], change: Change) -> None:
        """Consist of these sets from now on."""
        before, shapes = self.content(), self.shapes
        self.sets = {}
        for keys in key_sets:
            self.sets.setdefault(keys.shape, {})[keys.verdict] = keys
        self._tell_shapes(shapes, change)
        self._tell(before, self.content(), change)

    def content(self) -> Content:
        """Return what the filter has of it."""
        if self.ranked:
            return ranks(self.sets)
        return {
            shape: dict.fromkeys(keys.keys, True)
            for shape, verdicts in self.sets.items()
            for keys in verdicts.values()
        }

    def _at(self, rule: Rule) -> Content:
        """Return what the filter has of a rule's key, and of all keys that depend on it."""
        if self.ranked:
            return ranks_within(self.sets, rule.shape, rule.key)
        parts = self.sets.get(rule.shape, {}).values()
        return {rule.shape: {rule.key: any(rule.key in keys.keys for keys in parts)}}

    def _tell_shapes(self, before: Collection[Shape], change: Change) -> None:
        after = self.shapes
        for shape in {*before} ^ {*after}:
            change.set(SetId(self.id, shape), there=shape in after, ranked=self.ranked)

    def _tell(self, before: Content, after: Content, change: Change) -> None:
        for shape in before if before.keys() == after.keys() else {**before, **after}:
            change.keys(SetId(self.id, shape), before.get(shape, {}), after.get(shape, {}))
