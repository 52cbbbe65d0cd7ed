"""The command line: options, what is listed and asked, exit codes."""

from __future__ import annotations

import importlib.metadata
import json
import os
import signal
import subprocess
import sys
from functools import reduce
from pathlib import Path

import pytest

from oc2d.cli import main
from oc2d.status import StatusServer
from tests.waiting import wait_until

CONFIG = 'device_id = "fw-7"\n[broker]\nhost = "127.0.0.1"\n'
X_LOG = "[actuators.x-log]\n"


def test_version_loads_neither_transfer_nor_engine():
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "oc2d", "--version"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == f"oc2d {importlib.metadata.version('oc2d')}\n"
    modules = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert not modules & {"paho", "structlog", "msgspec", "pluggy", "oc2d.engine", "oc2d.mqtt"}


@pytest.mark.parametrize(
    "arguments",
    [
        ["--config", "{}", "check"],
        ["check", "--config", "{}"],
        ["--log-format", "json", "check", "--config={}", "--log-level", "debug"],
    ],
)
def test_a_good_configuration_is_ok_wherever_the_options_stand(oc2d, write, arguments):
    path = str(write(CONFIG + X_LOG))
    done = oc2d(*(argument.replace("{}", path) for argument in arguments))
    assert (done.returncode, done.stdout, done.stderr) == (0, "configuration OK\n", "")


@pytest.mark.parametrize(
    "arguments",
    [["--foo"], ["chek"], ["check", "--foreground=3"], ["--log-level", "loud"], ["--c"]],
)
def test_a_wrong_command_line_ends_with_2(oc2d, arguments):
    done = oc2d(*arguments)
    assert done.returncode == 2
    assert "usage: oc2d" in done.stderr


@pytest.mark.parametrize("command", ["check", "plugins", "status", "new-plugin"])
def test_each_command_has_its_help(oc2d, command):
    done = oc2d(command, "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"usage: oc2d {command} ")


def test_a_missing_file_is_a_message_and_no_traceback(oc2d, tmp_path):
    for arguments in ([], ["check"], ["status"]):
        done = oc2d(*arguments, "--config", tmp_path / "none")
        assert done.returncode == 78
        assert (
            done.stderr
            == f"oc2d: {tmp_path}/none: no such file; write one, or name another with --config\n"
        )


DOOR = """
from oc2d.actuator import Actuator, Response, pair
class Plugin(Actuator):
    profile = "x-door"
    @pair("deny", "file")
    @pair("allow", "file")
    @pair("deny", "device")
    def lock(self, command): return Response()
"""


def test_plugins_are_listed_with_pairs_and_why_they_are_not_in_use(oc2d, write, install, site):
    install("acme-door", DOOR)
    install("acme-broken", "1/0")
    install("acme-foo", DOOR.replace('"deny", "file"', '"x-foo", "file"'))
    path = write(
        CONFIG + '[actuators.x-log]\nprofiles = ["x-ids", "x-edr"]\npairs = {scan = ["uri"]}\n'
    )
    done = oc2d("plugins", "--json", "--config", path)
    assert done.returncode == 0
    ours = ("acme-", "oc2d-log")
    rows = [row for row in json.loads(done.stdout) if row["distribution"].startswith(ours)]
    orders = [row.pop("order") for row in rows]
    assert orders[0] == orders[1] > max(orders[2:])  # acme goes before oc2d
    assert "acme_broken.py line 1" in rows[3]["where"]
    for row in rows:
        assert Path(row.pop("location")).is_dir()
        row.pop("where")
        row.pop("needs")
        assert row.pop("hooks") == []
    version = rows[0]["version"]
    log = {"distribution": "oc2d-log", "version": version, "entry_point": "log"}
    acme = {"version": "1.2", "entry_point": "plugin"}
    assert rows == [
        {"profile": "x-ids", "state": "on", "reason": "", "pairs": {"scan": ["uri"]}, **log},
        {"profile": "x-edr", "state": "on", "reason": "", "pairs": {"scan": ["uri"]}, **log},
        {
            "profile": "x-door",
            "state": "off",
            "reason": "no [actuators.x-door] in the configuration",
            "pairs": {"allow": ["file"], "deny": ["device", "file"]},
            "distribution": "acme-door",
            **acme,
        },
        {
            "profile": None,
            "state": "failed",
            "reason": "ZeroDivisionError: division by zero",
            "pairs": {},
            "distribution": "acme-broken",
            **acme,
        },
        {
            "profile": None,
            "state": "failed",
            "reason": "Plugin.lock: no OpenC2 action 'x-foo'",
            "pairs": {},
            "distribution": "acme-foo",
            **acme,
        },
    ]
    text = oc2d("--config", path, "plugins").stdout
    assert "x-edr: on\n  from oc2d-log" in text
    assert (
        f"-: failed (ZeroDivisionError: division by zero)\n  at {site}/acme_broken.py line 1\n"
        f"  from acme-broken 1.2 (plugin)\n  in {site}\n" in text
    )


@pytest.mark.parametrize(
    ("table", "state", "words"),
    [
        ("enabled = false", "off", "enabled = false"),
        ("color = 1", "failed", "actuators.x-log.color: unknown key"),
        ("required = false\ncolor = 1", "failed", "actuators.x-log.color: unknown key"),
    ],
)
def test_a_table_that_is_off_or_wrong_shows_in_plugins(oc2d, write, table, state, words):
    done = oc2d("plugins", "--json", "--config", write(CONFIG + X_LOG + table))
    (row,) = [row for row in json.loads(done.stdout) if row["profile"] == "x-log"]
    assert row["state"] == state
    assert words in row["reason"]


def test_a_table_that_no_plugin_serves_shows_in_plugins(oc2d, write):
    path = write(CONFIG + "[actuators.x-gone]\nrequired = false\n")
    done = oc2d("plugins", "--json", "--config", path)
    (row,) = [row for row in json.loads(done.stdout) if row["profile"] == "x-gone"]
    assert (row["state"], row["distribution"]) == ("failed", None)
    assert "install the distribution that brings x-gone" in row["reason"]
    assert "x-gone: failed (actuators.x-gone: no plugin" in oc2d("plugins", "--config", path).stdout


def test_actions_with_the_same_targets_share_a_line_in_plugins(oc2d, write):
    text = oc2d("plugins", "--config", write(CONFIG)).stdout
    assert len([line for line in text.splitlines() if "artifact, command, device" in line]) <= 2
    assert "  allow, deny: ipv4_connection, ipv4_net, ipv6_connection, ipv6_net\n" in text


def test_plugins_are_listed_without_a_configuration_too(oc2d, tmp_path):
    done = oc2d("plugins", "--config", tmp_path / "none")
    assert done.returncode == 0
    assert f"x-log: off ({tmp_path}/none: no such file" in done.stdout


@pytest.fixture
def daemon(tmp_path):
    server = StatusServer(tmp_path, lambda: {"pid": 7, "link": {"connected": False}})
    server.start()
    yield f'[state]\nruntime_directory = "{tmp_path}"\n'
    server.stop()


def test_status_asks_the_running_daemon(oc2d, write, daemon):
    path = write(CONFIG + daemon)
    done = oc2d("status", "--config", path)
    assert (done.returncode, done.stdout) == (0, "pid: 7\n\nlink:\n  connected: no\n")
    assert json.loads(oc2d("--config", path, "status", "--json").stdout) == {
        "pid": 7,
        "link": {"connected": False},
    }


def test_status_works_when_the_file_was_broken_since(oc2d, write, daemon):
    assert oc2d("status", "--config", write("keep_alive = 3\n" + daemon)).returncode == 0


@pytest.mark.parametrize("form", [[], ["--json"]])
def test_status_that_is_nested_too_deep_is_one_line_of_error(write, monkeypatch, capsys, form):
    deep = reduce(lambda inner, _: {"a": inner}, range(100_000), {})
    monkeypatch.setattr("oc2d.status.fetch", lambda _: deep)
    assert main(["status", *form, "--config", str(write(CONFIG))]) == 1
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.startswith("oc2d: the answer on ")
    assert len(told.err.splitlines()) == 1


def test_status_of_nobody_ends_with_1(oc2d, write, tmp_path):
    state = f'[state]\nruntime_directory = "{tmp_path}"\n'
    done = oc2d("status", "--config", write(CONFIG + state))
    assert done.returncode == 1
    assert f"oc2d is not running: nobody answers on {tmp_path}/status.sock;" in done.stderr


def test_a_reader_that_goes_away_is_no_traceback(write):
    command = f"{sys.executable} -m oc2d plugins --config {write(CONFIG + X_LOG)}"
    done = subprocess.run(
        ["bash", "-c", f'{command} | true; echo "${{PIPESTATUS[0]}}"'],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == ""
    assert done.stdout.strip() in {"0", "1"}


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&- >&- 2>&-"])
def test_a_stream_that_is_closed_is_no_reason_to_fail(write, closed):
    """And its number is no place for a file or a socket of ours."""
    path = write(CONFIG + X_LOG)
    code = f"""
import os
from oc2d.cli import main
found = main(["check", "--config", "{path}"])
os._exit(found or not all(os.path.exists(f"/proc/self/fd/{{n}}") for n in range(3)))
"""
    shell = ["sh", "-c", f'"$@" {closed}', "sh", sys.executable, "-c", code]
    assert subprocess.run(shell, capture_output=True, check=False).returncode == 0


def test_ctrl_c_is_quiet(write, install, site, tmp_path):
    install("acme-slow", "import pathlib, time; pathlib.Path('begun').touch(); time.sleep(60)")
    with subprocess.Popen(
        [sys.executable, "-m", "oc2d", "check", "--config", str(write())],
        stderr=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(site)},
    ) as process:
        wait_until((tmp_path / "begun").exists, 30)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=30)
    assert (process.returncode, err) == (1, "")


TAKER = """
import threading, structlog
from oc2d.hookspecs import hookimpl

def take():
    structlog.configure(processors=[], wrapper_class=structlog.stdlib.BoundLogger,
                        logger_factory=structlog.stdlib.LoggerFactory())

take()

@hookimpl
def oc2d_parse_config(table):
    return 1

@hookimpl
def oc2d_configure(config, place):
    take()
    thread = threading.Thread(target=take)
    thread.start()
    thread.join()
"""


def test_a_plugin_does_not_take_the_log_over(write, install, site):
    install("taker", TAKER, entry="taker", target="")
    own = "port = 9\ntls = false\n[plugins.taker]\n"
    own += '[state]\ndirectory = "s"\nruntime_directory = "r"\n'
    with subprocess.Popen(
        [sys.executable, "-m", "oc2d", "--log-format", "json", "--config", write(CONFIG + own)],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(site)},
    ) as process:
        lines = []
        for line in process.stderr:
            lines.append(json.loads(line))
            if lines[-1]["event"] == "started":
                process.send_signal(signal.SIGTERM)
    assert process.returncode == 0
    events = [line["event"] for line in lines]
    assert events[-1] == "stopped"
    assert [line["by"] for line in lines if line["event"] == "log_setup_ignored"] == ["taker"]


def test_main_returns_its_exit_code(write, capsys, monkeypatch):
    monkeypatch.setattr("oc2d.cli._configure_logs", lambda *_: None)  # it is for good
    assert main(["check", "--config", str(write("device_id = 3"))]) == 78
    assert "device_id" in capsys.readouterr().err


LOUD = """
import threading
import time
from oc2d.actuator import Actuator

print("hello")
threading.Thread(target=time.sleep, args=(3600,)).start()

class Plugin(Actuator):
    profile = "x-loud"
"""


def test_a_plugin_that_prints_and_leaves_a_thread_spoils_no_output_and_no_end(oc2d, install):
    install("acme-loud", LOUD)
    done = oc2d("plugins", "--json", "--config", "none.toml")
    assert "x-loud" in {row["profile"] for row in json.loads(done.stdout)}
    assert (done.returncode, done.stderr) == (0, "hello\n")
