"""Measure what a change of the tiers costs; prints a table.

.venv/bin/python bench/tiers.py [--rules N …] [--only WORDS] [--kernel]

For each kind of list: the time to build it from nothing, the memory it takes, how many tiers and
sets it has, and then what changes cost, alone and 100 together: time, operations, and keys sent to
the packet filter. Without `--kernel` in memory only; with it (root) each change is carried out by
the nftables back end in a network namespace of its own. Processor time, the kernel's included, so
that other work on the machine shows less.
"""

from __future__ import annotations

import argparse
import gc
import os
import random
import statistics
import sys
import time
import tracemalloc
from collections.abc import Callable, Iterator
from ipaddress import IPv4Network, IPv6Network

from oc2d_slpf.nftables import Nftables
from oc2d_slpf.operations import AddKeys, AddRanks, Change, DropKeys
from oc2d_slpf.rules import Direction, Match, Rule, Verdict, encode
from oc2d_slpf.tiers import Tiers

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


def net6(value: int, prefix: int = 32) -> IPv6Network:
    """The same in IPv6; what is one address there is one here."""
    return IPv6Network((value << 96, 128 if prefix == 32 else prefix), strict=False)  # noqa: PLR2004 - an IPv4 address


def either6(value: int, prefix: int = 32) -> Match:
    return Match(6, either=net6(value, prefix))


def source6(value: int, prefix: int = 32) -> Match:
    return Match(6, source=net6(value, prefix))


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


def alternating_nets(count: int) -> Iterator[tuple[Verdict, Match]]:
    yield from (((ALLOW, DENY)[i % 2], either(TEN + i)) for i in range(count))


def lengths(count: int, match: Callable[[int, int], Match]) -> Iterator[tuple[Verdict, Match]]:
    """Disjoint networks of all lengths from /8 to /32, as far as there are so many."""
    for i in range(count):
        prefix = 8 + i % 25
        value = i // 25 % (1 << (prefix - 8))
        verdict = (ALLOW, DENY)[(i // 25 + i) % 2]
        yield verdict, match((prefix << 24) + (value << (32 - prefix)), prefix)


def lengths_either(count: int) -> Iterator[tuple[Verdict, Match]]:
    yield from lengths(count, either)


def lengths_source(count: int) -> Iterator[tuple[Verdict, Match]]:
    yield from lengths(count, source)


def lengths6(count: int) -> Iterator[tuple[Verdict, Match]]:
    """Disjoint networks of IPv6 of all lengths from /16 to /128."""
    for i in range(count):
        prefix, value = 16 + i % 113, i // 113
        place = (0x0A00 + prefix << 112) + (value % (1 << prefix - 16) << 128 - prefix)
        yield (ALLOW, DENY)[(value + i) % 2], Match(6, either=IPv6Network((place, prefix)))


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
    "alternating either /32": alternating_nets,
    "alternating either /8 to /32": lengths_either,
    "alternating either /16 to /128 of IPv6": lengths6,
    "alternating source /8 to /32": lengths_source,
    "alternating sources": alternating,
    "alternating 5-tuples": alternating_tuples,
    "nested prefixes": nested,
    "allow all on top": under_allow_all,
    "deny all at the bottom": over_deny_all,
}


class Changes:
    """Changes, timed; each is what a command of its own would do."""

    def __init__(self, tiers: Tiers, filter_: Nftables | None) -> None:
        self.tiers = tiers
        self._filter = filter_
        if filter_ is not None:
            filter_.replace(tiers.operations())
        self._clear()

    def _clear(self) -> None:
        self.times: list[float] = []
        self.operations = self.keys = 0

    def _edit(self, edit: Callable[[Change], None], count: int = 1) -> None:
        start = time.process_time()
        change = Change()
        edit(change)
        operations = change.operations(self.tiers)
        if self._filter is not None and operations:
            self._filter.apply(operations)
        self.times.append((time.process_time() - start) / count)
        self.operations += len(operations)
        counted = (AddKeys, AddRanks, DropKeys)
        self.keys += sum(len(one.keys) for one in operations if isinstance(one, counted))

    def add(self, new: Rule) -> None:
        self._edit(lambda change: self.tiers.add(new, change))

    def add_many(self, new: list[Rule]) -> None:
        def edit(change: Change) -> None:
            for one in new:
                self.tiers.add(one, change)

        self._edit(edit, len(new))

    def remove(self, old: Rule) -> None:
        self._edit(lambda change: self.tiers.remove(old, change))

    def say(self, name: str) -> None:
        micro = sorted(1e6 * second for second in self.times)
        count = len(micro)
        print(
            f"    {name:44} p50 {statistics.median(micro):9.0f} µs"
            f"  p99 {micro[int(0.99 * (count - 1))]:9.0f}  max {micro[-1]:9.0f}"
            f"  {self.operations / count:6.1f} operations {self.keys / count:8.1f} keys"
            f"  {len(self.tiers.order().tiers):4} tiers",
            flush=True,
        )
        self._clear()


def listed(kind: str, count: int) -> list[Rule]:
    items = LISTS[kind](count) if count else []
    return [rule(TOP - 10 * i, *item) for i, item in enumerate(items)]


def build(kind: str, rules: list[Rule], filter_: Nftables | None) -> Changes:
    start = time.process_time()
    tiers = Tiers(rules, ranked=True)
    seconds = time.process_time() - start
    sets = sum(len(tiers.fill(tier).shapes) for tier in tiers.order().tiers)
    print(
        f"{kind}, {len(rules)} rules: built in {seconds:.2f} s,"
        f" {len(tiers.order().tiers)} tiers, {sets} sets"
    )
    return Changes(tiers, filter_)


def memory(kind: str, count: int) -> float:
    """Bytes a rule, the rules themselves included."""
    gc.collect()
    tracemalloc.start()
    tiers = Tiers(listed(kind, count), ranked=True)
    # what a wide rule asks for is made when it is first asked
    tiers.add(rule(1, ALLOW, either(0, 1)), Change())
    gc.collect()
    used, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return used / count


def measure(  # noqa: PLR0915 - one measurement after the other
    kind: str, count: int, rounds: int, filter_: Nftables | None
) -> None:
    dice = random.Random(2)
    rules = listed(kind, count)
    changes = build(kind, rules, filter_)
    front = TOP - 10 * count - 10
    last = {"5-tuples": five, "alternating 5-tuples": five, "deny all at the bottom": five}
    ip, net_, source_ = (6, either6, source6) if "IPv6" in kind else (4, either, source)
    nets = {"blocklist /32", "allow all on top"} | {k for k in LISTS if "either" in k}
    match = last.get(kind, net_ if kind in nets else source_)
    verdicts = {"blocklist /32": (DENY,), "5-tuples": (DENY,), "allow all on top": (DENY,)}
    likely = verdicts.get(kind, (ALLOW,) if kind == "deny all at the bottom" else (ALLOW, DENY))

    def fresh(number: int, verdict: Verdict, index: int) -> Rule:
        return rule(number, verdict, match(TEN + 5_000_000 + index))

    for i in range(rounds):
        changes.add(fresh(front - 10 * i, likely[i % len(likely)], i))
    changes.say("newest rule, as the list")
    front -= 10 * rounds
    for i in range(5):
        numbers = range(front - 1000 * i, front - 1000 * (i + 1), -10)
        changes.add_many([fresh(n, likely[n // 10 % len(likely)], 10_000_000 - n) for n in numbers])
    changes.say("newest rules, 100 at once, each")
    front -= 5000
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
    for what, where in (("net", net_), ("source", source_)):
        for i in range(3):
            at = TOP - 5 * count + (3 if what == "net" else 8) - 50 * i
            changes.add(rule(at, other[likely[0]], where(TEN + 512 * i, 24)))
            changes.say(f"opposite {what} /24 in the middle, number {i + 1}")
    changes.add(rule(front - 10_000, other[likely[0]], source_(TEN, 16)))
    changes.say("newest, opposite source /16")
    changes.add(rule(front - 10_005, other[likely[0]], net_(TEN, 9)))
    changes.say("newest, opposite net /9")
    wide = rule(front - 10_010, ALLOW, Match(ip))
    changes.add(wide)
    changes.say("newest, allow everything")
    changes.remove(wide)
    changes.say("delete it")
    wide = rule(TOP + 100_000, DENY, Match(ip))
    changes.add(wide)
    changes.say("deny everything at the bottom")
    changes.remove(wide)
    changes.say("delete it")
    for one in dice.sample(rules[1:-1], min(rounds, len(rules) - 2)):
        changes.remove(one)
    changes.say("delete anywhere")
    worst = rule(TOP - 5 * count + 2, other[likely[0]], Match(ip))
    changes.add(worst)
    changes.say("worst: opposite of all in the middle")
    changes.remove(worst)
    changes.say("worst: delete it")
    changes.add(worst._replace(number=worst.number - 1))
    changes.say("and again")
    print(f"    {memory(kind, count):.0f} bytes a rule", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rules", type=int, nargs="*", default=[0, 10_000, 100_000])
    parser.add_argument("--only", default="", help="only lists whose name has these words")
    parser.add_argument("--rounds", type=int, default=300)
    parser.add_argument("--kernel", action="store_true", help="with the nftables back end; root")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    filter_ = None
    if options.kernel:
        if not options.inside:
            os.execvp("unshare", ["unshare", "--net", sys.executable, *sys.argv, "--inside"])  # noqa: S606
        filter_ = Nftables()
        filter_.check()
    for kind in LISTS:
        if options.only in kind:
            for count in options.rules:
                measure(kind, count, options.rounds, filter_)


if __name__ == "__main__":
    main()
