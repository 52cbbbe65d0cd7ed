"""The audit log of a running daemon, over a real broker."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.consumer import command, query
from tests.waiting import wait_until


@pytest.fixture
def zulu(make_broker_host, tmp_path):
    host = make_broker_host(isolated=False)
    made = host.consumer(
        "zulu",
        **{
            "actuators_x-log": {},
            "plugins.audit": {"file": str(tmp_path / "audit.log")},
        },
    )
    made.audit = tmp_path / "audit.log"
    return made.start()


def verify(zulu):
    head = Path(zulu.tables["state"]["directory"]) / "audit.head"
    done = subprocess.run(
        [sys.executable, "-m", "oc2d_audit", "verify", zulu.audit, "--head", head],
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout


def test_each_decision_is_a_line_and_a_kill_leaves_a_whole_log(zulu):
    soc = zulu.host.producer()
    net = {"ipv4_net": "198.51.100.7"}
    asked = [
        (command("deny", net), 200),
        (command("allow", net, slpf={"direction": "ingress"}), 501),
        (query("pairs"), 200),
        (command("deny", {"ipv4_net": "nonsense"}), 400),
    ]
    ids = [soc.ask(one, request_id=f"r{number}") for number, (one, _) in enumerate(asked)]
    assert [reply.status for reply in ids] == [status for _, status in asked]
    soc.ask(asked[0][0], request_id="r0")
    for number in range(200):
        soc.send(command("deny", net), request_id=f"k{number}")
    wait_until(lambda: len(zulu.audit.read_text().splitlines()) > 50)
    zulu.kill()
    code, said = verify(zulu)
    assert (code, said.splitlines()[-1][:3]) == (0, "ok:"), said  # its last line may be torn
    zulu.start()
    soc.wait("k199")
    told = zulu.told()["plugins"][0]["audit"]
    assert zulu.stop() == 0
    code, said = verify(zulu)
    assert (code, said.count("did not end in order")) == (0, 1), said
    records = [json.loads(line) for line in zulu.audit.read_text().splitlines()]
    decided = [one for one in records if one["event"] == "decision"]
    assert [(one["request_id"], one["status"]) for one in decided[:3]] == [
        ("r0", 200),
        ("r1", 501),
        ("r2", 200),
    ]
    assert len({one["request_id"] for one in decided}) == len(decided)
    asked = {one["request_id"] for one in records if one["event"] == "asked"}
    assert asked == {"r0", "r1", "r2", *(f"k{number}" for number in range(200))}
    assert told.items() >= {"error": None, "unwritten": 0}.items()
    assert told["hash"] in {one["hash"] for one in records}


def test_what_is_no_command_leaves_no_record_and_one_for_an_unknown_profile_has_none(zulu):
    soc = zulu.host.producer()
    net = {"ipv4_net": "198.51.100.7"}
    elsewhere = {**command("deny", net), "profile": "x-door"}
    unread = {**elsewhere, "target": {"nonsense": 3}}
    assert soc.ask(command("deny", {"ipv4_net": "x"}), request_id="r1").status == 400
    soc.send(unread, "oc2/cmd/all", request_id="r2")
    assert soc.ask(unread, request_id="r3").status == 400
    soc.send(elsewhere, "oc2/cmd/all", request_id="r4")
    assert soc.ask(elsewhere, request_id="r5").status == 404
    assert soc.ask(command("deny", net), request_id="r6").status == 200
    wait_until(lambda: zulu.audit.read_text().count('"r6"') == 2)  # it is told behind the answer
    records = [json.loads(line) for line in zulu.audit.read_text().splitlines()]
    assert sorted(
        (one["request_id"], one["event"], one["profile"] or "", one.get("status"))
        for one in records
        if "request_id" in one
    ) == [
        ("r4", "asked", "", None),
        ("r5", "asked", "", None),
        ("r5", "decision", "", 404),
        ("r6", "asked", "x-log", None),
        ("r6", "decision", "x-log", 200),
    ]


def test_another_file_waits_for_a_restart(zulu, tmp_path):
    zulu.tables["plugins.audit"] = {"file": str(tmp_path / "other.log")}
    zulu.write_config()
    zulu.signal(signal.SIGHUP)
    wait_until(lambda: zulu.entries("reloaded"))
    (failed,) = zulu.entries("plugin_reload_failed")
    assert failed["error"] == "another file needs a restart: the chain has one end"
    assert zulu.entries("reloaded")[0]["changed"] == []
    assert zulu.told()["restart_needed"] == ["plugins.audit"]
    zulu.tables["plugins.audit"] = {"file": str(zulu.audit)}
    zulu.write_config()
    zulu.signal(signal.SIGHUP)
    wait_until(lambda: len(zulu.entries("reloaded")) == 2)
    assert zulu.told()["restart_needed"] == []


def test_a_log_that_cannot_be_opened_ends_the_start(zulu):
    zulu.stop()
    zulu.audit.unlink()
    zulu.audit.mkdir()
    zulu.launch()
    assert zulu.wait() == 1
    assert "audit.log: Is a directory" in zulu.log.read_text()
