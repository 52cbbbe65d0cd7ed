from __future__ import annotations

import contextlib
import os
import socket
import time

import pytest

from oc2d.systemd import Notifier


@pytest.fixture(params=["path", "abstract"])
def manager(request, tmp_path):
    """A service manager's socket: its name as systemd writes it, and a way to read it."""
    name = str(tmp_path / "notify")
    address = name
    if request.param == "abstract":
        name = f"@oc2d-test-{os.getpid()}"
        address = "\0" + name[1:]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as end:
        end.bind(address)
        end.settimeout(5)
        yield name, lambda: end.recv(4096).decode().split("\n")


def test_each_state_is_one_datagram(manager):
    name, read = manager
    notifier = Notifier({"NOTIFY_SOCKET": name})
    notifier.ready("in\nforce")
    assert read() == ["READY=1", "STATUS=in force"]
    notifier.status("ok")
    assert read() == ["STATUS=ok"]
    notifier.watchdog()
    assert read() == ["WATCHDOG=1"]
    notifier.stopping()
    assert read() == ["STOPPING=1"]


def test_a_reload_carries_the_monotonic_time_in_microseconds(manager):
    name, read = manager
    before = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    Notifier({"NOTIFY_SOCKET": name}).reloading()
    state, moment = read()
    assert state == "RELOADING=1"
    key, value = moment.split("=")
    assert key == "MONOTONIC_USEC"
    assert before <= int(value) <= time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000


@pytest.mark.parametrize("environ", [{}, {"NOTIFY_SOCKET": "/nonexistent/socket"}])
def test_without_a_manager_nothing_happens(environ):
    notifier = Notifier(environ)
    notifier.ready()
    notifier.watchdog()


def test_a_manager_that_reads_nothing_does_not_hang_the_daemon(tmp_path):
    name = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as end:
        end.bind(name)
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other:
            other.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                while True:
                    other.sendto(b"x", name)
        begun = time.monotonic()
        Notifier({"NOTIFY_SOCKET": name}).watchdog()
        assert time.monotonic() - begun < 5


@pytest.mark.parametrize(
    ("environ", "interval"),
    [
        ({}, None),
        ({"WATCHDOG_USEC": "30000000"}, 30.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(os.getpid())}, 30.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
    ],
)
def test_the_watchdog_is_fed_only_where_it_watches_this_process(environ, interval):
    assert Notifier(environ).watchdog_interval == interval
