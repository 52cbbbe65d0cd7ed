"""The policy in a running daemon, over a real broker."""

from __future__ import annotations

import signal

import pytest

from tests.consumer import command, query
from tests.waiting import wait_until

POLICY = """\
default = "deny"
[[rules]]
effect = "deny"
nets = ["10.0.0.0/8"]
[[rules]]
effect = "allow"
from = ["soc@example.com"]
profiles = ["x-log"]
actions = ["deny", "query"]
"""


@pytest.fixture
def zulu(make_broker_host, tmp_path):
    file = tmp_path / "policy.toml"
    file.write_text(POLICY)
    host = make_broker_host(isolated=False)
    made = host.consumer("zulu", **{"actuators_x-log": {}, "plugins.policy": {"file": str(file)}})
    made.policy = file
    return made.start()


def net(text, action="deny"):
    return command(action, {"ipv4_net": text})


@pytest.mark.req("LANG-46")
def test_a_policy_decides_at_once_after_a_reload_and_never_by_a_wrong_file(zulu):
    soc = zulu.host.producer()
    guest = zulu.host.producer("guest@example.com")
    assert soc.ask(net("198.51.100.7")).status == 200
    assert soc.ask(net("198.51.100.7", "allow")).status == 403
    assert soc.ask(net("0.0.0.0/0")).status == 403
    reply = guest.ask(net("198.51.100.7"))
    assert (reply.status, "policy" in reply.text) == (403, True)
    assert soc.ask(net("198.51.100.7"), headers={"from": ""}).status in {401, 403}
    assert soc.ask(query("profiles")).status == 403
    assert zulu.told()["plugins"] == [
        {
            "policy": {
                "file": str(zulu.policy),
                "rules": 2,
                "default": "deny",
                "refused": 5,
            }
        }
    ]
    zulu.policy.write_text(POLICY.replace('"deny", "query"', '"block"'))
    zulu.signal(signal.SIGHUP)
    wait_until(lambda: zulu.entries("reload_refused"))
    (refused,) = zulu.entries("reload_refused")
    assert refused["path"] == "plugins.policy.file"
    assert refused["message"].startswith("rules[1].actions[0]: 'block' is no action")
    checked = zulu.run("check")
    assert checked.returncode == 78
    assert "plugins.policy.file: rules[1].actions[0]" in checked.stdout + checked.stderr
    assert soc.ask(net("198.51.100.8")).status == 200
    zulu.policy.write_text('default = "allow"\n')
    zulu.signal(signal.SIGHUP)
    wait_until(lambda: zulu.entries("reloaded"))
    assert guest.ask(net("198.51.100.7")).status == 200
    zulu.policy.write_text("default =\n")
    zulu.stop()
    zulu.launch()
    assert zulu.wait() == 78


def test_a_plugin_without_its_table_is_off_and_a_table_without_its_plugin_an_error(zulu):
    del zulu.tables["plugins.policy"]
    zulu.write_config()
    shown = zulu.run("plugins").stdout
    assert "-: off (no [plugins.policy] in the configuration)" in shown
    zulu.restart()
    assert zulu.host.producer("guest@example.com").ask(net("10.0.0.1")).status == 200
    zulu.tables["plugins.polcy"] = {"file": "/nowhere"}
    zulu.write_config()
    checked = zulu.run("check")
    assert checked.returncode == 78
    assert "plugins.polcy" in checked.stdout + checked.stderr
    assert "did you mean policy?" in checked.stdout + checked.stderr
