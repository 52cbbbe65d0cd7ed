"""The language of pf, on the engine of slpf, with a packet filter that only talks."""

from __future__ import annotations

import subprocess
import sys

import msgspec
import pytest

import oc2d_pf
from oc2d.actuator import TIMES, Endpoint, Reason, Response
from oc2d.errors import (
    BadRequest,
    ConfigError,
    Failed,
    NoMatch,
    NotSupported,
)
from oc2d.language.vocabulary import Action
from oc2d_pf import Pf
from oc2d_pf.entry import Entry
from oc2d_slpf.rules import Direction, Logged, Verdict
from oc2d_slpf.specifiers import Specifiers

from .world import (
    NAME,
    NET,
    TARGETS,
    act,
    ask,
    delete,
    make,
    number_of,
    refused,
)

# -- what is found


def test_a_daemon_without_a_table_for_pf_does_not_load_it():
    names = "{m for m in sys.modules if m.startswith(('oc2d_pf.', 'dns.'))}"
    program = f"import sys; from oc2d.plugins import discover; found = discover(); print({names})"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    assert done.stdout.decode().strip() == "{'oc2d_pf.entry'}"
    (actuator,) = Entry.create(Entry.parse_config({"backend": "dry-run"}))
    assert isinstance(actuator, Pf)
    with pytest.raises(ConfigError):
        Entry.parse_config({"update_directories": []})
    with pytest.raises(AttributeError):
        _ = oc2d_pf.Pg


# -- the matrix


@pytest.mark.req("PF-1", "PF-2", "PF-5", "PF-9", "PF-10", "PF-37")
def test_pairs_are_the_matrix_of_the_profile(world):
    assert Pf.profile == "pf"
    pairs = {(pair.action.value, pair.target): pair for pair in world.running.supported_pairs()}
    wanted = {(action, target) for action in ("allow", "deny") for target in TARGETS}
    numbers = {("query", "pf:rule_number"), ("delete", "pf:rule_number")}
    assert set(pairs) == wanted | numbers
    for pair in numbers:
        assert (pairs[pair].args, pairs[pair].times) == (frozenset(), frozenset())
    for action, target in wanted:
        pair = pairs[action, target]
        assert pair.times == TIMES
        assert ("drop_process" in pair.args) == (action == "deny")
        assert pair.args >= {"insert_rule", "logged", "description", "stateful", "priority"}


@pytest.mark.req("PF-15", "PF-19", "PF-20", "PF-21", "PF-3")
@pytest.mark.parametrize("action", ["allow", "deny"])
@pytest.mark.parametrize("name", TARGETS)
def test_every_target_is_allowed_and_denied_numbered_told_and_deleted(world, action, name):
    number = number_of(world, action, {name: TARGETS[name]})
    assert world.rules()
    told = ask(world, number).results
    assert (told.rule_number, told.action) == (number, Action(action))
    assert getattr(told, name.removeprefix("pf:")) == TARGETS[name]
    assert isinstance(delete(world, number), Response)
    assert world.rules() == []
    assert world.running._store.by_number(number) is None


@pytest.mark.req("PF-6", "PF-28")
def test_without_arguments_a_rule_is_silent_and_about_what_arrives(world):
    number_of(world, "deny", NET)
    number_of(world, "deny", NET, direction="both", drop_process="reject")
    assert world.rules() == [
        (Verdict.REJECT, "ipv4_net 198.51.100.0/24", Direction.BOTH),
        (Verdict.DROP, "ipv4_net 198.51.100.0/24", Direction.INGRESS),
    ]


@pytest.mark.req("PF-7", "PF-13", "PF-39", "PF-44")
@pytest.mark.parametrize(
    "args",
    [{"stateful": True, "drop_process": "false_ack"}, {"priority": 1000}, {"priority": -1}],
)
@pytest.mark.parametrize("target", [NET, NAME])
def test_arguments_that_the_engine_cannot_do_are_501_and_make_no_rule(world, args, target):
    refused(world, NotSupported, "Argument not supported", "deny", target, **args)
    assert world.rules() == []
    number_of(world, "deny", target, stateful=False, logged=False)
    refused(world, NotSupported, "Argument not supported", "allow", NET, drop_process="none")


@pytest.mark.req("PF-7", "PF-30", "PF-31", "PF-45", "PF-4")
@pytest.mark.parametrize("target", [NET, NAME, {"pf:advanced_connection": {"dst_port": 22}}])
def test_every_part_of_a_rule_is_stateful_and_logged_under_its_number(world, target):
    number_of(world, "deny", target)
    number = number_of(world, "deny", target, stateful=True, logged=True)
    parts = len(world.rules()) // 2
    for verdict, match, _ in world.rules()[:parts]:
        assert verdict == Logged(Verdict.DROP, number)
        assert match.endswith(" stateful")
    for verdict, match, _ in world.rules()[parts:]:
        assert verdict is Verdict.DROP
        assert "stateful" not in match
    assert ask(world, number).results.args == {"pf": {"stateful": True, "logged": True}}
    if target is NAME:
        world.names.addresses["www.example.com"] = ("192.0.2.9",)
        world.renew(number)
        assert world.rules()[0][:2] == (
            Logged(Verdict.DROP, number),
            "ipv4_net 192.0.2.9/32 stateful",
        )
    before = world.rules()
    world.restart()
    assert world.rules() == before


@pytest.mark.req("PF-45")
def test_two_hundred_rules_are_logged_and_no_more(world):
    def deny(number, **args):
        return act(world, "deny", {"ipv4_net": f"198.18.0.{number}"}, logged=True, **args)

    made = [deny(number).results.rule_number for number in range(200)]
    assert type(deny(200)) is NotSupported
    assert len(world.rules()) == 200
    delete(world, made[7])
    assert isinstance(deny(200), Response)


@pytest.mark.req("PF-8")
def test_the_phrases_are_those_of_the_profile(world):
    told = world.running.refusal
    assert told(Reason.OPTION, Action.DENY, "ipv4_net") == "Argument not supported"
    assert told(Reason.PAIR, Action.DENY, "file") == "Target type not supported"
    assert told(Reason.PAIR, Action.DELETE, "file") == "Target not supported"
    assert told(Reason.PAIR, Action.UPDATE, "file") == "Command not supported"
    assert told(Reason.WINDOW_OVER, Action.DENY, "x") == "Rule not implemented: time window is over"


# -- numbers


@pytest.mark.req("PF-16", "PF-17", "PF-18", "PF-34")
def test_a_number_that_is_asked_for_is_given_once(world):
    assert number_of(world, "deny", NET, insert_rule=7) == 7
    refused(world, Failed, "Rule number currently in use", "allow", NET, insert_rule=7)
    refused(world, Failed, "Rule number currently in use", "allow", NAME, insert_rule=7)
    assert number_of(world, "deny", NET, insert_rule=33_554_431) == 33_554_431
    for wrong in (0, 33_554_432, "7", True):
        with pytest.raises(BadRequest):
            make("deny", NET, insert_rule=wrong)
    assert len(world.rules()) == 2


def test_numbers_of_rules_that_are_gone_are_not_given_again(world):
    first = number_of(world, "deny", NET)
    delete(world, first)
    assert number_of(world, "deny", NET) == first - 1
    world.restart()
    assert number_of(world, "deny", NET, insert_rule=first - 3) == first - 3
    delete(world, first - 3)
    assert [number_of(world, "deny", NET) for _ in range(2)] == [first - 2, first - 4]
    number_of(world, "deny", NET, insert_rule=first - 5, persistent=False)
    world.boot()
    assert number_of(world, "deny", NET) == first - 6


@pytest.mark.req("PF-32")
def test_the_order_is_by_priority_then_the_newest_first_then_those_without(world):
    def net(number):
        return {"ipv4_net": f"192.0.2.{number}"}

    number_of(world, "deny", net(1))
    number_of(world, "allow", net(2), priority=10)
    number_of(world, "deny", net(3), priority=9)
    number_of(world, "allow", net(4), priority=10)
    number_of(world, "deny", net(5))
    first = number_of(world, "deny", net(6), priority=0)
    order = [match.rpartition(".")[2].partition("/")[0] for match in world.matches()]
    assert order == ["6", "3", "4", "2", "5", "1"]
    text = refused(
        world, NotSupported, "Rule not implemented", "deny", NET, priority=0, insert_rule=5
    )
    assert "1000000 to 1015999" in text
    assert number_of(world, "deny", NET, priority=0, insert_rule=first - 1) == first - 1


@pytest.mark.req("PF-35", "PF-36")
def test_a_number_that_no_rule_has(world):
    refused(
        world,
        Failed,
        "Firewall rule not removed or updated",
        "delete",
        {"pf:rule_number": 5},
    )
    assert type(ask(world, 5)) is NoMatch
    for wrong in ("abc", True, 0):
        with pytest.raises(BadRequest):
            make("delete", {"pf:rule_number": wrong})


@pytest.mark.req("PF-4", "PF-33")
def test_a_query_tells_what_makes_the_rule_again(world):
    args = {"description": "scanner", "direction": "both", "drop_process": "reject"}
    args |= {"persistent": False, "priority": 5}
    number = number_of(world, "deny", NET, window=(None, 1234), **args)
    told = msgspec.to_builtins(ask(world, number).results)
    assert told == {
        "rule_number": number,
        "action": "deny",
        "ipv4_net": "198.51.100.0/24",
        "args": {"stop_time": 1234, "pf": args},
    }
    with pytest.raises(BadRequest):
        make("deny", NET, description="x" * 1025)


# -- advanced connections


@pytest.mark.req("PF-3", "PF-25", "PF-26", "PF-27", "PF-14")
def test_an_advanced_connection_is_what_a_connection_can_say(world):
    def matches(**members):
        number = number_of(world, "deny", {"pf:advanced_connection": members})
        found = world.matches()
        delete(world, number)
        return found

    def wrong(kind, phrase, **members):
        refused(world, kind, phrase, "deny", {"pf:advanced_connection": members})

    assert matches(src_addr="2001:db8::1", dst_port=1, protocol="tcp", network=None) == [
        "ipv6_connection src_addr=2001:db8::1/128 dst_port=1 protocol=tcp"
    ]
    assert matches(dst_addr="10.0.0.0/8", src_port=None) == ["ipv4_connection dst_addr=10.0.0.0/8"]
    assert sorted(matches(dst_port=443, protocol="tcp")) == [
        "ipv4_connection dst_port=443 protocol=tcp",
        "ipv6_connection dst_port=443 protocol=tcp",
    ]
    wide = {"src_addr": "10.1.2.3/8", "dst_addr": "192.0.2.0/24"}
    text = act(world, "deny", {"pf:advanced_connection": wide}).text
    assert text.startswith("target pf:advanced_connection 10.1.2.3/8 taken as 10.0.0.0/8; stays")
    for tagged in ({"src_addr": "web-servers"}, {"network": "dmz"}, {"application": "ftp"}):
        wrong(NotSupported, "Rule not implemented", **tagged)
    wrong(BadRequest, "src_addr and dst_addr are of different families", src_addr="::1",
          dst_addr="10.0.0.1")  # fmt: skip
    wrong(BadRequest, "advanced_connection needs a member")
    wrong(BadRequest, "icmp has no ports: leave out src_port and dst_port", src_port=1,
          protocol="icmp")  # fmt: skip
    for odd in ({"dst_port": 65536}, {"dst_port": "22"}, {"colour": "red"}, {"src_addr": 7}):
        with pytest.raises(BadRequest):
            make("deny", {"pf:advanced_connection": odd})


def test_the_table_is_slpfs_but_for_what_pf_does_not_do():
    table = {"update_directories": ["/etc"], "backend": "iptables", "colour": 1}
    with pytest.raises(ConfigError) as caught:
        Pf.parse_config(table)
    assert {problem.path for problem in caught.value.problems} == set(table)


@pytest.mark.req("PF-38")
def test_specifiers_and_the_way_to_the_broker_are_the_engines(world):
    pf = world.restart(asset_id="30", named_groups=["perimeter"])
    assert pf.matches(Specifiers(asset_id="30"))
    assert not pf.matches(Specifiers(asset_id="31"))
    pf.link_resolving()
    pf.link_changing([Endpoint("192.0.2.1", 8883)])
    pf.link_changed([Endpoint("192.0.2.1", 8883)])
    assert pf.status()["endpoints"] == ["192.0.2.1 tcp port 8883"]
    answer = act(world, "deny", {"ipv4_net": "0.0.0.0/0"})
    assert "broker 192.0.2.1 port 8883" in answer.text
