"""Measure how fast oc2d carries out commands, over MQTT only; prints a table.

.venv/bin/python bench/commands.py [--windows N …] [--against TREE] [--quick]

Runs in a network namespace of its own, so it needs root; see README.md for what each row means.
`--against` measures the oc2d of another checkout in the same rounds.
"""

from __future__ import annotations

import argparse
import contextlib
import ipaddress
import itertools
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import cbor2
import machine
from machine import PORT, QUIET, ROOT, Figure, consumer, cpu_seconds, message, query, resident
from wire import Outcome, Wire, closed_loop

_ADDRESSES = itertools.count(int(ipaddress.IPv4Address("10.0.0.1")))


def _deny() -> dict[str, object]:
    target = {"ipv4_net": str(ipaddress.IPv4Address(next(_ADDRESSES)))}
    return message({"action": "deny", "target": target, "actuator": {"slpf": {}}})


def deny(_number: int) -> bytes:
    return json.dumps(_deny()).encode()


def deny_in_cbor(_number: int) -> bytes:
    return cbor2.dumps(_deny())


def query_in_cbor(_number: int) -> bytes:
    return cbor2.dumps(message({"action": "query", "target": {"features": ["pairs"]}}))


@dataclass
class Row:
    """A Consumer under one kind of command."""

    name: str
    topic: str
    command: Callable[[int], bytes]
    pid: int
    encoding: str = "json"
    rates: dict[int, list[float]] = field(default_factory=dict)
    cpu: dict[int, list[float]] = field(default_factory=dict)
    answers: int = 0

    def measure(self, wire: Wire, seconds: float, window: int) -> None:
        before = cpu_seconds(self.pid)
        wire.encoding = self.encoding
        outcome = closed_loop(wire, self.topic, self.command, seconds=seconds, window=window)
        used = cpu_seconds(self.pid) - before
        check(self.name, outcome)
        self.answers += outcome.answers
        self.rates.setdefault(window, []).append(outcome.rate)
        self.cpu.setdefault(window, []).append(used / outcome.answers * 1e6)


def check(name: str, outcome: Outcome) -> None:
    if outcome.refusals or not outcome.answers:
        raise SystemExit(f"{name}: {outcome.refusals} of {outcome.answers} answers were not 200")


def measure(options: argparse.Namespace, directory: Path) -> None:
    rounds, seconds = (2, 1.0) if options.quick else (options.rounds, options.seconds)
    windows = options.windows or ([64] if options.quick else [1, 16, 64, 1000])
    with contextlib.ExitStack() as stack:
        stack.enter_context(machine.broker(directory, tls=True))
        rows = everybody(options, directory, stack)
        for row in rows:
            machine.until_answered(row.topic.rpartition("/")[2])
        kernel = rows[-1]
        empty = resident(kernel.pid)
        wire = Wire(PORT, "bench", "oc2/rsp")
        for window in windows:
            for _ in range(rounds):
                for row in rows:
                    row.measure(wire, seconds, window)
        for window in windows:
            show(window, rows)
        grown = resident(kernel.pid)
        print(
            f"\nresident: {empty / 1e6:.1f} MB first,"
            f" {grown / 1e6:.1f} MB after {kernel.answers} commands"
        )


def c_echo(directory: Path) -> Path | None:
    """Build the echo in C, where that can be."""
    binary = directory / "echo"
    command = ["cc", "-O2", "-o", str(binary), str(ROOT / "bench/echo.c"), "-lmosquitto"]
    try:
        subprocess.run(command, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        print("C echo: left out; it needs a C compiler and libmosquitto-dev")
        return None
    return binary


def everybody(
    options: argparse.Namespace, directory: Path, stack: contextlib.ExitStack
) -> list[Row]:
    """Start who is measured; the first is the baseline, the last has its rules in the kernel."""
    rows = []
    echoes = {"paho": "bare paho echo", "wire": "control: the generator itself"}
    for name, title in echoes.items():
        command = (sys.executable, ROOT / "bench/echo.py", name, str(PORT))
        pid = stack.enter_context(machine.running(*command, **QUIET)).pid
        rows.append(Row(title, f"oc2/cmd/device/{name}", query, pid))
    if binary := c_echo(directory):
        pid = stack.enter_context(machine.running(binary, str(PORT), **QUIET)).pid
        rows.append(Row("C echo, libmosquitto", "oc2/cmd/device/c", query, pid))
    trees = {"": ROOT} | ({"other ": options.against} if options.against else {})
    for mark, tree in trees.items():
        name = f"{mark.strip()}dry"
        pid, topic = consumer(stack, directory, name, "dry-run", tree), f"oc2/cmd/device/{name}"
        rows += [
            Row(f"{mark}oc2d query features", topic, query, pid),
            Row(f"{mark}oc2d query features, CBOR", topic, query_in_cbor, pid, "cbor"),
            Row(f"{mark}oc2d deny, dry-run", topic, deny, pid),
            Row(f"{mark}oc2d deny, dry-run, CBOR", topic, deny_in_cbor, pid, "cbor"),
        ]
    pid = consumer(stack, directory, "tls", "dry-run", tls=True)
    for plain in [row for row in rows if row.topic == "oc2/cmd/device/dry"]:
        name, topic = f"{plain.name}, TLS", "oc2/cmd/device/tls"
        rows.append(Row(name, topic, plain.command, pid, plain.encoding))
    pid = consumer(stack, directory, "kernel", "nftables")
    return [*rows, Row("oc2d deny, in the kernel", "oc2/cmd/device/kernel", deny, pid)]


def show(window: int, rows: list[Row]) -> None:
    base = rows[0]
    figures = []
    for row in rows:
        cpu = sorted(row.cpu[window])[len(row.cpu[window]) // 2]
        note = f"{cpu:6.0f} µs CPU each"
        figures.append(Figure(row.name, "/s", row.rates[window], base.rates[window], note))
    machine.table(
        f"commands, {window} unanswered",
        figures,
        "one core of Python; with few unanswered, a commit with fsync for each batch",
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=1.2, help="length of each measurement")
    parser.add_argument("--windows", type=int, nargs="*", help="commands unanswered at a time")
    parser.add_argument("--against", type=Path, help="another checkout to compare with")
    machine.main(measure, parser)


if __name__ == "__main__":
    main()
