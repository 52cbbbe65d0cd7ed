from __future__ import annotations

import contextlib
import grp
import json
import os
import socket
import stat
import subprocess
import sys
import threading
import time

import pytest

from oc2d import status
from oc2d.errors import Oc2dError, StateError
from oc2d.status import SOCKET_NAME, StatusServer, fetch
from oc2d.status_text import render


@pytest.fixture
def serve(tmp_path):
    servers = []

    def serve(snapshot=lambda: {"pid": 1}):
        server = StatusServer(tmp_path, snapshot)
        server.start()
        servers.append(server)
        return tmp_path / SOCKET_NAME

    yield serve
    for server in servers:
        server.stop()


def connect(path):
    client = socket.socket(socket.AF_UNIX)
    client.connect(str(path))
    client.settimeout(10)
    return client


def test_each_connection_is_told_one_snapshot(serve):
    counted = iter(range(10))
    path = serve(lambda: {"n": next(counted)})
    assert [fetch(path), fetch(path)] == [{"n": 0}, {"n": 1}]


def test_the_socket_is_for_owner_and_group_only(serve):
    path = serve()
    assert stat.S_IMODE(path.stat().st_mode) == 0o660
    assert [entry.name for entry in path.parent.iterdir()] == [SOCKET_NAME]


@pytest.mark.root
def test_the_group_of_the_directory_may_ask_and_nobody_else(serve, tmp_path):
    path = serve()
    for directory in (tmp_path, *tmp_path.parents[:2]):
        directory.chmod(0o755)
    tmp_path.chmod(0o750)
    group, stranger = 12, 13  # any but our own; they need no name
    os.chown(tmp_path, 0, group)
    os.chown(path, 0, group)

    def asks(groups):
        program = (
            "import os, pathlib, sys; from oc2d.status import fetch\n"
            f"os.setgroups({groups}); os.setgid({stranger}); os.setuid(65534)\n"
            "print(fetch(pathlib.Path(sys.argv[1])))"
        )
        command = [sys.executable, "-c", program, str(path)]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    assert asks([group]).stdout == "{'pid': 1}\n"
    refused = asks([]).stderr
    assert "no permission to ask oc2d" in refused
    assert f"a member of the group {grp.getgrgid(group).gr_name}" in refused


def test_clients_that_are_silent_or_slow_delay_nobody(serve):
    big = {"text": "x" * 4_000_000}
    path = serve(lambda: big)
    with connect(path), connect(path):
        begun = time.monotonic()
        assert fetch(path) == big
        assert time.monotonic() - begun < status._PATIENCE


def test_a_client_that_does_not_read_is_dropped(serve, monkeypatch):
    monkeypatch.setattr(status, "_PATIENCE", 0.1)
    big = {"text": "x" * 4_000_000}
    path = serve(lambda: big)
    with connect(path) as slow:
        time.sleep(0.3)
        assert len(b"".join(iter(lambda: slow.recv(1 << 20), b""))) < 4_000_000
    assert path.exists()


def test_a_crowd_of_clients_does_not_grow(serve):
    path = serve(lambda: {"text": "x" * 1_000_000})
    with contextlib.ExitStack() as crowd:
        for _ in range(60):
            crowd.enter_context(connect(path))
        assert len(fetch(path)["text"]) == 1_000_000


def test_a_client_that_goes_away_stops_nothing(serve):
    path = serve(lambda: {"text": "x" * 4_000_000})
    connect(path).close()
    assert fetch(path)


def test_a_snapshot_that_fails_is_told_without_internals(serve):
    tries = iter([True, False])

    def snapshot():
        if next(tries):
            raise RuntimeError("/secret/path")
        return {"pid": 1}

    path = serve(snapshot)
    assert fetch(path) == {"error": "cannot tell the state: RuntimeError"}
    assert fetch(path) == {"pid": 1}


def test_a_slow_snapshot_is_for_the_status_thread_alone(serve):
    gate = threading.Event()
    path = serve(lambda: {"opened": gate.wait(10)})
    with pytest.raises(Oc2dError, match="did not answer"):
        fetch(path, 0.1)
    gate.set()
    assert fetch(path) == {"opened": True}


def test_what_json_does_not_know_is_told_as_text(serve, tmp_path):
    assert fetch(serve(lambda: {"path": tmp_path})) == {"path": str(tmp_path)}


def test_a_stale_socket_is_replaced(tmp_path, serve):
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(tmp_path / SOCKET_NAME))
    assert fetch(serve()) == {"pid": 1}


def test_the_socket_of_a_live_daemon_is_left_alone(serve, tmp_path):
    path = serve()
    second = StatusServer(tmp_path, lambda: {"pid": 2})
    with pytest.raises(StateError, match="is running already"):
        second.start()
    second.stop()
    assert fetch(path) == {"pid": 1}


def test_a_live_daemon_with_a_full_queue_is_live(tmp_path):
    path = tmp_path / SOCKET_NAME
    with socket.socket(socket.AF_UNIX) as busy:
        busy.bind(str(path))
        busy.listen(0)
        with connect(path), pytest.raises(StateError, match="is running already"):
            StatusServer(tmp_path, dict).start()


def test_a_file_in_the_place_of_the_socket_is_not_removed(tmp_path):
    (tmp_path / SOCKET_NAME).write_text("mine")
    with pytest.raises(StateError, match="remove it"):
        StatusServer(tmp_path, dict).start()
    assert (tmp_path / SOCKET_NAME).read_text() == "mine"


def test_a_path_too_long_for_a_socket_is_an_error(tmp_path):
    with pytest.raises(StateError, match="too long"):
        StatusServer(tmp_path / ("x" * 100), dict).start()


def test_a_missing_directory_is_an_error(tmp_path):
    with pytest.raises(StateError, match="No such file"):
        StatusServer(tmp_path / "x", dict).start()


def test_stop_removes_the_socket_and_may_come_without_start_or_twice(tmp_path):
    server = StatusServer(tmp_path, dict)
    server.stop()
    server.start()
    server.stop()
    server.stop()
    assert list(tmp_path.iterdir()) == []
    server.start()
    server.stop()


def test_stop_leaves_the_socket_of_a_successor(tmp_path):
    server = StatusServer(tmp_path, dict)
    server.start()
    (tmp_path / SOCKET_NAME).unlink()
    (tmp_path / SOCKET_NAME).write_text("successor")
    server.stop()
    assert (tmp_path / SOCKET_NAME).read_text() == "successor"


def test_nobody_there_is_said_as_such(tmp_path):
    with pytest.raises(Oc2dError, match="not running") as caught:
        fetch(tmp_path / SOCKET_NAME)
    assert caught.value.exit_code == 1
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(tmp_path / SOCKET_NAME))
    with pytest.raises(Oc2dError, match="not running"):
        fetch(tmp_path / SOCKET_NAME)


@contextlib.contextmanager
def instead(path, talk):
    """Somebody else answers in the daemon's place: `talk` writes to the one client."""
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(path))
        other.listen()

        def run():
            client, _ = other.accept()
            with client, contextlib.suppress(OSError):
                talk(client)

        thread = threading.Thread(target=run)
        thread.start()
        yield
        thread.join()


DEEP = b'{"a":' * 100_000 + b"1" + b"}" * 100_000


@pytest.mark.parametrize("answer", [b"", b"{", b"[]", b"\xff", DEEP])
def test_an_answer_that_is_none_is_an_error(tmp_path, answer):
    path = tmp_path / "s"
    with (
        instead(path, lambda client: client.sendall(answer)),
        pytest.raises(Oc2dError, match="answer on"),
    ):
        fetch(path)


def endless(client):
    while True:
        client.sendall(b" " * (1 << 16))


def trickling(client):
    while True:
        client.sendall(b" ")
        time.sleep(0.01)


def test_an_answer_without_end_is_read_no_further_than_a_daemon_would_write(tmp_path):
    path = tmp_path / "s"
    with instead(path, endless), pytest.raises(Oc2dError, match="longer than 16 MiB") as caught:
        fetch(path)
    assert caught.value.exit_code == 1


@pytest.mark.parametrize("talk", [endless, trickling])
def test_whoever_writes_and_writes_is_given_no_more_time(tmp_path, monkeypatch, talk):
    monkeypatch.setattr(status, "_LONGEST_ANSWER", 1 << 60)
    path = tmp_path / "s"
    begun = time.monotonic()
    with instead(path, talk), pytest.raises(Oc2dError, match=r"did not answer .* 0\.3 seconds"):
        fetch(path, 0.3)
    assert time.monotonic() - begun < 5


SNAPSHOT = {
    "version": "0.1.0",
    "plugins": [],
    "reload_refused": [],
    "started": 1_700_000_000.5,
    "uptime": 33.791,
    "warnings": ["actuators.x-foo: no plugin"],
    "link": {
        "connected": True,
        "since": 1_700_000_000_000,
        "last_error": None,
        "received": 12,
        "subscriptions": {"oc2/cmd/all": 2, "oc2/cmd/ap/slpf": "not authorized"},
    },
    "engine": {
        "queue": 0,
        "counters": {},
        "last": [
            {"request_id": "a\x1b[31m\nb", "action": "deny", "status": 200, "duration_ms": 1.23456},
            {"request_id": "c", "producer": "soc", "action": "allow", "status": 501},
        ],
    },
    "actuators": {
        "x-log": {"state": "running"},
        "slpf": {
            "state": "running",
            "rules": [
                {"number": 7, "verdict": "deny", "match": "203.0.113.0/24", "stop_time": 2**60},
                {"number": 100, "verdict": "allow", "match": "tcp dport 22"},
            ],
        },
    },
}


def test_a_snapshot_is_shown_in_sections_with_rules_as_a_table():
    assert (
        render(SNAPSHOT)
        == """\
version: 0.1.0
started: 2023-11-14T22:13:20Z
uptime:  34 s

warnings:
  actuators.x-foo: no plugin

link:
  connected:  yes
  since:      2023-11-14T22:13:20Z
  last_error: -
  received:   12
  subscriptions:
    oc2/cmd/all:     QoS 2
    oc2/cmd/ap/slpf: not authorized

engine:
  queue:    0
  counters: -
  last:
    request_id    action  status  duration_ms  producer
    a\\x1b[31m\\nb  deny    200     1.235        -
    c             allow   501     -            soc

actuators:
  x-log:
    state: running
  slpf:
    state: running
    rules:
      number  verdict  match           stop_time
      7       deny     203.0.113.0/24  1152921504606846976
      100     allow    tcp dport 22    -
"""
    )


def test_what_each_plugin_tells_is_shown_below_the_one_before():
    told = [{"audit": {"seq": 9, "error": None}}, {"policy": {"rules": 3}}]
    assert render({"plugins": told}).splitlines() == [
        "",
        "plugins:",
        "  audit:",
        "    seq:   9",
        "    error: -",
        "  policy:",
        "    rules: 3",
    ]


def test_a_command_id_is_a_column_only_where_it_tells_more_than_the_request_id():
    same = {"request_id": "r-1", "command_id": "r-1", "status": 200}
    own = {"request_id": "r-2", "command_id": "c-2", "status": 200}
    assert "command_id" not in render({"last": [same]})
    assert "c-2" in render({"last": [same, own]})


def test_a_snapshot_survives_json():
    assert render(json.loads(json.dumps(SNAPSHOT))) == render(SNAPSHOT)


@pytest.mark.parametrize("number", ["Infinity", "-Infinity", "NaN", "1e999", f"1{'0' * 400}"])
def test_a_number_beyond_any_clock_is_shown_as_it_is(number):
    told = json.loads(f'{{"uptime": {number}, "started": {number}, "queue": {number}}}')
    assert len(render(told).splitlines()) == 3
