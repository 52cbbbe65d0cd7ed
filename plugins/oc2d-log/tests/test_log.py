from __future__ import annotations

import ipaddress
from dataclasses import dataclass

import pytest
import structlog.testing

import oc2d_log
from oc2d.actuator import TIMES, Command
from oc2d.errors import ConfigError
from oc2d.language.vocabulary import CORE_TARGETS, Action
from oc2d_log import Log, LogConfig


def actuators(**table):
    return Log.create(Log.parse_config(table))


def problems(**table):
    with pytest.raises(ConfigError) as caught:
        Log.parse_config(table)
    return [problem.path for problem in caught.value.problems]


def test_an_empty_table_stands_in_for_x_log():
    assert Log.parse_config({}) == LogConfig()
    assert [one.profile for one in actuators()] == ["x-log"]


def test_each_profile_gets_an_actuator_of_its_own():
    assert [one.profile for one in actuators(profiles=["slpf", "x-edr"])] == ["slpf", "x-edr"]
    assert Log.profile == "x-log"


@pytest.mark.req("LANG-46", "SLPF-62")
def test_all_pairs_are_accepted_but_query_features():
    pairs = {(p.action, p.target) for p in actuators()[0].supported_pairs()}
    every = {(action, target) for action in Action for target in CORE_TARGETS}
    assert pairs == every - {(Action.QUERY, "features")}


def test_pairs_narrow_what_is_accepted_and_all_times_are_taken():
    (one,) = actuators(pairs={"deny": ["ipv4_net", "ipv4_net", "uri"], "scan": ["device"]})
    pairs = one.supported_pairs()
    assert [(p.action.value, p.target) for p in pairs] == [
        ("deny", "ipv4_net"),
        ("deny", "uri"),
        ("scan", "device"),
    ]
    assert all(p.times == TIMES for p in pairs)


@dataclass(frozen=True)
class Net:
    network: ipaddress.IPv4Network


@pytest.mark.parametrize("value", [Net(ipaddress.ip_network("192.0.2.0/24")), {"a": b"x"}, None])
def test_a_command_is_logged_and_answered_200(value):
    command = Command(
        key="k1",
        producer="soc",
        action=Action.DENY,
        target_name="ipv4_net",
        target=value,
        args={"direction": "ingress"},
        specifiers={"any": "thing"},
    )
    (one,) = actuators(profiles=["slpf"])
    with structlog.testing.capture_logs() as entries:
        assert one.matches(command.specifiers)
        response = one.execute(command)
        one.revert(command)
        one.revert(command)
    assert (int(response.status), response.results) == (200, None)
    assert [entry["event"] for entry in entries] == [
        oc2d_log.COMMAND,
        oc2d_log.REVERT,
        oc2d_log.REVERT,
    ]
    assert (
        entries[0].items()
        >= {
            "profile": "slpf",
            "action": "deny",
            "target": "ipv4_net",
            "args": {"direction": "ingress"},
            "specifiers": {"any": "thing"},
            "producer": "soc",
            "key": "k1",
        }.items()
    )


def test_a_net_is_logged_readably():
    (one,) = actuators()
    net = Net(ipaddress.ip_network("192.0.2.0/24"))
    with structlog.testing.capture_logs() as (entries):
        one.execute(
            Command(key="k", producer=None, action=Action.DENY, target_name="x", target=net)
        )
    assert entries[0]["value"] == {"network": "192.0.2.0/24"}


def test_it_may_be_run_again_after_a_crash():
    assert Log.idempotent


@pytest.mark.req("LANG-83")
@pytest.mark.parametrize("profiles", ["x-log", [], ["acme"], [3], ["x-a", "x-a"], [["x-a"]]])
def test_profiles_are_a_list_of_legal_nsids(profiles):
    assert set(problems(profiles=profiles)) == {"profiles"}


@pytest.mark.parametrize(
    ("pairs", "path"),
    [
        ("all", "pairs"),
        ({}, "pairs"),
        ({"block": ["uri"]}, "pairs.block"),
        ({"deny": "uri"}, "pairs.deny"),
        ({"deny": []}, "pairs.deny"),
        ({"deny": ["slpf:rule_number"]}, "pairs.deny"),
        ({"deny": [["uri"]]}, "pairs.deny"),
        ({"query": ["features"]}, "pairs.query"),
    ],
)
def test_pairs_are_actions_on_core_targets(pairs, path):
    assert problems(pairs=pairs) == [path]


def test_all_mistakes_are_reported_at_once():
    assert problems(profiles=[], pairs=3, color="red", size=1) == [
        "color",
        "size",
        "profiles",
        "pairs",
    ]
