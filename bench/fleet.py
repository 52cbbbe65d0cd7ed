"""Measure one `query` to a whole fleet, to the last response; prints a table.

.venv/bin/python bench/fleet.py [--processes N] [--sessions N …] [--rounds N] [--quick]

Needs root for its namespaces. A fleet is N processes of oc2d (dry-run, each with a journal of its
own), or N sessions in one process that answer a fixed 200: those show what a broker has to do. The
baseline of the processes is as many such sessions. A response that is missing, or there twice, ends
the run.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import resource
import select
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import machine
from machine import PORT, ROOT, Figure, consumer, cpu_seconds, query, resident, running
from wire import PUBACK, PUBLISH, Wire, packet

TOPIC = "oc2/cmd/all"
PATIENCE = 60.0  # seconds without any response


def responses(producers: list[Wire], patience: float) -> list[str] | None:
    """Wait for data and return who answered in it, one name for each response; None: no data."""
    ready, _, _ = select.select([one.socket for one in producers], [], [], patience)
    if not ready:
        return None
    found = []
    for producer in producers:
        if producer.socket in ready:
            for kind, body in producer.packets():
                if kind & 0xF0 == PUBLISH & 0xF0:
                    after = 2 + int.from_bytes(body[:2], "big")
                    producer.socket.sendall(packet(PUBACK, body[after : after + 2]))
                    headers = json.JSONDecoder().raw_decode(body[body.index(b'{"') :].decode())[0]
                    found.append(headers["headers"]["from"])
    return found


def ask(producers: list[Wire], count: int) -> float:
    """Ask everybody; returns the milliseconds to the last of `count` responses."""
    begun = time.monotonic()
    producers[0].socket.sendall(producers[0].publication(TOPIC, "req", query(0)))
    seen: Counter[str] = Counter()
    while seen.total() < count:
        found = responses(producers, PATIENCE)
        if found is None:
            raise SystemExit(f"{count - len(seen)} of {count} responses are missing")
        seen.update(found)
    took = (time.monotonic() - begun) * 1000
    if len(seen) != count:
        raise SystemExit(f"twice: {[name for name, times in seen.items() if times > 1][:5]}")
    return took


@contextlib.contextmanager
def sessions(count: int):
    """Connect so many sessions; yields the process that holds them."""
    command = (sys.executable, ROOT / "bench/sessions.py", str(PORT), str(count))
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with running(*command, **pipes) as process:
        if process.stdout.readline() != "ready\n":
            raise SystemExit(f"{count} sessions cannot be made: see ulimit -n")
        yield process


def measure_sessions(broker: int, count: int, rounds: int) -> None:
    """What a fleet of sessions asks of the broker, per session and per response."""
    each = {
        name: Figure(name, unit)
        for name, unit in (
            ("to the last response", "ms"),
            ("the same, four Producers sharing", "ms"),
            ("broker: command and response", "µs CPU each"),
            ("broker: one PINGREQ", "µs CPU each"),
            ("broker: connect, subscribe", "µs CPU each"),
            ("broker: a session", "kB resident"),
        )
    }
    one, four, exchange, ping, connect, memory = each.values()
    before, empty = cpu_seconds(broker), resident(broker)
    with sessions(count) as process:
        connect.values.append((cpu_seconds(broker) - before) / count * 1e6)
        memory.values.append((resident(broker) - empty) / count / 1e3)
        for _ in range(rounds):
            producer = Wire(PORT, "bench", "oc2/rsp")
            before = cpu_seconds(broker)
            one.values.append(ask([producer], count))
            exchange.values.append((cpu_seconds(broker) - before) / count * 1e6)
            producer.socket.close()
            group = [Wire(PORT, f"bench-{n}", "$share/bench/oc2/rsp") for n in range(4)]
            four.values.append(ask(group, count))
            for member in group:
                member.socket.close()
            before = cpu_seconds(broker)
            process.stdin.write("ping\n")
            process.stdin.flush()
            process.stdout.readline()
            ping.values.append((cpu_seconds(broker) - before) / count * 1e6)
    four.baseline = one.values
    limit = "one thread of mosquitto, and the one process that holds the sessions"
    machine.table(f"fleet: {count} sessions in one process", [*each.values()], limit)


def measure_processes(count: int, rounds: int, directory: Path) -> None:
    """What so many real Consumers take to answer, beside as many sessions."""
    took = Figure(f"{count} oc2d, to the last response", "ms")
    bare = Figure(f"{count} sessions, to the last response", "ms")
    start = Figure("start of all", "s")
    memory = Figure("resident, each", "MB")
    with sessions(count):
        producer = Wire(PORT, "bench", "oc2/rsp")
        bare.values = [ask([producer], count) for _ in range(rounds)]
    with contextlib.ExitStack() as stack:
        begun = time.monotonic()
        pids = [consumer(stack, directory, f"fleet-{number}", "dry-run") for number in range(count)]
        wait_for_all(producer, count)
        start.values.append(time.monotonic() - begun)
        took.values = [ask([producer], count) for _ in range(rounds)]
        memory.values = [resident(pid) / 1e6 for pid in pids]
        for pid in pids:  # all at once, else each would be waited for in turn
            os.kill(pid, signal.SIGTERM)
    producer.socket.close()
    took.baseline = bare.values
    limit = "processor time: each has its own Python, its own journal and its own fsync"
    machine.table("fleet: processes", [bare, took, start, memory], limit)


def wait_for_all(producer: Wire, count: int) -> None:
    """Ask until all have answered the same question."""
    deadline = time.monotonic() + 10 + count
    while time.monotonic() < deadline:
        producer.socket.sendall(producer.publication(TOPIC, "req", query(0)))
        seen: set[str] = set()
        until = time.monotonic() + 2 + count / 100
        while time.monotonic() < until:
            seen.update(responses([producer], 0.3) or ())
            if len(seen) == count:
                while responses([producer], 1.0) is not None:
                    pass  # to what was asked before
                return
    raise SystemExit(f"{count - len(seen)} of {count} did not start")


def measure(options: argparse.Namespace, directory: Path) -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
    processes, several, rounds = options.processes, options.sessions, options.rounds
    if options.quick:
        processes, several, rounds = 4, [100], 2
    with machine.broker(directory) as broker:
        for count in several:
            measure_sessions(broker, count, rounds)
        measure_processes(processes, rounds, directory)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--processes", type=int, default=100, help="real Consumers")
    parser.add_argument("--sessions", type=int, nargs="*", default=[1000, 8000])
    parser.add_argument("--rounds", type=int, default=5)
    machine.main(measure, parser)


if __name__ == "__main__":
    main()
