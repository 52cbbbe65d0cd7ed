"""What a monitor gets, judged by Prometheus's own tool."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import resource
import shutil
import socket
import stat
import subprocess
import threading
import time
from pathlib import Path
from urllib.request import urlopen

import pytest

from oc2d.config_kinds import listen_problem
from oc2d.engine.histogram import Histogram
from oc2d.errors import StateError
from oc2d.metrics import METRICS, Extra, render
from oc2d.metrics_server import MetricsServer
from tests.conftest import free_port

STATUS = {
    "version": "0.1.0",
    "device_id": 'fw"7\\',
    "started": 1_700_000_000.5,
    "link": {"connected": True, "healthy": False, "reconnects": 2, "published": 9, "refused": 1},
    "engine": {
        "queue": 3,
        "remembered": 70,
        "unsent": 4,
        "counters": {"received": 12, "duplicates": 2},
        "outcomes": [{"profile": "slpf", "action": "deny", "status": 200, "count": 5}],
        "journal_error": None,
    },
    "windows": 1,
    "actuators": {
        "slpf": {"state": "running", "count": 100_000, "backend": "nftables", "odd": True},
        "x-log": {"state": "stuck"},
    },
    "restart_needed": ["from"],
    "warnings": [],
}


def told(durations=(), certificates=None):
    histogram = Histogram()
    for one in durations:
        histogram.add(one)
    return render(STATUS, Extra(histogram, 4096, certificates or {}))


def promtool(*arguments, text=None):
    program = shutil.which("promtool")
    if program is None:
        pytest.skip("needs promtool (Debian: prometheus)")
    return subprocess.run(
        [program, *map(str, arguments)], input=text, capture_output=True, text=True, check=False
    )


def test_prometheus_finds_nothing_wrong_with_the_text():
    done = promtool("check", "metrics", text=told([3], {"broker.ca_file": 1.5}))
    assert (done.returncode, done.stderr, done.stdout) == (0, "", "")


def test_every_sample_says_what_the_status_says():
    lines = told([0.4, 1.0, 3.0, 70_000.0], {"broker.cert_file": 1_800_000_000.0}).splitlines()
    for line in (
        'oc2d_info{version="0.1.0",device_id="fw\\"7\\\\"} 1',
        "oc2d_start_time_seconds 1700000000.5",
        "oc2d_connected 1",
        "oc2d_healthy 0",
        "oc2d_received_total 12",
        "oc2d_dropped_total 0",
        "oc2d_duplicates_total 2",
        'oc2d_commands_total{profile="slpf",action="deny",status="200"} 5',
        'oc2d_command_duration_seconds_bucket{le="0.001"} 2',
        'oc2d_command_duration_seconds_bucket{le="0.005"} 3',
        'oc2d_command_duration_seconds_bucket{le="60"} 3',
        'oc2d_command_duration_seconds_bucket{le="+Inf"} 4',
        "oc2d_command_duration_seconds_sum 70.0044",
        "oc2d_command_duration_seconds_count 4",
        "oc2d_queue 3",
        "oc2d_journal_bytes 4096",
        'oc2d_actuator_up{profile="slpf"} 1',
        'oc2d_actuator_up{profile="x-log"} 0',
        'oc2d_actuator_value{profile="slpf",name="count"} 100000',
        'oc2d_certificate_end_seconds{key="broker.cert_file"} 1800000000.0',
        "oc2d_restart_needed 1",
    ):
        assert line in lines
    assert not [line for line in lines if "odd" in line or "backend" in line]


def test_the_page_names_every_metric_and_no_other(root):
    page = (root / "docs/metrics.md").read_text()
    rows = re.findall(r"^\| `(oc2d_\w+)` \| (.+) \|$", page, re.MULTILINE)
    assert rows == [(m.name, f"{m.kind} | {m.meaning}") for m in METRICS]


# -- what is installed beside it


def test_the_alert_rules_are_legal_and_fire_when_they_should(root):
    folder = root / "packaging/monitoring"
    for arguments in (["check", "rules", "alerts.yml"], ["test", "rules", "alerts.test.yml"]):
        done = promtool(*arguments[:2], folder / arguments[2])
        assert done.returncode == 0, done.stdout + done.stderr


def test_alerts_and_dashboard_ask_for_what_there_is(root, tmp_path):
    folder = root / "packaging/monitoring"
    dashboard = json.loads((folder / "dashboard.json").read_text())
    asked = [one["expr"] for panel in dashboard["panels"] for one in panel["targets"]]
    alerts = re.findall(r"expr: (.*)", (folder / "alerts.yml").read_text())
    names = {name for text in asked + alerts for name in re.findall(r"\boc2d_\w+", text)}
    known = {metric.name for metric in METRICS} | {"oc2d_command_duration_seconds_bucket"}
    assert names <= known
    rules = [
        {"record": f"r{at}", "expr": text.replace("$__rate_interval", "5m")}
        for at, text in enumerate(asked)
    ]
    # JSON is YAML
    (tmp_path / "rules.yml").write_text(json.dumps({"groups": [{"name": "g", "rules": rules}]}))
    done = promtool("check", "rules", tmp_path / "rules.yml")
    assert done.returncode == 0, done.stdout + done.stderr


# -- the server


@pytest.fixture
def serve():
    servers = []

    def serve(listen, tell=lambda: "m 1\n"):
        servers.append(MetricsServer(listen, tell))
        servers[-1].start()
        return servers[-1]

    yield serve
    for server in servers:
        server.stop()


def get(connection, path="/metrics"):
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]"])
def test_a_monitor_is_answered_on_loopback(serve, host):
    port = free_port()
    serve(f"{host}:{port}")
    with urlopen(f"http://{host}:{port}/metrics") as answer:
        assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
        assert answer.read() == b"m 1\n"
    assert get(http.client.HTTPConnection(host.strip("[]"), port), "/etc/passwd")[0] == 404


def test_a_monitor_is_answered_on_a_unix_socket(serve, tmp_path):
    path = tmp_path / "metrics.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    serve(f"unix:{path}")
    assert stat.S_IMODE(path.stat().st_mode) == 0o660
    connection = http.client.HTTPConnection("localhost")
    connection.sock = socket.socket(socket.AF_UNIX)
    connection.sock.connect(str(path))
    assert get(connection) == (200, b"m 1\n")


def test_what_cannot_be_told_is_a_500_and_the_next_is_answered(serve):
    tries = iter([True, False])

    def tell():
        if next(tries):
            raise RuntimeError("/secret/path")
        return "m 1\n"

    port = free_port()
    serve(f"127.0.0.1:{port}", tell)
    status, text = get(http.client.HTTPConnection("127.0.0.1", port))
    assert status == 500
    assert b"/secret/path" not in text
    assert get(http.client.HTTPConnection("127.0.0.1", port)) == (200, b"m 1\n")


def test_a_silent_client_is_let_go(serve):
    port = free_port()
    serve(f"127.0.0.1:{port}")
    begun = time.monotonic()
    with socket.create_connection(("127.0.0.1", port)):
        assert get(http.client.HTTPConnection("127.0.0.1", port))[0] == 200
    assert time.monotonic() - begun < 10


def switches(thread):
    """How often the thread gave up the processor by itself."""
    text = Path(f"/proc/self/task/{thread.native_id}/status").read_text()
    return int(re.search(r"^voluntary_ctxt_switches:\s+(\d+)", text, re.MULTILINE)[1])


def ticks(thread):
    """Processor time of the thread in hundredths of a second."""
    text = Path(f"/proc/self/task/{thread.native_id}/stat").read_text()
    user, system = text.rpartition(")")[2].split()[11:13]
    return int(user) + int(system)


def at_rest(serve):
    """A server that has answered once, its port and its thread."""
    port = free_port()
    server = serve(f"127.0.0.1:{port}")
    assert get(http.client.HTTPConnection("127.0.0.1", port))[0] == 200
    thread = next(one for one in threading.enumerate() if one.name == "metrics")
    time.sleep(0.1)  # it may still be closing the connection
    return server, port, thread


def test_the_server_sleeps_until_it_is_asked_and_stops_at_once(serve):
    server, _, thread = at_rest(serve)
    before = switches(thread)
    time.sleep(0.7)
    assert switches(thread) == before
    begun = time.monotonic()
    server.stop()
    assert time.monotonic() - begun < 0.4
    assert not thread.is_alive()


def test_the_server_does_not_spin_while_no_descriptors_are_left(serve):
    server, port, thread = at_rest(serve)
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    taken = []
    with socket.socket() as client:
        highest = max(int(one.name) for one in Path("/proc/self/fd").iterdir())
        before = ticks(thread)
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 1, limits[1]))
            with contextlib.suppress(OSError):
                while True:
                    taken.append(os.dup(0))
            client.connect(("127.0.0.1", port))
            time.sleep(0.7)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
            for one in taken:
                os.close(one)
        assert ticks(thread) - before < 10
        client.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
        assert client.recv(100).startswith(b"HTTP/1.0 200")
    begun = time.monotonic()
    server.stop()
    assert time.monotonic() - begun < 0.4


def test_a_client_that_trickles_is_let_go_and_does_not_hold_up_the_stop(tmp_path):
    path = tmp_path / "socket"
    server = MetricsServer(f"unix:{path}", told)
    server.start()
    with socket.socket(socket.AF_UNIX) as slow:
        slow.connect(str(path))
        slow.settimeout(0.3)
        begun = time.monotonic()
        with contextlib.suppress(OSError):
            while time.monotonic() - begun < 8:
                slow.sendall(b"G")
                with contextlib.suppress(TimeoutError):
                    if not slow.recv(1):
                        break
        assert time.monotonic() - begun < 4
    server.stop()


def test_a_place_that_is_taken_is_an_error(serve, tmp_path):
    port = free_port()
    serve(f"127.0.0.1:{port}")
    with pytest.raises(StateError, match="cannot listen on"):
        serve(f"127.0.0.1:{port}")
    (tmp_path / "file").write_text("mine")
    with pytest.raises(StateError, match="cannot listen on"):
        serve(f"unix:{tmp_path}/file")
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize("text", ["127.0.0.1:9464", "[::1]:1", "127.9.9.9:65535", "unix:/run/s"])
def test_places_of_this_host_are_taken(text):
    assert listen_problem(text) is None


@pytest.mark.parametrize(
    "text",
    ["", "9464", "0.0.0.0:9464", "192.0.2.1:9464", "localhost:9464", "127.0.0.1", "127.0.0.1:0",
     "127.0.0.1:65536", "::1:9464", "[127.0.0.1]:9464", "unix:run/s", "127.0.0.1:x"],
)  # fmt: skip
def test_other_places_are_refused(text):
    assert listen_problem(text)
