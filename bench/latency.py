"""Measure how long an answer takes at a steady rate; prints a table.

.venv/bin/python bench/latency.py [--rates N …] [--seconds S] [--quick]

Needs root for its namespaces. Commands leave at fixed times, whatever is still unanswered, so an
answer that comes late counts in full. The baseline is the bare paho echo at the same rate.
"""

from __future__ import annotations

import argparse
import contextlib
import select
import statistics
import sys
import time
from pathlib import Path

import machine
from commands import deny
from machine import PORT, QUIET, ROOT, Figure, consumer, query
from wire import PUBACK, PUBLISH, Wire, packet


def answers(wire: Wire, until: float) -> int:
    """Take what comes until then, or until something came; returns how many answers."""
    ready, _, _ = select.select([wire.socket], [], [], max(0.0, until - time.monotonic()))
    found = 0
    for kind, body in wire.packets() if ready else ():
        if kind & 0xF0 == PUBLISH & 0xF0:
            found += 1
            after = 2 + int.from_bytes(body[:2], "big")
            wire.socket.sendall(packet(PUBACK, body[after : after + 2]))
    return found


def steady(wire: Wire, topic: str, command, rate: float, seconds: float) -> list[float]:
    """Send at the rate; returns the milliseconds to each answer: they come in order."""
    times: list[float] = []
    sent: list[float] = []
    count = int(rate * seconds)
    begun = time.monotonic()
    last = begun + seconds
    while len(times) < count:
        due = begun + len(sent) / rate
        if len(sent) < count and time.monotonic() >= due:
            wire.socket.sendall(wire.publication(topic, "req", command(0)))
            sent.append(due)
            continue
        found = answers(wire, due if len(sent) < count else last + 10)
        now = time.monotonic()
        times += [(now - at) * 1000 for at in sent[len(times) : len(times) + found]]
        if len(sent) == count and now > last + 10:
            raise SystemExit(f"{topic}: {count - len(times)} answers are missing")
    return times


def measure(options: argparse.Namespace, directory: Path) -> None:
    rounds, seconds = (1, 3.0) if options.quick else (3, options.seconds)
    with contextlib.ExitStack() as stack:
        stack.enter_context(machine.broker(directory))
        echo = (sys.executable, ROOT / "bench/echo.py", "paho", str(PORT))
        stack.enter_context(machine.running(*echo, **QUIET))
        consumer(stack, directory, "kernel", "nftables")
        for name in ("paho", "kernel"):
            machine.until_answered(name)
        wire = Wire(PORT, "bench", "oc2/rsp")
        rows = [
            ("bare paho echo", "paho", query),
            ("oc2d query features", "kernel", query),
            ("oc2d deny, in the kernel", "kernel", deny),
        ]
        for rate in options.rates:
            figures = {}
            for _ in range(rounds):
                for title, name, command in rows:
                    found = steady(wire, f"oc2/cmd/device/{name}", command, rate, seconds)
                    shares = statistics.quantiles(found, n=100)
                    for share in (50, 99):
                        figure = figures.setdefault(
                            (title, share), Figure(f"{title}, p{share}", "ms")
                        )
                        figure.values.append(shares[share - 1])
            for (_, share), figure in figures.items():
                figure.baseline = figures[rows[0][0], share].values
            limit = "the fsync of each commit: a query waits for one, a deny for three"
            machine.table(f"latency at {rate:g} commands/s", [*figures.values()], limit)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rates", type=float, nargs="*", default=[10, 100])
    parser.add_argument("--seconds", type=float, default=10.0)
    machine.main(measure, parser)


if __name__ == "__main__":
    main()
