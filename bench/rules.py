"""Measure `deny` down to the kernel by the number of rules that stand already; prints a table.

.venv/bin/python bench/rules.py [--rules N …] [--rounds N] [--peers] [--quick]

Needs root for its namespaces. The rules are written into the store beforehand and restored by the
start. For each number of them, in turn: oc2d over MQTT with 64 commands unanswered and with one,
and `nft -f -` once for each rule, as scripts do it: an element of a set, or a rule in a chain, with
as many there already. The baseline is the element. With `--peers`, fail2ban and otupy are fetched
into build/peers where the registries have them, and ban in a table of their own.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import subprocess
import time
from collections.abc import Callable
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

import machine
import peers
from commands import deny
from machine import PORT, Figure, running
from wire import Wire, closed_loop

from oc2d_slpf.rules import FIRST_AUTOMATIC, Direction, Match, Rule, Verdict, encode
from oc2d_slpf.store import Entry, Store

FIRST = int(IPv4Address("100.64.0.0"))
SCRIPT = "table inet script { set banned { type ipv4_addr; }; chain linear { }; }\n"


def seed(state: Path, count: int) -> None:
    """Put so many denies into the store, as if they had come one by one."""
    state.mkdir(parents=True)
    store = Store(state, state, "boot")
    with store.transaction():
        for index in range(count):
            match = encode(Match(4, either=IPv4Network(FIRST + index)), Direction.BOTH)
            rule = Rule(FIRST_AUTOMATIC - index, Verdict.DROP, *match)
            store.add(Entry(rule, f"{index:064x}", persistent=True, producer="bench"))
    store.close()


def nft(text: str) -> None:
    subprocess.run(["nft", "-f", "-"], input=text, text=True, check=True)


def addresses(count: int) -> list[str]:
    return [str(IPv4Address(FIRST + index)) for index in range(count)]


def prepare_script(count: int) -> None:
    nft(SCRIPT)
    there = addresses(count)
    for at in range(0, count, 10_000):
        part = there[at : at + 10_000]
        nft(f"add element inet script banned {{ {','.join(part)} }}\n")
        nft("".join(f"add rule inet script linear ip saddr {one} drop\n" for one in part))


def one_by_one(text: str, seconds: float, fresh: itertools.count) -> float:
    """Run `nft -f -` for one address after the other; returns how many a second."""
    begun, done = time.monotonic(), 0
    while time.monotonic() - begun < seconds:
        nft(text.format(IPv4Address(next(fresh))))
        done += 1
    return done / (time.monotonic() - begun)


def measure_count(directory: Path, count: int, rounds: int, seconds: float) -> dict[str, Figure]:
    name = f"rules-{count}"
    seed(directory / name / "state", count)
    fresh = itertools.count(int(IPv4Address("10.200.0.0")))
    prepare_script(count)
    command = machine.oc2d_command(directory, name, "nftables")
    topic = f"oc2/cmd/device/{name}"

    def over_mqtt(window: int) -> float:
        outcome = closed_loop(wire, topic, deny, seconds=seconds, window=window)
        if outcome.refusals or not outcome.answers:
            raise SystemExit(f"{name}: {outcome.refusals} answers were not 200")
        return outcome.rate

    ways: dict[str, Callable[[], float]] = {
        "nft -f -, an element each": lambda: one_by_one(
            "add element inet script banned {{ {} }}\n", seconds, fresh
        ),
        "nft -f -, a rule each": lambda: one_by_one(
            "add rule inet script linear ip saddr {} drop\n", seconds, fresh
        ),
        "oc2d, 1 unanswered": lambda: over_mqtt(1),
        "oc2d, 64 unanswered": lambda: over_mqtt(64),
    }
    figures = {way: Figure(f"{way}, {count}", "/s") for way in ways}
    with running(*command, env=machine.environment(), **machine.QUIET):
        machine.until_answered(name)
        held = subprocess.run(
            ["nft", "list", "table", "inet", "oc2d"], capture_output=True, text=True, check=True
        )
        if held.stdout.count("100.") < count:
            raise SystemExit(f"{name}: not all {count} rules are in force")
        wire = Wire(PORT, "bench", "oc2/rsp")
        for _, (way, run) in itertools.product(range(rounds), ways.items()):
            figures[way].values.append(run())
        wire.socket.close()
    nft("delete table inet oc2d\ndelete table inet script\n")
    for figure in figures.values():
        figure.baseline = figures["nft -f -, an element each"].values
    return figures


def measure(options: argparse.Namespace, directory: Path) -> None:
    counts, rounds, seconds = options.rules, options.rounds, options.seconds
    if options.quick:
        counts, rounds, seconds = [0, 1000], 2, 0.5
    with contextlib.ExitStack() as stack:
        stack.enter_context(machine.broker(directory))
        found = [measure_count(directory, count, rounds, seconds) for count in counts]
    lines = [figures[way] for way in found[0] for figures in found]
    others = peers.measure(directory, rounds, 50 if options.quick else 300) if options.peers else []
    for other in others:
        other.baseline = lines[0].values
    machine.table(
        "deny in the kernel, by rules that stand already",
        [*lines, *others],
        "nft: the start of a process; oc2d: Python, and with one unanswered its fsyncs",
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rules", type=int, nargs="*", default=[0, 10_000, 100_000])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=1.5, help="length of each measurement")
    parser.add_argument("--peers", action="store_true", help="fetch and measure other products too")
    machine.main(measure, parser, lambda options: peers.fetch() if options.peers else None)


if __name__ == "__main__":
    main()
