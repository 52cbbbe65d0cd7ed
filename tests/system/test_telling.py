"""What the daemon tells its users: the log, the status, the foreground, metrics."""

from __future__ import annotations

import json
import signal
import time
from urllib.request import urlopen

import pytest

from tests.conftest import free_port
from tests.consumer import OC2D, allow, delete, deny, lines, query
from tests.system.conftest import DRY
from tests.terminal import Terminal
from tests.waiting import wait_until


@pytest.mark.req("LANG-5")
def test_each_request_is_one_line_of_the_log(soc, zulu):
    reply = soc.ask(allow("10.2.0.0/16"), request_id="line-1")
    soc.send(allow("10.2.0.0/16"), "oc2/cmd/all", request_id="line-1")
    soc.wait("line-1", 2)
    assert soc.ask({"action": "block", "target": {}}, request_id="line-2").status == 400
    assert soc.ask(delete(reply.number)).status == 200
    written = lines(zulu, "line-1", 2)
    assert [one["duplicate"] for one in written] == [False, True]
    first = written[0]
    assert isinstance(first.pop("duration_ms"), float)
    first.pop("timestamp")
    assert first == {
        "event": "request",
        "level": "info",
        "request_id": "line-1",
        "command_id": "line-1",
        "producer": "soc@example.com",
        "topic": "oc2/cmd/device/zulu",
        "profile": "slpf",
        "action": "allow",
        "target": "ipv4_net",
        "status": 200,
        "duplicate": False,
    }
    (refused,) = lines(zulu, "line-2")
    assert refused["status"] == 400


def test_status_tells_people_and_programs_what_runs(soc, zulu):
    number = soc.ask(deny("10.3.0.0/16", insert_rule=42)).number
    done = zulu.run("status", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    told = json.loads(done.stdout)
    assert told["device_id"] == "zulu"
    assert told["link"]["healthy"] is True
    assert told["link"]["subscriptions"] == dict.fromkeys(
        ("oc2/cmd/all", "oc2/cmd/ap/slpf", "oc2/cmd/ap/x-log", "oc2/cmd/device/zulu"), 2
    )
    (rule,) = told["actuators"]["slpf"]["rules"]
    assert (rule["number"], rule["verdict"], rule["match"]) == (
        42,
        "deny",
        "ipv4_net 10.3.0.0/16",
    )
    assert told["engine"]["last"]
    text = zulu.run("status").stdout
    assert "ipv4_net 10.3.0.0/16" in text
    assert soc.ask(delete(number)).status == 200


def test_the_last_commands_are_shown_with_their_time(zulu, soc):
    before = time.time() * 1000
    soc.ask(query())
    wait_until(lambda: [one for one in zulu.told()["engine"]["last"] if one["at"] >= before])
    assert zulu.told()["engine"]["last"][-1]["at"] <= time.time() * 1000
    assert f"    {time.gmtime().tm_year}-" in zulu.run("status").stdout


def test_the_first_line_says_who_we_are_where_and_for_what(zulu, host):
    first = zulu.entries()[0]
    assert first["event"] == "starting"
    assert first["device_id"] == first["sender"] == "zulu"
    assert first["broker"] == f"127.0.0.1:{host.broker.port}"
    assert first["profiles"] == ["slpf", "x-log"]
    assert "oc2/cmd/device/zulu" in first["topics"]
    assert zulu.entries("started")[0]["seconds"] < 20


def test_the_foreground_has_colours_on_a_terminal(host):
    fore = host.consumer("colours", actuators_slpf=DRY)
    fore.write_config()
    shown = Terminal(*OC2D, "--foreground", "--config", str(fore.config))
    try:
        shown.until("started")
        shown.process.send_signal(signal.SIGINT)
        assert shown.process.wait(20) == 0
        lines = shown.read().splitlines()
    finally:
        shown.close()
    first = next(line for line in lines if "starting" in line)
    assert "\x1b[" in first
    assert "colours" in first


def test_a_monitor_sees_what_was_commanded(make_broker_host):
    host = make_broker_host(isolated=False)
    port = free_port()
    zulu = host.consumer(actuators_slpf=DRY, metrics={"listen": f"127.0.0.1:{port}"}).start()
    soc = host.producer()
    assert soc.ask(deny("10.0.0.1")).status == 200

    def told():
        with urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
            return answer.read().decode().splitlines()

    wait_until(lambda: 'oc2d_commands_total{profile="slpf",action="deny",status="200"} 1' in told())
    lines = told()
    assert "oc2d_connected 1" in lines
    assert "oc2d_command_duration_seconds_count 1" in lines
    assert 'oc2d_actuator_value{profile="slpf",name="count"} 1' in lines
    assert 'oc2d_actuator_value{profile="slpf",name="kernel_refusals"} 0' in lines
    (size,) = [line.split()[1] for line in lines if line.startswith("oc2d_journal_bytes ")]
    assert int(size) > 4096
    assert zulu.stop() == 0
