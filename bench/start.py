"""Measure the start, the memory and the idling of oc2d; prints a table.

.venv/bin/python bench/start.py [--rounds N] [--idle SECONDS] [--quick]

Needs root for its namespaces. `exec to subscribed` ends with the SUBACK in the broker's log; the
baseline is what Python itself needs to start and to import paho.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path

import machine
from machine import Figure, oc2d_command, resident, running

_VERBOSE = machine.BROKER + "log_type all\nlog_dest stderr\n"
_BARE = "import paho.mqtt.client, sqlite3"


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


def measure(options: argparse.Namespace, directory: Path) -> None:
    rounds, idle = (2, 5.0) if options.quick else (options.rounds, options.idle)
    start = Figure("exec to subscribed", "ms")
    bare = Figure("python and its libraries alone", "ms")
    memory = Figure("resident, slpf, no rules", "MB")
    waking = Figure("wake-ups while idle", "a minute")
    config = directory / "verbose.conf"
    config.write_text(_VERBOSE)
    for number in range(rounds):
        with running("mosquitto", "-c", config, stderr=subprocess.PIPE) as broker:
            wait_for(broker, "running")
            began = time.monotonic()
            subprocess.run([sys.executable, "-c", _BARE], check=True)
            bare.values.append((time.monotonic() - began) * 1000)
            command = oc2d_command(directory, f"start-{number}", "nftables")
            began = time.monotonic()
            with running(*command, stderr=subprocess.DEVNULL) as daemon:
                wait_for(broker, "Sending SUBACK")
                start.values.append((time.monotonic() - began) * 1000)
                time.sleep(1)
                memory.values.append(resident(daemon.pid) / 1e6)
                before = switches(daemon.pid)
                time.sleep(idle)
                waking.values.append((switches(daemon.pid) - before) * 60 / idle)
    start.baseline = bare.values
    machine.table("start", [bare, start, memory, waking], "imports: python -X importtime -m oc2d")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--idle", type=float, default=20.0, help="seconds without a command")
    machine.main(measure, parser)


if __name__ == "__main__":
    main()
