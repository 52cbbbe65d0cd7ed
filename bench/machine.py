"""What every measurement over MQTT needs: a namespace, a broker, Consumers, and a table."""

from __future__ import annotations

import argparse
import contextlib
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
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from wire import Wire, closed_loop

ROOT = Path(__file__).resolve().parent.parent
PORT = 1883
BROKER = f"""\
user root
listener {PORT} 127.0.0.1
allow_anonymous true
persistence false
max_inflight_messages 0
max_queued_messages 0
set_tcp_nodelay true
"""
TLS_PORT = 8883
TLS_LISTENER = f"""\
listener {TLS_PORT} 127.0.0.1
certfile {{directory}}/broker.pem
keyfile {{directory}}/broker.key
"""
CONSUMER = """\
device_id = "{name}"
[broker]
host = "127.0.0.1"
{broker}
[state]
directory = "{directory}/state"
runtime_directory = "{directory}/run"
[actuators.slpf]
backend = "{backend}"
{more}
"""
IMPORTS = "import oc2d.cli, oc2d.daemon, oc2d.logs, oc2d_slpf.nftables"
QUIET = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}


def message(request: dict[str, object]) -> dict[str, object]:
    headers = {
        "request_id": str(uuid.uuid4()),
        "created": int(time.time() * 1000),
        "from": "bench@example.com",
    }
    return {"headers": headers, "body": {"openc2": {"request": request}}}


def query(_number: int) -> bytes:
    request = {"action": "query", "target": {"features": ["pairs"]}}
    return json.dumps(message(request)).encode()


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


@contextlib.contextmanager
def broker(directory: Path, *, tls: bool = False) -> Iterator[int]:
    """Run mosquitto; yields its process id. With `tls` it listens at `TLS_PORT` too."""
    config = directory / "mosquitto.conf"
    config.write_text(BROKER + (TLS_LISTENER.format(directory=directory) if tls else ""))
    if tls:
        make_certificate(directory)
    with running("mosquitto", "-c", config, **QUIET) as process:
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            with contextlib.suppress(ConnectionRefusedError):
                socket.create_connection(("127.0.0.1", PORT)).close()
                yield process.pid
                return
            time.sleep(0.02)
        raise SystemExit("mosquitto does not listen")


def make_certificate(directory: Path) -> None:
    """Make `broker.pem`, which is its own authority, and `broker.key`."""
    key = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -keyout broker.key"
    name = "-subj /CN=127.0.0.1 -addext subjectAltName=IP:127.0.0.1 -days 2 -out broker.pem"
    command = ["openssl", "req", "-x509", *key.split(), *name.split()]
    subprocess.run(command, check=True, cwd=directory, **QUIET)
    (directory / "broker.key").chmod(0o644)  # mosquitto reads it as a user of its own


def oc2d_command(  # noqa: PLR0913 - what makes one Consumer another
    directory: Path,
    name: str,
    backend: str,
    *,
    tls: bool = False,
    more: str = "",
    service: bool = False,
) -> list[str]:
    """Configure a Consumer below `directory`, and say how it is run.

    `more` are lines of `[actuators.slpf]` and further tables; `service`: as a service manager
    runs it.
    """
    for part in ("state", "run"):
        (directory / name / part).mkdir(parents=True, exist_ok=True)
    file = directory / name / "oc2d.toml"
    link = f'ca_file = "{directory}/broker.pem"' if tls else "tls = false"
    own = directory / name
    file.write_text(
        CONSUMER.format(name=name, broker=link, directory=own, backend=backend, more=more)
    )
    command = [sys.executable, "-m", "oc2d", "--config", str(file)]
    return command if service else [*command, "--foreground"]


def environment(*path: Path, tree: Path = ROOT) -> dict[str, str]:
    """Where the modules of a checkout are; compiled once, as those of an installed oc2d are."""
    parts = (".", "plugins/oc2d-slpf", "plugins/oc2d-log")
    found = {key: text for key, text in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
    return {
        **found,
        "PYTHONPATH": ":".join(map(str, [*(tree / part for part in parts), *path])),
        "PYTHONPYCACHEPREFIX": str(ROOT / "build/bench-bytecode"),
    }


def consumer(  # noqa: PLR0913 - what makes one Consumer another
    stack: contextlib.ExitStack,
    directory: Path,
    name: str,
    backend: str,
    tree: Path = ROOT,
    *,
    path: Sequence[Path] = (),
    **options: Any,  # those of `oc2d_command`
) -> int:
    """Start an oc2d of this checkout, or of another one; returns its process id."""
    command = oc2d_command(directory, name, backend, **options)
    known = environment(*path, tree=tree)
    return stack.enter_context(running(*command, env=known, cwd=tree, **QUIET)).pid


def until_answered(name: str) -> None:
    """Wait until a Consumer answers on its own topic; each try has a session of its own."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        wire = Wire(PORT, uuid.uuid4().hex[:23], "oc2/rsp")
        wire.socket.settimeout(0.5)
        with contextlib.suppress(TimeoutError), contextlib.closing(wire.socket):
            closed_loop(wire, f"oc2/cmd/device/{name}", query, count=1)
            return
    raise SystemExit(f"{name} does not answer")


def cpu_seconds(pid: int) -> float:
    """Processor time of the threads that live, to the nanosecond: proc's own counts hundredths."""
    threads = Path(f"/proc/{pid}/task").glob("*/schedstat")
    return sum(int(thread.read_text().split()[0]) for thread in threads) / 1e9


def resident(pid: int) -> int:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGESIZE")


@dataclass
class Figure:
    """One line of a table: the values of all rounds, and of the same rounds of its baseline."""

    name: str
    unit: str
    values: list[float] = field(default_factory=list)
    baseline: list[float] = field(default_factory=list)
    note: str = ""


def table(title: str, figures: Sequence[Figure], limit: str) -> None:
    """Print medians, extremes and ratios, and what limits them; keep them for `--json`."""
    print(f"\n{title}\n{'':40} {'median (extremes)':>26} {'ratio':>7}")
    for figure in figures:
        middle = statistics.median(figure.values)
        spread = f"{middle:.4g} ({min(figure.values):.4g}-{max(figure.values):.4g})"
        ratio = f"{middle / statistics.median(figure.baseline):7.3g}" if figure.baseline else ""
        print(f"{figure.name:40} {spread:>26} {ratio:>7} {figure.unit} {figure.note}".rstrip())
    print(f"limit: {limit}", flush=True)
    if path := os.environ.get("OC2D_BENCH_JSON"):
        found = {"title": title, "limit": limit, "figures": [asdict(each) for each in figures]}
        with Path(path).open("a", encoding="utf-8") as file:
            file.write(json.dumps(found) + "\n")


def main(
    measure: Callable[[argparse.Namespace, Path], None],
    parser: argparse.ArgumentParser,
    before: Callable[[argparse.Namespace], None] = lambda _: None,
) -> None:
    """Run `measure` in namespaces of its own, in a directory on the disk of the checkout.

    `before` runs outside of them, where there is a network.
    """
    parser.add_argument("--quick", action="store_true", help="few and short rounds")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if not options.inside:
        before(options)
        command = ["unshare", "--net", "--pid", "--fork", "--kill-child", "--mount-proc"]
        os.execvp(command[0], [*command, sys.executable, *sys.argv, "--inside"])  # noqa: S606
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    (ROOT / "build").mkdir(exist_ok=True)
    # beside the checkout, not in /tmp: a journal on tmpfs would measure no fsync
    directory = Path(tempfile.mkdtemp(prefix="bench-", dir=ROOT / "build"))
    kind = subprocess.check_output(["stat", "-f", "-c", "%T", directory], text=True).strip()
    load = os.getloadavg()[0]
    print(f"Python {sys.version.split()[0]}, {os.cpu_count()} CPUs, load {load:.1f}, {kind}")
    # what is compiled here is there for every Consumer, as in an installed oc2d
    subprocess.run([sys.executable, "-c", IMPORTS], check=True, env=environment())
    try:
        measure(options, directory)
    finally:
        shutil.rmtree(directory)
