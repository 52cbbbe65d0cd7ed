"""Plugins that mean no harm and treat the process as their own."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from tests.consumer import command, deny
from tests.waiting import wait_until

CODE = """
from __future__ import annotations

import os
import signal
import socket
import sys
import threading
import time
import warnings
from collections.abc import Mapping
from typing import Any, ClassVar

from oc2d.actuator import Actuator, Command, Response, pair

signal.signal(signal.SIGTERM, lambda *_: None)
signal.signal(signal.SIGHUP, signal.SIG_IGN)
signal.signal(signal.SIGPIPE, signal.SIG_DFL)
signal.pthread_sigmask(signal.SIG_SETMASK, [])
socket.setdefaulttimeout(0.05)
os.environ.clear()
warnings.simplefilter("error")


class Careless(Actuator):
    profile = "x-careless"
    targets: ClassVar[Mapping[str, Any]] = {"place": str}

    @pair("start", "x-careless:place")
    def settle(self, command: Command) -> Response:
        os.mkdir(command.target)
        os.chdir(command.target)
        os.rmdir(command.target)
        os.umask(0)
        sys.setrecursionlimit(200)
        for _ in range(50):
            threading.Thread(target=time.sleep, args=(3600,)).start()
        return Response()
"""


@pytest.fixture
def site(tmp_path):
    """A plugin as pip installs it; its directory."""
    info = tmp_path / "careless-1.0.dist-info"
    info.mkdir()
    (tmp_path / "careless.py").write_text(CODE)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: careless\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[oc2d]\ncareless = careless:Careless\n")
    return tmp_path


def threads_with(what, number, pid):
    """Those in whose mask (SigBlk or SigIgn) a signal is."""
    return {
        int(thread.name)
        for thread in Path(f"/proc/{pid}/task").iterdir()
        for line in (thread / "status").read_text().splitlines()
        if line.startswith(f"{what}:") and int(line.split()[1], 16) >> (number - 1) & 1
    }


@pytest.mark.req("LANG-44", "MQTT-14")
def test_signals_the_link_and_a_reload_work_whatever_a_plugin_set(make_broker_host, site):
    host = make_broker_host(isolated=False)
    tables = {"actuators_slpf": {"backend": "dry-run"}, "actuators_x-careless": {}}
    zulu = host.consumer(**tables)
    zulu.config = Path(os.path.relpath(zulu.config))
    zulu.start(PYTHONPATH=str(site))
    pid = zulu.told()["pid"]
    threads = {int(thread.name) for thread in Path(f"/proc/{pid}/task").iterdir()}
    assert threads_with("SigBlk", signal.SIGTERM, pid) >= threads - {pid}
    assert threads_with("SigIgn", signal.SIGPIPE, pid) == threads
    soc = host.producer()
    reply = soc.ask(command("start", {"x-careless:place": str(site / "gone")}))
    assert reply.status == 200, zulu.log.read_text()
    assert soc.ask(deny("10.0.0.1")).status == 200
    zulu.tables["limits"] = {"remember": 5}
    zulu.write_config()
    zulu.signal(signal.SIGHUP)
    wait_until(lambda: zulu.entries("reloaded"))
    host.broker.kill()
    host.start_broker()
    wait_until(lambda: zulu.told()["link"]["reconnects"] == 1 and zulu.told()["link"]["healthy"])
    assert host.producer().ask(deny("10.0.0.2")).status == 200
    modes = {path.stat().st_mode & 0o777 for path in (zulu.directory / "state").iterdir()}
    assert modes == {0o600}
    assert zulu.stop() == 0
