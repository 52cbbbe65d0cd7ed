"""Measure what a change of the tiers costs, without a packet filter; prints a table.

.venv/bin/python bench/tiers.py [--rules N …] [--only WORDS]

For each kind of list: the time to build it from nothing, the memory it takes, how many tiers and
sets it has, and then what single changes cost: time in memory, operations, and keys sent to the
packet filter (each key costs about 2 µs there).
"""

from __future__ import annotations

import argparse
import gc
import random
import statistics
import time
import tracemalloc
from collections.abc import Callable, Iterator
from ipaddress import IPv4Network

from oc2d_slpf.rules import Direction, Match, Rule, Verdict, encode
from oc2d_slpf.tiers import AddKeys, Change, DropKeys, Tiers

ALLOW, DENY = Verdict.ALLOW, Verdict.DROP
TEN = 10 << 24
TOP = 10_000_000  # rules are numbered down from here in steps of ten


def net(value: int, prefix: int = 32) -> IPv4Network:
    return IPv4Network((value, prefix), strict=False)


def either(value: int, prefix: int = 32) -> Match:
    return Match(4, either=net(value, prefix))


def source(value: int, prefix: int = 32) -> Match:
    return Match(4, source=net(value, prefix))


def five(value: int) -> Match:
    port = 1024 + value % 50000
    return Match(4, None, net(value), net(0xC0A80000 + value % 999), 6, port, 443)


def rule(number: int, verdict: Verdict, match: Match) -> Rule:
    return Rule(number, verdict, *encode(match, Direction.BOTH))


def blocklist(count: int) -> Iterator[tuple[Verdict, Match]]:
    yield from ((DENY, either(TEN + i)) for i in range(count))


def tuples(count: int) -> Iterator[tuple[Verdict, Match]]:
    yield from ((DENY, five(TEN + i)) for i in range(count))


def alternating(count: int) -> Iterator[tuple[Verdict, Match]]:
    yield from (((ALLOW, DENY)[i % 2], source(TEN + i)) for i in range(count))


def alternating_tuples(count: int) -> Iterator[tuple[Verdict, Match]]:
    yield from (((ALLOW, DENY)[i % 2], five(TEN + i)) for i in range(count))


def nested(count: int) -> Iterator[tuple[Verdict, Match]]:
    """Networks in networks of the other verdict, the narrow ones ahead."""
    prefixes = (16, 20, 24, 28, 32)
    dice = random.Random(1)
    seen: set[tuple[int, int]] = set()
    while len(seen) < count:
        prefix = dice.choice(prefixes)
        seen.add((prefix, dice.randrange(TEN, TEN + (1 << 24)) >> (32 - prefix)))
    for prefix, value in sorted(seen):
        yield (ALLOW, DENY)[prefixes.index(prefix) % 2], source(value << (32 - prefix), prefix)


def under_allow_all(count: int) -> Iterator[tuple[Verdict, Match]]:
    """Denies, and then an allow of everything ahead of them."""
    yield from blocklist(count - 1)
    yield ALLOW, Match(4)


def over_deny_all(count: int) -> Iterator[tuple[Verdict, Match]]:
    """A deny of everything, and allows ahead of it."""
    yield DENY, Match(4)
    yield from ((ALLOW, five(TEN + i)) for i in range(count - 1))


LISTS: dict[str, Callable[[int], Iterator[tuple[Verdict, Match]]]] = {
    "blocklist /32": blocklist,
    "5-tuples": tuples,
    "alternating sources": alternating,
    "alternating 5-tuples": alternating_tuples,
    "nested prefixes": nested,
    "allow all on top": under_allow_all,
    "deny all at the bottom": over_deny_all,
}


class Changes:
    """Single changes, timed; each is what a command of its own would do."""

    def __init__(self, tiers: Tiers) -> None:
        self.tiers = tiers
        self._clear()

    def _clear(self) -> None:
        self.times: list[float] = []
        self.operations = self.keys = 0

    def _commit(self, change: Change, start: float) -> None:
        operations = change.operations(self.tiers)
        self.times.append(time.perf_counter() - start)
        self.operations += len(operations)
        self.keys += sum(len(o.keys) for o in operations if isinstance(o, (AddKeys, DropKeys)))

    def add(self, new: Rule) -> None:
        start = time.perf_counter()
        change = Change()
        self.tiers.add(new, change)
        self._commit(change, start)

    def remove(self, number: int) -> None:
        start = time.perf_counter()
        change = Change()
        self.tiers.remove(number, change)
        self._commit(change, start)

    def say(self, name: str) -> None:
        micro = [1e6 * second for second in self.times]
        count = len(micro)
        print(
            f"    {name:44} p50 {statistics.median(micro):9.0f} µs  max {max(micro):9.0f} µs"
            f"  {self.operations / count:6.1f} operations {self.keys / count:8.1f} keys"
            f"  {len(self.tiers.order().tiers):4} tiers"
        )
        self._clear()


def build(kind: str, count: int) -> Changes:
    listed = list(LISTS[kind](count)) if count else []
    rules = [rule(TOP - 10 * i, *item) for i, item in enumerate(listed)]
    start = time.perf_counter()
    tiers = Tiers(rules)
    seconds = time.perf_counter() - start
    sets = sum(len(tiers.fill(tier).shapes) for tier in tiers.order().tiers)
    print(
        f"{kind}, {count} rules: built in {seconds:.2f} s,"
        f" {len(tiers.order().tiers)} tiers, {sets} sets"
    )
    return Changes(tiers)


def memory(kind: str, count: int) -> float:
    """Bytes a rule, the rules themselves included."""
    gc.collect()
    tracemalloc.start()
    tiers = Tiers(rule(TOP - 10 * i, *item) for i, item in enumerate(LISTS[kind](count)))
    # what a wide rule asks for is made when it is first asked
    tiers.add(rule(1, ALLOW, either(0, 1)), Change())
    gc.collect()
    used, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return used / count


def measure(kind: str, count: int, rounds: int) -> None:
    dice = random.Random(2)
    changes = build(kind, count)
    front = TOP - 10 * count - 10
    last = {"5-tuples": five, "alternating 5-tuples": five, "deny all at the bottom": five}
    match = last.get(kind, either if kind in {"blocklist /32", "allow all on top"} else source)
    verdicts = {"blocklist /32": (DENY,), "5-tuples": (DENY,), "allow all on top": (DENY,)}
    likely = verdicts.get(kind, (ALLOW,) if kind == "deny all at the bottom" else (ALLOW, DENY))

    def fresh(number: int, verdict: Verdict, index: int) -> Rule:
        return rule(number, verdict, match(TEN + 5_000_000 + index))

    for i in range(rounds):
        changes.add(fresh(front - 10 * i, likely[i % len(likely)], i))
    changes.say("newest rule, as the list")
    for i in range(rounds):
        changes.add(fresh(TOP + 10 + 10 * i, likely[i % len(likely)], rounds + i))
    changes.say("insert_rule at the bottom")
    if not count:
        return
    middle = [TOP - 10 * i - 5 for i in dice.sample(range(count), min(rounds, count))]
    for i, number in enumerate(middle):
        changes.add(fresh(number, likely[i % len(likely)], 2 * rounds + i))
    changes.say("insert_rule anywhere, disjoint")
    other = {ALLOW: DENY, DENY: ALLOW}
    for i in range(3):
        changes.add(rule(TOP - 5 * count + 3 - 50 * i, other[likely[0]], source(TEN + 500 * i, 24)))
    changes.say("insert_rule in the middle, opposite /24")
    changes.add(rule(front - 10_000, other[likely[0]], source(TEN, 16)))
    changes.say("newest, opposite /16")
    changes.add(rule(front - 10_010, ALLOW, Match(4)))
    changes.say("newest, allow everything")
    changes.remove(front - 10_010)
    changes.say("delete it")
    changes.add(rule(TOP + 100_000, DENY, Match(4)))
    changes.say("deny everything at the bottom")
    changes.remove(TOP + 100_000)
    changes.say("delete it")
    numbers = [TOP - 10 * i for i in range(1, count - 1)]
    for number in dice.sample(numbers, min(rounds, len(numbers))):
        changes.remove(number)
    changes.say("delete anywhere")
    at = TOP - 5 * count + 2
    changes.add(rule(at, other[likely[0]], Match(4)))
    changes.say("worst: opposite of all in the middle")
    changes.remove(at)
    changes.say("worst: delete it")
    changes.add(rule(at + 1, other[likely[0]], Match(4)))
    changes.say("and again")
    print(f"    {memory(kind, count):.0f} bytes a rule")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rules", type=int, nargs="*", default=[0, 10_000, 100_000])
    parser.add_argument("--only", default="", help="only lists whose name has these words")
    parser.add_argument("--rounds", type=int, default=300)
    options = parser.parse_args()
    for kind in LISTS:
        if options.only in kind:
            for count in options.rules:
                measure(kind, count, options.rounds)


if __name__ == "__main__":
    main()
