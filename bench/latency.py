"""Measure how long an answer takes at a steady rate; prints a table.

.venv/bin/python bench/latency.py [--rates N …] [--seconds S] [--quick]

Needs root for its namespaces. Commands leave at fixed times, whatever is still unanswered, so an
answer that comes late counts in full. The baseline is the bare paho echo at the same rate. The last
rows are another Consumer, whose second actuator is busy all the time: each of its commands takes
five seconds.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import select
import statistics
import sys
import time
from pathlib import Path

import machine
from commands import deny
from machine import PORT, QUIET, ROOT, Figure, consumer, query
from wire import PUBACK, PUBLISH, Wire, packet

NAP = 5.0  # seconds
SLOW = f"""\
import time
from oc2d.actuator import Actuator, Response, pair

class Slow(Actuator):
    profile = "x-slow"
    idempotent = True
    targets = {{"thing": str}}

    @pair("scan", "x-slow:thing")
    def scan(self, command):
        time.sleep({NAP})
        return Response(200)
"""


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


def beside_a_slow_one(stack: contextlib.ExitStack, directory: Path) -> Wire:
    """Start a Consumer with a second actuator; returns the wire to keep that busy."""
    plugin = directory / "plugin"
    info = plugin / "oc2d_slow-1.0.dist-info"
    info.mkdir(parents=True)
    (plugin / "oc2d_slow.py").write_text(SLOW)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: oc2d-slow\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[oc2d]\nslow = oc2d_slow:Slow\n")
    more = "[actuators.x-slow]\n"
    consumer(stack, directory, "beside", "dry-run", path=[plugin], more=more)
    machine.until_answered("beside")
    return Wire(PORT, "bench-slow", "nothing/comes/here")


def make_busy(wire: Wire, seconds: float) -> None:
    """Queue work for the slow actuator; nobody waits for the answers."""
    request = {"action": "scan", "target": {"x-slow:thing": "a"}, "actuator": {"x-slow": {}}}
    for _ in range(int(seconds / NAP) + 1):
        command = json.dumps(machine.message(request)).encode()
        wire.socket.sendall(wire.publication("oc2/cmd/device/beside", "req", command))


def measure(options: argparse.Namespace, directory: Path) -> None:
    rounds, seconds = (1, 3.0) if options.quick else (2, options.seconds)
    with contextlib.ExitStack() as stack:
        stack.enter_context(machine.broker(directory))
        echo = (sys.executable, ROOT / "bench/echo.py", "paho", str(PORT))
        stack.enter_context(machine.running(*echo, **QUIET))
        consumer(stack, directory, "kernel", "nftables")
        consumer(stack, directory, "dry", "dry-run")
        for name in ("paho", "kernel", "dry"):
            machine.until_answered(name)
        slow = beside_a_slow_one(stack, directory)
        wire = Wire(PORT, "bench", "oc2/rsp")
        rows = [
            ("bare paho echo", "paho", query),
            ("oc2d query features", "kernel", query),
            ("oc2d deny, in the kernel", "kernel", deny),
            ("oc2d deny, dry-run", "dry", deny),
            ("the same, beside a slow actuator", "beside", deny),
        ]
        for rate in options.rates:
            figures = {}
            for _ in range(rounds):
                for title, name, command in rows:
                    if name == "beside":
                        make_busy(slow, seconds)
                    found = steady(wire, f"oc2/cmd/device/{name}", command, rate, seconds)
                    shares = statistics.quantiles(found, n=100, method="inclusive")
                    for share in (50, 99):
                        figure = figures.setdefault(
                            (title, share), Figure(f"{title}, p{share}", "ms")
                        )
                        figure.values.append(shares[share - 1])
            for (title, share), figure in figures.items():
                base = rows[-2] if title == rows[-1][0] else rows[0]
                figure.baseline = figures[base[0], share].values
            limit = "the fsync of each commit: a query waits for one, a deny for three"
            machine.table(f"latency at {rate:g} commands/s", [*figures.values()], limit)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rates", type=float, nargs="*", default=[10, 100])
    parser.add_argument("--seconds", type=float, default=5.0)
    machine.main(measure, parser)


if __name__ == "__main__":
    main()
