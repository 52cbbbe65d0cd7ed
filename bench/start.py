"""Measure the start, the memory and the idling of oc2d; prints tables.

.venv/bin/python bench/start.py [--rounds N] [--idle SECONDS] [--quick]

Needs root for its namespaces. `exec to subscribed` ends with the SUBACK in the broker's log; the
baseline is what Python itself needs to start and to import the libraries. Everything is compiled
beforehand, as in an installed oc2d. Wake-ups are voluntary context switches of all threads.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import re
import statistics
import subprocess
import sys
import time
from pathlib import Path

import machine
from machine import QUIET, Figure, cpu_seconds, oc2d_command, resident, running

_VERBOSE = machine.BROKER + "log_type all\nlog_dest stderr\n"
_BARE = "import paho.mqtt.client, sqlite3, structlog, msgspec, pluggy, importlib.metadata"
_METRICS = f'[metrics]\nlisten = "127.0.0.1:{machine.PORT + 1}"\n'
_LINE = re.compile(r"import time:\s+(\d+) \|\s+\d+ \|\s*(\S+)")


def wait_for(process: subprocess.Popen[str], words: str) -> None:
    for line in process.stderr or ():
        if words in line:
            return
    raise SystemExit(f"{process.args}: ended without saying {words!r}")


def switches(pid: int) -> int:
    """How often any thread of the process has given up the processor by itself."""
    total = 0
    for status in Path(f"/proc/{pid}/task").glob("*/status"):
        for line in status.read_text().splitlines():
            if line.startswith("voluntary_ctxt_switches"):
                total += int(line.split()[1])
    return total


def measure_start(directory: Path, rounds: int) -> None:
    start = Figure("exec to subscribed", "ms")
    cpu = Figure("the same, processor time", "ms")
    bare = Figure("python and the libraries alone", "ms")
    memory = Figure("resident, slpf, no rules", "MB")
    config = directory / "verbose.conf"
    config.write_text(_VERBOSE)
    known = machine.environment()
    for number in range(rounds):
        with running("mosquitto", "-c", config, stderr=subprocess.PIPE) as broker:
            wait_for(broker, "running")
            began = time.monotonic()
            subprocess.run([sys.executable, "-c", _BARE], check=True, env=known)
            bare.values.append((time.monotonic() - began) * 1000)
            command = oc2d_command(directory, f"start-{number}", "nftables")
            began = time.monotonic()
            with running(*command, stderr=subprocess.DEVNULL, env=known) as daemon:
                wait_for(broker, "Sending SUBACK")
                start.values.append((time.monotonic() - began) * 1000)
                cpu.values.append(cpu_seconds(daemon.pid) * 1000)
                time.sleep(0.5)
                memory.values.append(resident(daemon.pid) / 1e6)
    start.baseline = bare.values
    machine.table("start", [bare, start, cpu, memory], "imports, which the next table tells apart")


def profile_imports(rounds: int) -> None:
    """The ten dearest modules, without what each imports in turn, and the dearest packages."""
    modules: dict[str, list[float]] = collections.defaultdict(list)
    packages: dict[str, list[float]] = collections.defaultdict(list)
    command = [sys.executable, "-X", "importtime", "-c", machine.IMPORTS]
    for _ in range(rounds):
        done = subprocess.run(
            command, check=True, capture_output=True, text=True, env=machine.environment()
        )
        sums: collections.Counter[str] = collections.Counter()
        for micro, name in _LINE.findall(done.stderr):
            modules[name].append(int(micro) / 1000)
            sums[name.partition(".")[0]] += int(micro)
            sums["everything"] += int(micro)
        for name, micro in sums.items():
            packages[name].append(micro / 1000)
    for title, found in (("packages", packages), ("modules", modules)):
        dearest = sorted(found, key=lambda name: -statistics.median(found[name]))[:11]
        figures = [Figure(name, "ms", found[name], packages["everything"]) for name in dearest]
        limit = "classes made and bytecode read; each without what it imports itself"
        machine.table(f"imports, the dearest {title}", figures, limit)


def measure_idle(directory: Path, seconds: float) -> None:
    kinds = {"no metrics": "", "with metrics": _METRICS}
    with machine.broker(directory), contextlib.ExitStack() as stack:
        pids = {}
        for number, (kind, more) in enumerate(kinds.items()):
            name = f"idle-{number}"
            pids[kind] = machine.consumer(
                stack, directory, name, "dry-run", more=more, service=True
            )
            machine.until_answered(name)
        # one that has nothing to do at all, for what the count itself may see
        sleeper = stack.enter_context(running("sleep", "1000", **QUIET))
        pids["sleep(1)"] = sleeper.pid
        time.sleep(3)
        before = {kind: switches(pid) for kind, pid in pids.items()}
        time.sleep(seconds)
        figures = [
            Figure(
                f"wake-ups, {kind}",
                "a minute",
                [(switches(pid) - before[kind]) * 60 / seconds],
                note=f"{resident(pid) / 1e6:.1f} MB resident",
            )
            for kind, pid in pids.items()
        ]
    limit = "keep-alive, each 285 s; under systemd the watchdog; --foreground looks each 3 s"
    machine.table(f"{seconds:g} s idle", figures, limit)


def measure(options: argparse.Namespace, directory: Path) -> None:
    rounds, idle = (2, 2.0) if options.quick else (options.rounds, options.idle)
    # what is compiled here is there for all that follow
    subprocess.run([sys.executable, "-c", machine.IMPORTS], check=True, env=machine.environment())
    measure_start(directory, rounds)
    profile_imports(rounds)
    measure_idle(directory, idle)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--idle", type=float, default=60.0, help="seconds without a command")
    machine.main(measure, parser)


if __name__ == "__main__":
    main()
