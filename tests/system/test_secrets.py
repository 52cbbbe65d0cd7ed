"""What a local account may learn: no secret, in no place where others can look."""

from __future__ import annotations

import json
import os
import stat
import subprocess
from pathlib import Path

import pytest

from tests.consumer import deny

SECRET = "correct-horse-battery"


@pytest.fixture
def zulu(make_broker_host, tmp_path):
    """A Consumer with a password, in a process that would make files for everybody."""
    file = tmp_path / "passwords"
    subprocess.run(["mosquitto_passwd", "-b", "-c", file, "fw-7", SECRET], check=True)
    file.chmod(0o644)
    host = make_broker_host("allow_anonymous false", f"password_file {file}", isolated=False)
    (host.directory / "password").write_text(SECRET)
    broker = {"username": "fw-7", "password_file": str(host.directory / "password")}
    before = os.umask(0)
    made = host.consumer(broker=broker, actuators_slpf={"backend": "dry-run"}).start()
    os.umask(before)
    soc = host.producer(configure=lambda client: client.username_pw_set("fw-7", SECRET))
    assert soc.ask(deny("10.0.0.1")).status == 200
    assert soc.ask(deny("10.0.0.2", persistent=False)).status == 200
    return made


@pytest.mark.req("MQTT-68")
def test_secrets_are_in_no_log_no_status_no_list_of_processes_and_no_core(zulu):
    process = Path("/proc", str(zulu.process.pid))
    limits = (process / "limits").read_text()
    (core,) = (line for line in limits.splitlines() if line.startswith("Max core file size"))
    assert core.split()[4:6] == ["1", "1"]  # the kernel ignores 0 where a program takes cores
    told = [
        json.dumps(zulu.told()),
        zulu.run("status").stdout,
        zulu.run("status", "--json").stdout,
        zulu.run("check").stdout,
        zulu.log.read_text(),
        (process / "cmdline").read_text(),
    ]
    assert all(told)
    assert not [text for text in told if SECRET in text]
    (zulu.host.directory / "password").write_text("another-secret")
    zulu.signal(1)
    zulu.host.broker.kill()
    zulu.host.start_broker()
    assert zulu.stop() == 0
    assert SECRET not in zulu.log.read_text()
    assert "another-secret" not in zulu.log.read_text()


def test_files_are_for_us_alone_whatever_the_umask_was(zulu):
    state, runtime = zulu.directory / "state", zulu.directory / "run"
    assert stat.S_IMODE(state.stat().st_mode) == 0o700
    assert stat.S_IMODE(runtime.stat().st_mode) == 0o750
    modes = {
        path.name: stat.S_IMODE(path.stat().st_mode)
        for directory in (state, runtime)
        for path in directory.iterdir()
    }
    assert modes.pop("status.sock") == 0o660  # the group may ask, nobody may change
    assert modes
    assert set(modes.values()) == {0o600}, modes
    for path in [*state.iterdir(), *runtime.iterdir()]:
        assert SECRET.encode() not in (path.read_bytes() if path.is_file() else b"")
