"""Which rules of a set may match a packet that another rule matches too. Pure.

Rules that cannot match the same packet commute, so only the others must keep their order. The test
is by addresses, protocol and ports as the rules give them: it may see an overlap where there is
none (a port without a protocol, against icmp), never the other way round.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections.abc import ItemsView, Iterable, Iterator, KeysView, Sequence
from dataclasses import dataclass
from functools import lru_cache
from operator import neg
from typing import NamedTuple, cast

from oc2d_slpf.rules import Direction, Judgement, Key, Rule, Shape

__all__ = ["Exhausted", "KeySet", "Patience", "Projections", "order"]

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
    if mine.version != theirs.version:
        return ()
    if mine.tracked is not theirs.tracked:
        # how a connection began does not say what its packets look like: there are answers, errors
        # about it, and translated addresses
        return (_Way((), direct=False, ordered=False),)
    if {mine.direction, theirs.direction} == apart:
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
    """The rules of one shape and verdict in one tier, by key; rules of one key share it."""

    __slots__ = ("_by_key", "_numbers", "_sorted", "shape", "verdict")

    def __init__(
        self,
        shape: Shape,
        verdict: Judgement,
        numbers: Sequence[int] = (),
        keys: Sequence[Key] = (),
    ) -> None:
        """`numbers` descend; `keys` has the key of each."""
        self.shape = shape
        self.verdict = verdict
        self._by_key: dict[Key, int | list[int]] = dict(zip(keys, numbers, strict=True))
        self._numbers = list(numbers)  # descending: the newest rules are cheap to come and go
        self._sorted: list[Key] | None = None  # made when it is first asked for
        if len(self._by_key) < len(self._numbers):
            self._by_key = {}
            for number, key in zip(numbers, keys, strict=True):
                self._share(number, key)

    def __len__(self) -> int:
        return len(self._numbers)

    def __contains__(self, rule: Rule) -> bool:
        return rule.number in self._of(rule.key)

    @property
    def keys(self) -> KeysView[Key]:
        """The keys, each once."""
        return self._by_key.keys()

    @property
    def extremes(self) -> tuple[int, int]:
        """The lowest and the highest number."""
        return self._numbers[-1], self._numbers[0]

    def lowest(self, key: Key) -> int | None:
        """Return the lowest number of the rules that have this key."""
        there = self._by_key.get(key)
        return min(there) if isinstance(there, list) else there

    def lows(self) -> Iterable[tuple[Key, int]]:
        """Return the keys, each with the lowest number of its rules."""
        if len(self._by_key) == len(self._numbers):
            return cast(ItemsView[Key, int], self._by_key.items())
        return [(key, min(self._of(key))) for key in self._by_key]

    def rules(self) -> Iterator[Rule]:
        """Yield the rules, in no order."""
        for number, key in self._pairs():
            yield Rule(number, self.verdict, self.shape, key)

    def count_below(self, number: int) -> int:
        """Tell how many rules have lower numbers."""
        return len(self._numbers) - bisect_left(self._numbers, -number, key=neg)

    def split(self, number: int) -> tuple[KeySet, KeySet]:
        """Return the rules with lower and with higher numbers."""
        pairs = sorted(self._pairs(), reverse=True)
        at = bisect_left(pairs, -number, key=lambda pair: -pair[0])
        return self._of_pairs(pairs[at:]), self._of_pairs(pairs[:at])

    def joined(self, other: KeySet) -> KeySet:
        """Return the rules of both, which are of one shape and verdict."""
        return self._of_pairs(sorted([*self._pairs(), *other._pairs()], reverse=True))

    def _pairs(self) -> Iterator[tuple[int, Key]]:
        for key in self._by_key:
            for number in self._of(key):
                yield number, key

    def _of_pairs(self, pairs: list[tuple[int, Key]]) -> KeySet:
        numbers = [number for number, _ in pairs]
        return KeySet(self.shape, self.verdict, numbers, [key for _, key in pairs])

    def add(self, rule: Rule) -> None:
        """Take a rule in."""
        if not self._numbers or rule.number < self._numbers[-1]:
            self._numbers.append(rule.number)
        else:
            insort(self._numbers, rule.number, key=neg)
        if self._share(rule.number, rule.key) and self._sorted is not None:
            insort(self._sorted, rule.key)

    def _share(self, number: int, key: Key) -> bool:
        """Note the number at its key; tell whether the key is new."""
        there = self._by_key.get(key)
        if there is None:
            self._by_key[key] = number
            return True
        if isinstance(there, int):
            self._by_key[key] = [there, number]
        else:
            there.append(number)
        return False

    def remove(self, rule: Rule) -> None:
        """Take a rule out."""
        del self._numbers[bisect_left(self._numbers, -rule.number, key=neg)]
        there = self._by_key[rule.key]
        if isinstance(there, list):
            there.remove(rule.number)
            if len(there) == 1:
                self._by_key[rule.key] = there[0]
            return
        del self._by_key[rule.key]
        if self._sorted is not None:
            del self._sorted[bisect_left(self._sorted, rule.key)]

    def sides(self, rule: Rule, patience: Patience | None = None) -> tuple[bool, bool]:
        """Tell whether rules that overlap this one are ahead of it, and whether some are behind.

        Without `patience` a long search is cut short where all are on one side: a guess that puts
        a rule further from them than need be.
        """
        number = rule.number
        possible = self._numbers[-1] < number, number < self._numbers[0]
        one_sided = possible != (True, True)
        guess = _GUESS if one_sided and patience is None else None
        ahead = behind = False
        for way in _ways(rule.shape, self.shape):
            if not way.conditions:
                return possible
            for key in self._agreeing(way, rule.key, patience, guess):
                for found in self._of(key):
                    if found < number:
                        ahead = True
                    else:
                        behind = True
                if (ahead, behind) == possible:
                    return possible
        return ahead, behind

    def overlapping(self, rule: Rule, patience: Patience, *, behind: bool) -> Iterator[Rule]:
        """Yield the rules that overlap this one and are behind it, or ahead; some perhaps twice."""
        number = rule.number
        if not (number < self._numbers[0] if behind else self._numbers[-1] < number):
            return
        for way in _ways(rule.shape, self.shape):
            for key in self._agreeing(way, rule.key, patience, None):
                for found in self._of(key):
                    if (found > number) is behind:
                        yield Rule(found, self.verdict, self.shape, key)

    def between(self, first: Key, last: Key) -> list[Key]:
        """Return the keys from `first` to `last`, in order."""
        keys = self._in_order()
        at = bisect_left(keys, first)
        return keys[at : bisect_right(keys, last, lo=at)]

    def count(self, first: Key, last: Key) -> int:
        """Tell how many keys `between` would return."""
        keys = self._in_order()
        return bisect_right(keys, last) - bisect_left(keys, first)

    def _in_order(self) -> list[Key]:
        if self._sorted is None:
            self._sorted = sorted(self._by_key)
        return self._sorted

    def _of(self, key: Key) -> Sequence[int]:
        there = self._by_key.get(key, ())
        return (there,) if isinstance(there, int) else there

    def _agreeing(
        self, way: _Way, mine: Key, patience: Patience | None, guess: int | None
    ) -> Iterator[Key]:
        conditions = way.conditions
        if way.direct:
            yield b"".join(condition.first(mine) for condition in conditions)
            return
        keys = self._in_order()
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


#: For `order`: what the keys of a set have in a field, cut to some bits.
Projections = dict[tuple["KeySet", int, int], frozenset[int]]


def order(one: KeySet, other: KeySet, known: Projections) -> tuple[bool, bool]:
    """Tell whether some rule of the one must be ahead of one of the other, and the reverse.

    `known` keeps what it found out, for the next question.
    """
    possible = one.extremes[0] < other.extremes[1], other.extremes[0] < one.extremes[1]
    ways = _ways(one.shape, other.shape)
    if any(not way.conditions for way in ways):
        return possible
    if all(_apart(one, other, way.conditions[0], known) for way in ways):
        return False, False
    small, large = sorted((one, other), key=len)
    ahead = behind = False
    for rule in small.rules():
        found = large.sides(rule)
        behind, ahead = behind or found[0], ahead or found[1]
        if (ahead, behind) == (possible if small is one else possible[::-1]):
            break
    return (ahead, behind) if small is one else (behind, ahead)


def _apart(one: KeySet, other: KeySet, condition: _Condition, known: Projections) -> bool:
    """Tell whether no two rules of these agree in that field."""
    found = []
    for keys, where in ((one, condition.mine), (other, condition.theirs)):
        place = keys, where.start, condition.rest
        if place not in known:
            fields = (key[where] for key in keys.keys)
            known[place] = frozenset(_number(field) >> condition.rest for field in fields)
        found.append(known[place])
    return found[0].isdisjoint(found[1])


def _number(value: bytes) -> int:
    return int.from_bytes(value, "big")
