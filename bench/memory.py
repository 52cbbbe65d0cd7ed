"""Measure what remembered requests cost: time, memory and disk; prints a table.

.venv/bin/python bench/memory.py [--requests N …] [--rounds N] [--quick]

Needs root for its namespaces. Each Consumer starts with a journal that remembers so many requests,
each with a response of the usual size, written beforehand: carrying them out would take a quarter
of an hour. All run side by side and are measured in turn; the baseline remembers none. The last is
at `limits.remember_count`: it must refuse, and its journal must not grow.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sqlite3
import time
from pathlib import Path

import machine
from commands import deny
from machine import PORT, Figure, consumer, cpu_seconds, resident
from wire import Wire, closed_loop

from oc2d.engine.journal import Journal
from oc2d.engine.records import Phase

RESPONSE = b'{"status":200,"results":{"slpf":{"rule_number":999999999}}}'
FULL = "[limits]\nremember_count = {}\n"
ROOM = "[limits]\nremember_count = 10000000\n"
SECONDS_TO_LIVE = 10**6
FULL_AT = 1000


def remember(file: Path, count: int) -> None:
    """Let the journal remember so many requests, all done."""
    Journal(file).close()
    expires = int(time.time()) + SECONDS_TO_LIVE
    with contextlib.closing(sqlite3.connect(file)) as db, db:
        indexes = db.execute("SELECT name, sql FROM sqlite_master WHERE type = 'index'").fetchall()
        indexes = [(name, sql) for name, sql in indexes if sql]
        for name, _ in indexes:  # made anew below: a tenth of the time
            db.execute(f"DROP INDEX {name}")
        db.executemany(
            "INSERT INTO requests(key, phase, expires, response) VALUES(?, ?, ?, ?)",
            ((os.urandom(16), Phase.RESULT, expires, RESPONSE) for _ in range(count)),
        )
        for _, sql in indexes:
            db.execute(sql)


def journal_bytes(state: Path) -> int:
    return sum(file.stat().st_size for file in state.glob("journal.db*"))


class Rememberer:
    """A Consumer that remembers so many requests."""

    def __init__(
        self, stack: contextlib.ExitStack, directory: Path, count: int, *, full: bool = False
    ) -> None:
        self.name = f"{'full' if full else 'remembers'}-{count}"
        self.state = directory / self.name / "state"
        self.state.mkdir(parents=True)
        remember(self.state / "journal.db", count)
        self.disk = journal_bytes(self.state)
        more = FULL.format(count) if full else ROOM
        self.pid = consumer(stack, directory, self.name, "dry-run", more=more)
        self.topic = f"oc2/cmd/device/{self.name}"


def measure_cost(wire: Wire, all_: dict[int, Rememberer], rounds: int, seconds: float) -> None:
    cpu = {count: Figure(f"deny, dry-run, {count} remembered", "µs CPU each") for count in all_}
    memory = {count: Figure(f"resident, {count} remembered", "MB") for count in all_}
    for _ in range(rounds):
        for count, one in all_.items():
            before = cpu_seconds(one.pid)
            outcome = closed_loop(wire, one.topic, deny, seconds=seconds)
            if outcome.refusals or not outcome.answers:
                raise SystemExit(f"{one.name}: {outcome.refusals} answers were not 200")
            used = cpu_seconds(one.pid) - before
            cpu[count].values.append(used / outcome.answers * 1e6)
            memory[count].values.append(resident(one.pid) / 1e6)
    for figures in (cpu, memory):
        first = next(iter(figures.values()))
        for figure in figures.values():
            figure.baseline = first.values
    disk = [
        Figure(f"journal, {count} remembered", "MB", [one.disk / 1e6], [], each(one.disk, count))
        for count, one in all_.items()
    ]
    limit = "a look-up and an insertion in an index of the journal; in memory SQLite's page cache"
    machine.table("memory of requests", [*cpu.values(), *memory.values(), *disk], limit)


def each(size: int, count: int) -> str:
    return f"{size / count:.0f} bytes each" if count else ""


def measure_bound(wire: Wire, full: Rememberer, commands: int) -> None:
    size = Figure("journal and its log", "MB")
    for _ in range(5):
        outcome = closed_loop(wire, full.topic, deny, count=commands)
        size.values.append(journal_bytes(full.state) / 1e6)
        if outcome.refusals < outcome.answers:
            raise SystemExit(f"{full.name}: took more than limits.remember_count")
    size.note = f"after {', '.join(str(commands * n) for n in range(1, 6))} commands, all refused"
    machine.table(f"journal at limits.remember_count = {FULL_AT}", [size], "SQLite's checkpoints")


def measure(options: argparse.Namespace, directory: Path) -> None:
    counts, rounds, seconds = options.requests, options.rounds, options.seconds
    if options.quick:
        counts, rounds, seconds = [0, 10_000], 2, 0.5
    with contextlib.ExitStack() as stack:
        stack.enter_context(machine.broker(directory))
        all_ = {count: Rememberer(stack, directory, count) for count in counts}
        full = Rememberer(stack, directory, FULL_AT, full=True)
        for one in all_.values():
            machine.until_answered(one.name)
        machine.until_answered(full.name)
        wire = Wire(PORT, "bench", "oc2/rsp")
        measure_cost(wire, all_, rounds, seconds)
        measure_bound(wire, full, 100 if options.quick else 2000)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--requests", type=int, nargs="*", default=[0, 100_000, 1_000_000])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0, help="length of each measurement")
    machine.main(measure, parser)


if __name__ == "__main__":
    main()
