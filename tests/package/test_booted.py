"""The package on a Debian machine that is booted with its own systemd."""

from __future__ import annotations

import json
import re
import subprocess
import time

import pytest

from tests.package.conftest import CONFIGURATION, NEWER, ROOT, configure
from tests.package.machine import HOME
from tests.package.service import (
    NET,
    configured,
    deny,
    oc2ctl,
    rules,
    status,
    table,
    until_subscribed,
)
from tests.package.wire import HERE, OUTSIDE, Wire

pytestmark = [pytest.mark.root, pytest.mark.timeout(600)]


# -- the machine


@pytest.fixture
def wire(host):
    made = Wire(host)
    made.connect()
    yield made
    made.close()


@pytest.fixture(scope="module")
def installed(deb, make_machine):
    """A machine on which the package was just installed."""
    machine = make_machine().boot()
    machine.said = machine.install(deb)
    return machine


@pytest.fixture(scope="module")
def host(installed):
    """The same with a broker and a configuration, and the service enabled and started."""
    configure(installed)
    installed.run("systemctl", "enable", "--now", "oc2d")
    until_subscribed(installed)
    return installed


def test_installing_makes_the_user_and_directories_and_starts_nothing(installed):
    assert "oc2d" in installed.run("getent", "passwd", "oc2d").stdout
    unit = installed.unit()
    assert (unit["LoadState"], unit["ActiveState"]) == ("loaded", "inactive")
    assert unit["UnitFileState"] == "disabled"
    modes = installed.run(
        *("stat", "-c", "%a %U %n", "/etc/oc2d", "/etc/oc2d/credentials"),
        *("/etc/oc2d/oc2d.toml", "/usr/local/lib/oc2d/plugins"),
    ).stdout.split("\n")
    assert [line.split()[:2] for line in modes if line] == [
        ["755", "root"],
        ["700", "root"],
        ["644", "root"],
        ["755", "root"],
    ]
    assert "/etc/oc2d/oc2d.toml" in installed.run("cat", "/var/lib/dpkg/info/oc2d.conffiles").stdout
    assert not [line for line in installed.said.splitlines() if "rror" in line or "ail" in line]


def test_the_example_configuration_says_what_is_missing(installed):
    done = installed.run("oc2d", "check", check=False)
    assert done.returncode == 78
    assert done.stderr.splitlines() == [
        "oc2d: device_id: is required",
        "oc2d: broker.host: is required",
        "oc2d: the configuration is /etc/oc2d/oc2d.toml",
    ]


def test_the_service_is_commanded_by_a_producer_over_a_broker(host):
    number = deny(host)
    assert rules(host)[number]["match"] == {"ipv4_net": NET} or NET in json.dumps(rules(host))
    assert "203.0.113.0" in table(host)
    unit = host.unit()
    assert (unit["ActiveState"], unit["SubState"], unit["User"]) == ("active", "running", "oc2d")
    host.until(
        lambda: host.unit()["StatusText"].startswith("connected to 127.0.0.1:1883"), 10, "STATUS"
    )
    owner = host.run("stat", "-c", "%U", f"/proc/{unit['MainPID']}").stdout.strip()
    assert owner == "oc2d"
    assert oc2ctl(host, "delete", "slpf:rule_number", str(number))["status"] == 200


def test_the_journal_has_the_members_of_a_request_as_fields(host):
    response = oc2ctl(host, "query", "features", "profiles")
    request_id = response["request_id"]
    found = []

    def written():
        found[:] = host.journal("-u", "oc2d", f"OC2_REQUEST_ID={request_id}")
        return found

    host.until(written, 10, "the entry of the request")
    entry = found[-1]
    expected = {
        "OC2_ACTION": "query",
        "OC2_TARGET": "features",
        "OC2_STATUS": "200",
        "OC2_PRODUCER": "soc@example.com",
        "OC2_TOPIC": "oc2/cmd/device/fw-7",
        "SYSLOG_IDENTIFIER": "oc2d",
        "_SYSTEMD_UNIT": "oc2d.service",
        "PRIORITY": "6",
    }
    assert {name: entry.get(name) for name in expected} == expected


def test_a_reload_puts_a_good_configuration_in_force(host):
    before = host.unit()["MainPID"]
    with configured(host, CONFIGURATION.replace("[broker]", "[broker]\nkeep_alive = 77")):
        host.run("systemctl", "reload", "oc2d")
        host.until(lambda: host.journal("-u", "oc2d", "OC2_EVENT=reloaded"), 10, "reloaded")
        until_subscribed(host)
        assert host.unit()["MainPID"] == before
    host.run("systemctl", "reload", "oc2d")
    until_subscribed(host)


def test_a_reload_of_a_bad_configuration_fails_and_the_old_one_stays(host):
    number = deny(host)
    unit = host.unit()
    with configured(host, CONFIGURATION + "nonsense = 1\n"):
        done = host.run("systemctl", "reload", "oc2d", check=False)
        assert done.returncode != 0
        said = [entry["MESSAGE"] for entry in host.journal("-u", "oc2d", "-n", "20")]
        assert any("actuators.slpf.nonsense" in line for line in said), said
        after = host.unit()
        assert (after["ActiveState"], after["MainPID"]) == ("active", unit["MainPID"])
        assert number in rules(host)
        # who sends the signal past systemctl is told by the state
        host.run("systemctl", "kill", "--kill-whom=main", "--signal=HUP", "oc2d")
        host.until(lambda: host.journal("-u", "oc2d", "OC2_EVENT=reload_refused"), 10, "refused")
    assert oc2ctl(host, "delete", "slpf:rule_number", str(number))["status"] == 200


def hang(machine, how):
    """Make it hang, command it meanwhile, and see what the watchdog makes of it."""
    number = deny(machine)
    before = machine.unit()
    how()
    asked = subprocess.Popen(
        machine.command(
            *("oc2ctl", "deny", "ipv4_net", "198.51.100.0/24", "--device", "fw-7"),
            *("--json", "--timeout", "60"),
        ),
        stdout=subprocess.PIPE,
        text=True,
    )
    told, _ = asked.communicate(timeout=70)
    after = machine.unit()
    assert int(after["NRestarts"]) == int(before["NRestarts"]) + 1
    assert after["MainPID"] != before["MainPID"]
    assert "watchdog" in json.dumps(machine.journal("-u", "oc2d", "-n", "100")).lower()
    response = json.loads(told.splitlines()[-1])
    assert response["status"] == 200
    until_subscribed(machine)
    assert set(rules(machine)) == {number, response["results"]["slpf"]["rule_number"]}
    for one in rules(machine):
        oc2ctl(machine, "delete", "slpf:rule_number", str(one))


def test_a_process_that_hangs_is_restarted_by_the_watchdog_and_loses_nothing(host):
    hang(host, lambda: host.run("systemctl", "kill", "--kill-whom=main", "--signal=STOP", "oc2d"))


def test_a_third_party_plugin_is_found_in_its_directory_and_commanded(host):
    """With the very command of the documentation, less the way to a package index."""
    subprocess.run(
        [
            *(ROOT / "build/package/tools/bin/python", "-m", "pip", "-q", "install"),
            *("--no-deps", "--no-index", "--no-build-isolation", "--disable-pip-version-check"),
            *("--target", host.path("/usr/local/lib/oc2d/plugins")),
            ROOT / "tests/package/door",
        ],
        check=True,
        env={"PATH": "/usr/bin", "PYTHONDONTWRITEBYTECODE": "1"},
    )
    listed = json.loads(host.run("oc2d", "plugins", "--json").stdout)
    door = next(row for row in listed if row["profile"] == "x-door")
    assert (door["distribution"], door["state"]) == ("oc2d-door", "off")
    with configured(host, CONFIGURATION + "[actuators.x-door]\n"):
        host.run("systemctl", "restart", "oc2d")
        until_subscribed(host)
        told = host.run(
            *("oc2ctl", "command", "query", "device", "device_id=x", "--json"),
            "--profile",
            "x-door",
        )
        assert "the door is open" in told.stdout
    host.run("systemctl", "restart", "oc2d")
    until_subscribed(host)


def test_an_engine_that_a_plugin_blocks_is_noticed_by_the_watchdog_and_loses_nothing(host):
    """The hook of the plugin that the test before has installed."""
    hang(host, lambda: host.path("/var/lib/oc2d/hang-once").touch(mode=0o666))
    assert host.journal("-u", "oc2d", "OC2_EVENT=not_alive")


def test_without_a_broker_the_start_returns_and_nothing_is_killed(host):
    number = deny(host)
    host.run("systemctl", "stop", "oc2d", "mosquitto")
    assert "203.0.113.0" in table(host)
    begun = time.monotonic()
    host.run("systemctl", "start", "oc2d")
    took = time.monotonic() - begun
    assert took < 10
    assert "203.0.113.0" in table(host)
    before = host.unit()
    host.until(lambda: "not connected" in host.unit()["StatusText"], 10, "the state says so")
    time.sleep(2 * 4)  # twice the watchdog's patience
    after = host.unit()
    assert (after["MainPID"], after["NRestarts"]) == (before["MainPID"], before["NRestarts"])
    host.run("systemctl", "start", "mosquitto")
    until_subscribed(host, 40)
    assert oc2ctl(host, "delete", "slpf:rule_number", str(number))["status"] == 200


def test_the_iptables_back_end_works_inside_the_sandbox(host):
    host.run("systemctl", "stop", "oc2d")
    with configured(host, CONFIGURATION + 'backend = "iptables"\n'):
        host.run("systemctl", "start", "oc2d")
        until_subscribed(host)
        number = deny(host)
        listed = host.run("iptables-save", "-t", "filter").stdout
        assert NET in listed
        assert "-A INPUT -j oc2d-" in listed
        assert oc2ctl(host, "delete", "slpf:rule_number", str(number))["status"] == 200
        host.run("systemctl", "stop", "oc2d")
        host.run("/usr/lib/oc2d/bin/python3", "-m", "oc2d_slpf", "remove")
        assert "oc2d" not in host.run("nft", "list", "ruleset").stdout
    host.run("systemctl", "start", "oc2d")
    until_subscribed(host)


def test_pf_is_off_until_it_has_a_table_and_works_inside_the_sandbox(host):
    def loaded():
        names = "{m for m in sys.modules if m.startswith(('oc2d_pf.', 'dns.'))}"
        program = f"import sys; from oc2d.plugins import discover; discover(); print({names})"
        return host.run("/usr/lib/oc2d/bin/python3", "-I", "-c", program).stdout.strip()

    assert loaded() == "{'oc2d_pf.entry'}"
    host.run("systemctl", "stop", "oc2d")
    with configured(host, CONFIGURATION.replace("slpf", "pf") + "log_group = 7\n"):
        host.run("systemctl", "start", "oc2d")
        until_subscribed(host)
        for args in (("pf.stateful=true",), ("pf.logged=true",)):
            told = oc2ctl(host, "command", "deny", "ipv4_net", NET, "--arg", *args)
            assert told["status"] == 200, told
        # dnspython is there, and finds no name server
        told = oc2ctl(host, "command", "deny", "domain_name", "x.invalid", check=False)
        assert (told["status"], "x.invalid" in told["status_text"]) == (500, True), told
        assert "ct original" in table(host)
        assert "log prefix" in table(host)
        host.run("systemctl", "stop", "oc2d")
    host.run("systemctl", "start", "oc2d")
    until_subscribed(host)
    assert "ct original" not in table(host)


def test_an_upgrade_lets_no_packet_through_and_runs_the_new_version(host, wire, newer_deb):
    with wire.sending():
        with wire.counting() as came:
            time.sleep(0.5)
        assert came[0] > 50
        number = deny(host)
        with wire.counting() as came:
            before = host.unit()
            host.install(newer_deb)
            until_subscribed(host)
        assert came == [0]
        assert number in rules(host)
        assert oc2ctl(host, "delete", "slpf:rule_number", str(number))["status"] == 200
        with wire.counting() as came:
            time.sleep(0.5)
        assert came[0] > 50
    assert status(host)["version"] == NEWER
    assert host.unit()["MainPID"] != before["MainPID"]


EARLY = """\
[Unit]
# in place of the real one, which brings the network up before sysinit.target too
DefaultDependencies=no
Wants=network-pre.target
After=network-pre.target
Before=network.target sysinit.target
[Service]
ExecStart=/usr/bin/python3 /usr/local/sbin/early
[Install]
WantedBy=sysinit.target
"""
# the receiver is there before the link is up
EARLY_PROGRAM = f"""\
{Wire.SOCKET}
import subprocess, time
address = "ip address add {HERE}/32 peer {OUTSIDE} dev host0".split()
while subprocess.run(address, stderr=-3).returncode: time.sleep(0.01)
subprocess.run("ip link set host0 up".split(), check=True)
{Wire.SERVICE}
"""


def test_no_packet_passes_at_boot_before_the_rules(host):
    """Where the network comes up as early as it can, as with cloud-init; and no cycle of units."""
    number = deny(host)
    host.write("/etc/systemd/system/cloud-init.service", EARLY)
    host.write("/usr/local/sbin/early", EARLY_PROGRAM)
    host.run("systemctl", "enable", "cloud-init")
    host.power_off()
    wire = Wire(host)
    try:
        host.begin()
        wire.plug()
        with wire.sending():
            host.until(lambda: host.run("true", check=False).returncode == 0, 5, "it answers")
            host.until(host.is_up, 60, "booted")
            host.until(
                lambda: "LOWER_UP" in host.run("ip", "link", "show", "host0").stdout, 10, "up"
            )
            until_subscribed(host)
            host.run("systemctl", "stop", "cloud-init")
            assert host.path("/var/early").read_text() == "0"
            with wire.counting() as came:
                assert oc2ctl(host, "delete", "slpf:rule_number", str(number))["status"] == 200
                time.sleep(0.5)
            assert came[0] > 50  # the way was open all the time, but for the rule
    finally:
        wire.close()
    assert not [e for e in host.journal("-b") if "cycle" in str(e.get("MESSAGE"))]
    host.run("systemctl", "disable", "cloud-init")


def test_removal_takes_the_rules_away_and_an_installation_brings_them_back(host, newer_deb):
    number = deny(host)
    host.run("dpkg", "-r", "oc2d")
    assert table(host) == ""
    assert not host.path("/usr/bin/oc2d").exists()
    assert host.path("/etc/oc2d/oc2d.toml").exists()
    host.install(newer_deb)
    host.run("systemctl", "start", "oc2d")
    until_subscribed(host)
    assert number in rules(host)
    assert "203.0.113.0" in table(host)


def test_a_purge_leaves_nothing(host):
    """But what others have brought: the plugin, the drop-in of these tests, our own early unit.

    An audit log stays, and is nobody's who may get the number of our user.
    """
    host.run("install", "-d", "-o", "oc2d", "-g", "oc2d", "/var/log/oc2d")
    host.run("install", "-o", "oc2d", "-g", "oc2d", "/etc/os-release", "/var/log/oc2d/audit.log")
    host.run("dpkg", "-P", "oc2d")
    owners = host.run("stat", "-c", "%U:%G", "/var/log/oc2d", "/var/log/oc2d/audit.log").stdout
    assert owners.split() == ["root:root"] * 2
    assert table(host) == ""
    assert host.run("getent", "passwd", "oc2d", check=False).stdout == ""
    assert host.run("getent", "group", "oc2d", check=False).stdout == ""
    others = ("/proc/*", "/usr/local/*", f"{HOME}/*", "/etc/mosquitto/*", "/var/log/oc2d")
    others += ("/etc/systemd/system/oc2d.service.d*",)
    known = [word for other in others for word in ("-not", "-path", other)]
    found = host.run("find", "/", "-xdev", "-name", "*oc2*", *known).stdout.split()
    assert found == []
    assert not host.run("sh", "-c", "ls -d /run/oc2d /run/credentials/oc2d*", check=False).stdout
    assert re.search(r"oc2d", host.run("dpkg", "-l").stdout) is None
