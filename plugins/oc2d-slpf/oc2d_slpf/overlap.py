"""Which rules of a set may match a packet that another rule matches too. Pure.

Rules that cannot match the same packet commute, so only the others must keep their order. The test
is by addresses, protocol and ports as the rules give them: it may see an overlap where there is
none (a port without a protocol, against icmp), never the other way round.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from operator import neg
from typing import NamedTuple

from oc2d_slpf.rules import Direction, Key, Rule, Shape

__all__ = ["Exhausted", "KeySet", "Patience"]

_GUESS = 64  # candidates looked at before an overlap that would cost nothing is taken for granted


class Exhausted(Exception):  # noqa: N818 - a signal, not an error
    """A search looked at more candidates than it was worth."""


@dataclass(slots=True)
class Patience:
    """How many candidates an exact search may still look at; raises `Exhausted` at none."""

    left: int

    def spend(self) -> None:
        """Look at one more."""
        self.left -= 1
        if self.left < 0:
            raise Exhausted


class _Field(NamedTuple):
    """Where a field stands in a key, in bytes, and how many of its bits are tested."""

    name: str
    start: int
    end: int
    bits: int


class _Condition(NamedTuple):
    """A field of mine and one of theirs (`width` bytes) must agree but for the last `rest` bits."""

    mine: slice
    theirs: slice
    width: int
    rest: int

    def agree(self, mine: Key, theirs: Key) -> bool:
        """Tell whether the condition holds for these two."""
        differing = _number(mine[self.mine]) ^ _number(theirs[self.theirs])
        return differing >> self.rest == 0

    def first(self, mine: Key) -> Key:
        """Return the lowest value of theirs that agrees."""
        value = _number(mine[self.mine]) >> self.rest << self.rest
        return value.to_bytes(self.width, "big")

    def last(self, mine: Key) -> Key:
        """Return the highest value of theirs that agrees."""
        value = _number(mine[self.mine]) | ((1 << self.rest) - 1)
        return value.to_bytes(self.width, "big")


class _Way(NamedTuple):
    """One way for two rules to overlap: all conditions hold.

    `direct`: they say the whole of a key of theirs. `ordered`: the first of them is about the
    beginning of theirs, so that the keys in question are neighbours in order.
    """

    conditions: tuple[_Condition, ...]
    direct: bool
    ordered: bool


@lru_cache(maxsize=4096)
def _fields(shape: Shape) -> dict[str, _Field]:
    width = 4 if shape.version == 4 else 16  # noqa: PLR2004 - the IP versions are their own names
    parts = (
        ("either", width, shape.either),
        ("source", width, shape.source),
        ("destination", width, shape.destination),
        ("protocol", 1, 8 if shape.protocol else None),
        ("source_port", 2, 16 if shape.source_port else None),
        ("destination_port", 2, 16 if shape.destination_port else None),
    )
    found: dict[str, _Field] = {}
    at = 0
    for name, length, bits in parts:
        if bits is not None:
            found[name] = _Field(name, at, at + length, bits)
            at += length
    return found


@lru_cache(maxsize=16384)
def _ways(mine: Shape, theirs: Shape) -> tuple[_Way, ...]:
    """Tell how rules of two shapes may overlap; none: they never do."""
    apart = {Direction.INGRESS, Direction.EGRESS}
    if mine.version != theirs.version or {mine.direction, theirs.direction} == apart:
        return ()
    if mine.either is not None and theirs.either is not None:
        pairs: tuple[tuple[tuple[str, str], ...], ...] = ((),)  # from the one to the other
    elif mine.either is not None:
        pairs = ((("either", "source"),), (("either", "destination"),))
    elif theirs.either is not None:
        pairs = ((("source", "either"),), (("destination", "either"),))
    else:
        pairs = (tuple((name, name) for name in _fields(theirs)),)
    ways = tuple(_way(_fields(mine), _fields(theirs), names) for names in pairs)
    always = tuple(way for way in ways if not way.conditions and not way.direct)
    return always[:1] or ways


def _way(
    mine: dict[str, _Field], theirs: dict[str, _Field], names: tuple[tuple[str, str], ...]
) -> _Way:
    conditions = []
    said = 0
    for my_name, their_name in names:
        if my_name in mine and their_name in theirs:
            one, other = mine[my_name], theirs[their_name]
            bits = min(one.bits, other.bits)
            said += bits == other.bits
            width = one.end - one.start
            conditions.append(
                _Condition(
                    slice(one.start, one.end),
                    slice(other.start, other.end),
                    width,
                    8 * width - bits,
                )
            )
    ordered = bool(conditions) and conditions[0].theirs.start == 0
    return _Way(tuple(conditions), said == len(theirs), ordered)


class KeySet:
    """The rules of one shape in one tier, by key and by number; rules of one key share it."""

    __slots__ = ("_by_key", "_numbers", "_sorted", "shape")

    def __init__(self, shape: Shape) -> None:
        self.shape = shape
        self._by_key: dict[Key, int | list[int]] = {}
        self._numbers: list[int] = []  # descending: the newest rules are cheap to come and go
        self._sorted: list[Key] | None = None  # made when it is first asked for

    def __len__(self) -> int:
        return len(self._numbers)

    @property
    def keys(self) -> tuple[Key, ...]:
        """The keys, each once."""
        return tuple(self._by_key)

    @property
    def numbers(self) -> tuple[int, ...]:
        """The numbers of the rules, descending."""
        return tuple(self._numbers)

    def add(self, rule: Rule) -> bool:
        """Take a rule in; tell whether its key is new."""
        if not self._numbers or rule.number < self._numbers[-1]:
            self._numbers.append(rule.number)
        else:
            insort(self._numbers, rule.number, key=neg)
        there = self._by_key.get(rule.key)
        if there is None:
            self._by_key[rule.key] = rule.number
            if self._sorted is not None:
                insort(self._sorted, rule.key)
            return True
        if isinstance(there, int):
            self._by_key[rule.key] = [there, rule.number]
        else:
            there.append(rule.number)
        return False

    def remove(self, rule: Rule) -> bool:
        """Take a rule out; tell whether its key is gone."""
        del self._numbers[bisect_left(self._numbers, -rule.number, key=neg)]
        there = self._by_key[rule.key]
        if isinstance(there, list):
            there.remove(rule.number)
            if len(there) == 1:
                self._by_key[rule.key] = there[0]
            return False
        del self._by_key[rule.key]
        if self._sorted is not None:
            del self._sorted[bisect_left(self._sorted, rule.key)]
        return True

    def sides(self, rule: Rule, patience: Patience | None = None) -> tuple[bool, bool]:
        """Tell whether rules that overlap this one are ahead of it, and whether some are behind.

        Without `patience` a long search is cut short where all are on one side: a guess that puts
        a rule further from them than need be.
        """
        number = rule.number
        one_sided = not self._numbers[-1] < number < self._numbers[0]
        guess = _GUESS if one_sided and patience is None else None
        ahead = behind = False
        for found in self.overlapping(rule, patience, guess):
            if found < number:
                ahead = True
            else:
                behind = True
            if one_sided or (ahead and behind):
                break
        return ahead, behind

    def overlapping(
        self, rule: Rule, patience: Patience | None = None, guess: int | None = None
    ) -> Iterator[int]:
        """Yield the numbers of all rules that overlap this one, some perhaps twice."""
        for way in _ways(rule.shape, self.shape):
            if way.direct:
                key = b"".join(condition.first(rule.key) for condition in way.conditions)
                yield from self._of(key)
            elif not way.conditions:
                # the extremes first: most questions end with them
                yield self._numbers[0]
                yield self._numbers[-1]
                for number in self._numbers:
                    if patience is not None:
                        patience.spend()
                    yield number
            else:
                for key in self._agreeing(way, rule.key, patience, guess):
                    yield from self._of(key)

    def _of(self, key: Key) -> Iterator[int]:
        there = self._by_key.get(key)
        if isinstance(there, int):
            yield there
        elif there is not None:
            yield from there

    def _agreeing(
        self, way: _Way, mine: Key, patience: Patience | None, guess: int | None
    ) -> Iterator[Key]:
        if self._sorted is None:
            self._sorted = sorted(self._by_key)
        keys = self._sorted
        conditions = way.conditions
        first, after = 0, len(keys)
        if way.ordered:
            first = bisect_left(keys, conditions[0].first(mine))
            after = bisect_right(keys, conditions[0].last(mine) + b"\xff" * 40, lo=first)
            conditions = conditions[1:]
        for index in range(first, after):
            if patience is not None:
                patience.spend()
            if (guess is not None and index - first >= guess) or all(
                condition.agree(mine, keys[index]) for condition in conditions
            ):
                yield keys[index]


def _number(value: bytes) -> int:
    return int.from_bytes(value, "big")
