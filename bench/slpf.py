"""Measure what a command costs the actuator: store, tiers and kernel, without MQTT; prints a table.

sudo .venv/bin/python bench/slpf.py [--rules N …] [--rounds N]

In a network namespace of its own, with its store on the disk of the checkout, `oc2d-slpf` carries
out commands one at a time, as they come singly, and 100 at once, as they come when many wait: then
they share one commit and one transaction of the kernel. Microseconds a command, wall time (the sync
of the disk is in it) and processor time; of 100 at once each has the hundredth part.
"""

from __future__ import annotations

import argparse
import itertools
import os
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from ipaddress import IPv4Network
from pathlib import Path

import msgspec
import structlog

from oc2d.actuator import Command, Context
from oc2d.errors import Refusal
from oc2d.language.targets import IPv4Connection
from oc2d.language.values import IPv4Net
from oc2d.language.vocabulary import Action, L4Protocol
from oc2d_slpf import Slpf
from oc2d_slpf.language import Args

TEN = 10 << 24
TOP = 1_000_000_001  # behind all automatic numbers
_keys = itertools.count()


def command(action: str, kind: str, value: object, **args: object) -> Command:
    given = msgspec.convert(args, Args)
    return Command(f"key-{next(_keys)}", "soc", Action(action), kind, value, given)


def net(action: str, index: int, prefix: int = 32, **args: object) -> Command:
    place = IPv4Network((TEN + (index << 32 - prefix), prefix))
    return command(action, "ipv4_net", IPv4Net(place), **args)


def connection(index: int) -> Command:
    source, goal = (IPv4Net(IPv4Network(place)) for place in (TEN + index, 0xC0A80001))
    value = IPv4Connection(source, 1024 + index % 60000, goal, 443, L4Protocol("tcp"))
    return command("deny", "ipv4_connection", value)


class Bench:
    """An actuator with rules, and the numbers that are in use."""

    def __init__(self, slpf: Slpf, count: int) -> None:
        self.slpf = slpf
        self.numbers: list[int] = []
        for start in range(0, count, 1000):
            self.do([net("deny", index) for index in range(start, start + 1000)])
        self._fresh = itertools.count(1 << 20)

    def do(self, commands: Sequence[Command]) -> None:
        for answer in self.slpf.execute_many(commands):
            if isinstance(answer, Refusal):
                raise SystemExit(f"refused: {answer}")
            if answer.results is not None:
                self.numbers.append(answer.results.rule_number)

    def made(self, what: str, count: int) -> list[Command]:
        if what == "delete":
            dice = random.Random(len(self.numbers))
            gone = [self.numbers.pop(dice.randrange(len(self.numbers))) for _ in range(count)]
            return [command("delete", "slpf:rule_number", number) for number in gone]
        fresh = [next(self._fresh) for _ in range(count)]
        makers: dict[str, Callable[[int], Command]] = {
            "deny net /32": lambda index: net("deny", index),
            "deny connection": connection,
            "insert_rule at the end": lambda index: net("deny", index, insert_rule=TOP + index),
            "allow net /32": lambda index: net("allow", index),
        }
        return [makers[what](index) for index in fresh]

    def measure(self, what: str, rounds: int, at_once: int) -> None:
        wall, cpu = [], []
        for _ in range(rounds):
            commands = self.made(what, at_once)
            before = time.perf_counter(), time.process_time()
            self.do(commands)
            wall.append(1e6 * (time.perf_counter() - before[0]) / at_once)
            cpu.append(1e6 * (time.process_time() - before[1]) / at_once)
        told = ""
        for name, some in (("wall", wall), ("cpu", cpu)):
            high = statistics.quantiles(some, n=100)[98]
            told += f"  {name} p50 {statistics.median(some):7.0f}  p99 {high:7.0f}"
        print(f"    {what:24} {at_once:4} at once{told}", flush=True)


def run(count: int, rounds: int) -> None:
    build = Path(__file__).parent.parent / "build"
    build.mkdir(exist_ok=True)
    slpf = Slpf(Slpf.parse_config({"backend": "nftables"}))
    with tempfile.TemporaryDirectory(dir=build) as name:
        slpf.start(Context("bench", Path(name), Path(name), "boot", lambda: 0))
        slpf.restore(())
        bench = Bench(slpf, count)
        print(f"{count} rules, load {os.getloadavg()[0]:.1f}, µs a command", flush=True)
        for what in ("deny net /32", "deny connection", "insert_rule at the end"):
            bench.measure(what, rounds, 1)
            bench.measure(what, rounds // 10, 100)
        bench.measure("delete", rounds, 1)
        bench.measure("delete", rounds // 10, 100)
        bench.do([net("allow", 1 << 19)])  # the first that is opposite makes all of them ranked
        bench.measure("allow net /32", rounds, 1)
        bench.measure("allow net /32", rounds // 10, 100)
        slpf.stop()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rules", type=int, nargs="*", default=[0, 10_000, 100_000])
    parser.add_argument("--rounds", type=int, default=300)
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if not options.inside:
        os.execvp("unshare", ["unshare", "--net", sys.executable, *sys.argv, "--inside"])  # noqa: S606
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(30))
    for count in options.rules:
        run(count, options.rounds)


if __name__ == "__main__":
    main()
