"""Measure how fast oc2d carries out commands, over MQTT only; prints a table.

.venv/bin/python bench/commands.py [--rounds N] [--seconds S] [--rules N] [--echo-only]

Runs in a network namespace of its own, so it needs root; see README.md for what each row means.
"""

from __future__ import annotations

import argparse
import contextlib
import ipaddress
import itertools
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from wire import Outcome, Wire, closed_loop

ROOT = Path(__file__).resolve().parent.parent
PORT = 1883
BROKER = f"""\
listener {PORT} 127.0.0.1
allow_anonymous true
persistence false
max_inflight_messages 0
max_queued_messages 0
set_tcp_nodelay true
"""
CONSUMER = """\
device_id = "{name}"
[broker]
host = "127.0.0.1"
tls = false
[state]
directory = "{directory}/state"
runtime_directory = "{directory}/run"
[actuators.slpf]
backend = "{backend}"
"""
_ADDRESSES = itertools.count(int(ipaddress.IPv4Address("10.0.0.1")))


def message(request: dict[str, object]) -> bytes:
    headers = {
        "request_id": str(uuid.uuid4()),
        "created": int(time.time() * 1000),
        "from": "bench@example.com",
    }
    return json.dumps({"headers": headers, "body": {"openc2": {"request": request}}}).encode()


def query(_number: int) -> bytes:
    return message({"action": "query", "target": {"features": ["pairs"]}})


def deny(_number: int) -> bytes:
    address = str(ipaddress.IPv4Address(next(_ADDRESSES)))
    target = {"ipv4_net": address}
    return message({"action": "deny", "target": target, "actuator": {"slpf": {}}})


@contextlib.contextmanager
def running(*command: str | Path, **options: object) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen([str(part) for part in command], text=True, **options)
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        for stream in (process.stdout, process.stderr):
            if stream:
                stream.close()


def oc2d_command(directory: Path, name: str, backend: str) -> list[str]:
    for part in ("state", "run"):
        (directory / name / part).mkdir(parents=True, exist_ok=True)
    file = directory / name / "oc2d.toml"
    file.write_text(CONSUMER.format(name=name, directory=directory / name, backend=backend))
    return [str(Path(sys.executable).parent / "oc2d"), "--config", str(file), "--foreground"]


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def resident(pid: int) -> int:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGESIZE")


@dataclass
class Row:
    """One line of the table: a Consumer under one kind of command."""

    name: str
    topic: str
    command: Callable[[int], bytes]
    pid: int
    rates: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    answers: int = 0

    def measure(self, wire: Wire, seconds: float) -> None:
        before = cpu_seconds(self.pid)
        outcome = closed_loop(wire, self.topic, self.command, seconds=seconds)
        used = cpu_seconds(self.pid) - before
        check(self.name, outcome)
        self.answers += outcome.answers
        self.rates.append(outcome.rate)
        self.cpu.append(used / outcome.answers * 1e6)


def check(name: str, outcome: Outcome) -> None:
    if outcome.refusals or not outcome.answers:
        raise SystemExit(f"{name}: {outcome.refusals} of {outcome.answers} answers were not 200")


def start_times(directory: Path, rounds: int) -> list[float]:
    """Seconds from exec to the SUBACK that the broker sends, as its own log tells."""
    times = []
    config = directory / "verbose.conf"
    config.write_text(BROKER + "log_type all\nlog_dest stderr\n")
    for number in range(rounds):
        with running("mosquitto", "-c", config, stderr=subprocess.PIPE) as broker:
            assert broker.stderr is not None  # noqa: S101 - asked for one line above
            wait_for(broker, "running")
            command = oc2d_command(directory, f"start-{number}", "nftables")
            started = time.monotonic()
            with running(*command, stderr=subprocess.DEVNULL):
                wait_for(broker, "Sending SUBACK")
                times.append(time.monotonic() - started)
    return times


def wait_for(process: subprocess.Popen[str], words: str) -> None:
    for line in process.stderr or ():
        if words in line:
            return
    raise SystemExit(f"{process.args}: ended without saying {words!r}")


def until_answered(name: str) -> None:
    """Wait until a Consumer answers on its own topic; each try has a session of its own."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        wire = Wire(PORT, uuid.uuid4().hex[:23], "oc2/rsp")
        wire.socket.settimeout(0.5)
        with contextlib.suppress(TimeoutError), contextlib.closing(wire.socket):
            closed_loop(wire, f"oc2/cmd/device/{name}", query, count=1)
            return
    raise SystemExit(f"{name} does not answer")


def table(rows: list[Row]) -> None:
    reference = {row.name: statistics.median(row.rates) for row in rows}["bare paho echo"]
    print(f"\n{'':34} {'per second':>22} {'ratio':>7} {'CPU µs each':>12}")
    for row in rows:
        middle = statistics.median(row.rates)
        spread = f"{middle:.0f} ({min(row.rates):.0f}-{max(row.rates):.0f})"
        cpu = statistics.median(row.cpu)
        print(f"{row.name:34} {spread:>22} {middle / reference:7.2f} {cpu:12.0f}")


def measure(options: argparse.Namespace, directory: Path, stack: contextlib.ExitStack) -> None:
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    if not options.echo_only:
        times = [1000 * seconds for seconds in start_times(directory, options.rounds)]
        middle = statistics.median(times)
        print(f"exec to subscribed: {middle:.0f} ms ({min(times):.0f}-{max(times):.0f})")
    config = directory / "mosquitto.conf"
    config.write_text(BROKER)
    stack.enter_context(running("mosquitto", "-c", config, **quiet))
    until_open()
    echoes = {"wire": "control: the generator itself", "paho": "bare paho echo"}
    rows = []
    for name, title in echoes.items():
        command = (sys.executable, ROOT / "bench/echo.py", name, str(PORT))
        pid = stack.enter_context(running(*command)).pid
        rows.append(Row(title, f"oc2/cmd/device/{name}", query, pid))
    if not options.echo_only:
        rows += consumers(directory, stack, quiet)
    for row in rows:
        until_answered(row.topic.rpartition("/")[2])
    kernel = rows[-1]
    empty = resident(kernel.pid)
    wire = Wire(PORT, "bench", "oc2/rsp")
    for _ in range(options.rounds):
        for row in rows:
            row.measure(wire, options.seconds)
    if options.rules and not options.echo_only:
        check("load", closed_loop(wire, kernel.topic, deny, count=options.rules))
        full = Row(f"  the same, {options.rules} rules more", kernel.topic, deny, kernel.pid)
        for _ in range(options.rounds):
            full.measure(wire, options.seconds)
        rows.append(full)
    table(rows)
    if not options.echo_only:
        rules = options.rules + sum(
            row.answers for row in rows if row.command is deny and row.pid == kernel.pid
        )
        grown = resident(kernel.pid)
        each = (grown - empty) / rules
        print(f"\nresident: {empty / 1e6:.1f} MB without rules, {grown / 1e6:.1f} MB with {rules}")
        print(f"({each:.0f} bytes a rule, the remembered requests included)")


def consumers(directory: Path, stack: contextlib.ExitStack, quiet: dict[str, int]) -> list[Row]:
    """Start an oc2d per back end; the last row is the one in the kernel."""
    pids = {}
    for name in ("dry-run", "nftables"):
        command = oc2d_command(directory, name, name)
        pids[name] = stack.enter_context(running(*command, **quiet)).pid
    topic = "oc2/cmd/device/{}".format
    return [
        Row("oc2d query features", topic("nftables"), query, pids["nftables"]),
        Row("oc2d deny, dry-run", topic("dry-run"), deny, pids["dry-run"]),
        Row("oc2d deny, in the kernel", topic("nftables"), deny, pids["nftables"]),
    ]


def until_open() -> None:
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        with contextlib.suppress(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", PORT)).close()
            return
        time.sleep(0.02)
    raise SystemExit("mosquitto does not listen")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=3.0, help="length of each measurement")
    parser.add_argument("--rules", type=int, default=0, help="rules to load before a last row")
    parser.add_argument("--echo-only", action="store_true", help="only the comparisons")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if not options.inside:
        command = ["unshare", "--net", "--pid", "--fork", "--kill-child", "--mount-proc"]
        os.execvp(command[0], [*command, sys.executable, *sys.argv, "--inside"])  # noqa: S606
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    (ROOT / "build").mkdir(exist_ok=True)
    # beside the checkout, not in /tmp: a journal on tmpfs would measure no fsync
    directory = Path(tempfile.mkdtemp(prefix="bench-", dir=ROOT / "build"))
    kind = subprocess.check_output(["stat", "-f", "-c", "%T", directory], text=True).strip()
    print(f"Python {sys.version.split()[0]}, {os.cpu_count()} CPUs, journal on {kind}, window 64")
    try:
        with contextlib.ExitStack() as stack:
            measure(options, directory, stack)
    finally:
        shutil.rmtree(directory)


if __name__ == "__main__":
    main()
