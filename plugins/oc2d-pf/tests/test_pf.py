"""The language of pf, on the engine of slpf, with a packet filter that only talks."""

from __future__ import annotations

import subprocess
import sys
from ipaddress import ip_network

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
    Refusal,
)
from oc2d.language.vocabulary import Action
from oc2d_pf import Pf
from oc2d_pf.entry import Entry
from oc2d_slpf.backend import BackendError
from oc2d_slpf.rules import Direction, Logged, Verdict
from oc2d_slpf.specifiers import Here, Specifiers

from .world import (
    NAME,
    NET,
    TARGETS,
    Death,
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


# -- names


@pytest.mark.req("PF-22")
def test_a_name_is_one_rule_for_all_its_addresses_and_follows_them(world):
    answer = act(world, "deny", NAME)
    number = answer.results.rule_number
    assert answer.text.startswith("stands for 192.0.2.1, 2001:db8::1; stays open: ")
    assert world.matches() == ["ipv6_net 2001:db8::1/128", "ipv4_net 192.0.2.1/32"]
    world.names.addresses["www.example.com"] = ("192.0.2.9", "2001:db8::1", "192.0.2.8")
    world.renew(number)
    assert sorted(world.matches()) == [
        "ipv4_net 192.0.2.8/32",
        "ipv4_net 192.0.2.9/32",
        "ipv6_net 2001:db8::1/128",
    ]
    assert set(ask(world, number).text.split(": ")[-1].removeprefix("stands for ").split(", ")) == {
        "192.0.2.9", "192.0.2.8", "2001:db8::1"
    }  # fmt: skip
    world.names.addresses["www.example.com"] = ("192.0.2.1",)
    world.renew(number)
    assert world.matches() == ["ipv4_net 192.0.2.1/32"]
    delete(world, number)
    assert world.matches() == []
    world.running._renew(number, "www.example.com", world.names("www.example.com"))
    assert world.matches() == []


def test_a_late_answer_is_not_taken_for_another_rule_that_was_given_the_number(world):
    world.names.addresses["other.example.com"] = ("192.0.2.99",)
    answer = world.names("www.example.com")
    for target in ({"domain_name": "other.example.com"}, NET):
        number_of(world, "deny", NAME, insert_rule=7)
        delete(world, 7)
        number_of(world, "deny", target, insert_rule=7)
        before = world.rules()
        world.running._renew(7, "www.example.com", answer)
        assert world.rules() == before
        delete(world, 7)


@pytest.mark.req("PF-23", "PF-14")
def test_a_name_without_addresses_is_refused_and_one_that_loses_them_comes_back(world):
    names = world.names.addresses
    for absent in ((), None):
        names["www.example.com"] = absent
        refused(world, Failed, "Rule not implemented", "deny", NAME)
    names["www.example.com"] = ("192.0.2.1",)
    number = number_of(world, "deny", NAME)
    names["www.example.com"] = ()
    world.renew(number)
    assert world.matches() == []
    assert ask(world, number).results.domain_name == "www.example.com"
    names["www.example.com"] = ("192.0.2.1",)
    world.renew(number)
    assert world.matches() == ["ipv4_net 192.0.2.1/32"]


@pytest.mark.req("PF-24")
def test_too_many_addresses_are_refused_and_protected_ones_left_out(world):
    many = tuple(str(address) for address in list(ip_network("198.18.0.0/16"))[:65])
    world.names.addresses["www.example.com"] = many
    refused(world, NotSupported, "Rule not implemented", "deny", NAME)
    world.names.addresses["www.example.com"] = many[:64]
    number = number_of(world, "deny", NAME)
    assert len(world.rules()) == 64
    world.names.addresses["www.example.com"] = many
    world.renew(number)
    assert len(world.rules()) == 64
    world.restart(never_block=["198.18.0.0/16"])
    world.names.addresses["www.example.com"] = ("198.18.0.7", "192.0.2.1")
    answer = act(world, "deny", NAME)
    assert "stays open: 198.18.0.7 (never_block)" in answer.text
    assert "stands for 192.0.2.1;" in answer.text
    world.names.addresses["www.example.com"] = ("198.18.0.7",)
    refused(world, NotSupported, "Rule not implemented", "deny", NAME)
    assert world.matches().count("ipv4_net 192.0.2.1/32") == 1


@pytest.mark.req("PF-24")
def test_whoever_owns_a_denied_name_cannot_cut_this_host_off_by_it(world):
    """Its own address is left out of a deny, of the first answer and of each later one."""
    names = world.names.addresses
    world.running._engine._here = Here(addresses=frozenset({"192.0.2.77", "2001:db8::77"}))
    names["www.example.com"] = ("192.0.2.77", "192.0.2.1")
    number = number_of(world, "deny", NAME)
    assert world.matches() == ["ipv4_net 192.0.2.1/32"]
    names["www.example.com"] = ("2001:db8::77", "192.0.2.2")
    world.renew(number)
    assert world.matches() == ["ipv4_net 192.0.2.2/32"]
    names["www.example.com"] = ("192.0.2.77",)
    refused(world, NotSupported, "Rule not implemented", "deny", NAME)
    world.renew(number)
    assert world.matches() == []
    number_of(world, "allow", NAME)
    assert world.matches() == ["ipv4_net 192.0.2.77/32"]


@pytest.mark.req("PF-22", "PF-29")
def test_names_are_looked_up_again_after_a_restart(world):
    number = number_of(world, "deny", NAME)
    number_of(world, "deny", {"domain_name": "www.example.com"}, persistent=False)
    assert len(world.rules()) == 4
    world.names.addresses["www.example.com"] = ("192.0.2.5",)
    world.boot()
    assert world.matches() == ["ipv6_net 2001:db8::1/128", "ipv4_net 192.0.2.1/32"]
    world.calls.get(timeout=10)()
    assert world.matches() == ["ipv4_net 192.0.2.5/32"]
    assert world.running._store.count() == 1
    assert world.running.status()["rules"][0]["number"] == number


# -- lives


@pytest.mark.req("PF-18", "PF-29")
def test_rules_outlive_a_restart_and_those_that_should_not_end_with_the_boot(world):
    kept = number_of(world, "deny", NET)
    gone = number_of(world, "allow", NET, persistent=False)
    world.restart()
    assert [ask(world, number).results.rule_number for number in (kept, gone)] == [kept, gone]
    assert len(world.rules()) == 2
    world.boot()
    assert len(world.rules()) == 1
    assert type(ask(world, gone)) is NoMatch


def test_a_key_is_carried_out_once(world):
    for target in (NET, NAME):
        command = make("deny", target)
        first, again = (world.running.execute_many([command])[0] for _ in range(2))
        assert first == again
        removal = make("delete", {"pf:rule_number": first.results.rule_number})
        assert [type(world.running.execute_many([removal])[0]) for _ in range(2)] == [Response] * 2
        assert world.running.execute_many([command])[0] == first
        assert world.rules() == []


def test_a_window_reserves_its_number_and_ends_with_its_rule(world):
    pf = world.running
    for target, rules in ((NET, 1), (NAME, 2)):
        later = make("deny", target)
        held = pf.reserve(later)
        assert held == pf.reserve(later)
        assert ask(world, held.rule_number).text == "not in force yet"
        refused(world, Failed, "Rule number currently in use", "deny", NET,
                insert_rule=held.rule_number)  # fmt: skip
        assert world.rules() == []
        begun = make("deny", target, key=later.key, reserved=held)
        assert pf.execute(begun).results == held
        assert len(world.rules()) == rules
        for _ in range(2):
            pf.revert(begun)
        assert world.rules() == []
    never = make("deny", NET)
    held = pf.reserve(never)
    assert isinstance(delete(world, held.rule_number), Response)
    text = "was deleted before its start"
    with pytest.raises(Failed, match=text):
        pf.execute(make("deny", NET, key=never.key, reserved=held))


def test_what_ended_while_we_were_away_does_not_come_back(world):
    over = [make("deny", target) for target in (NET, NAME)]
    for command in over:
        world.running.execute(command)
    world.restart(ended=[command.key for command in over])
    assert world.rules() == []
    for command in over:
        world.running.revert(command)
    assert world.running._store.count() == 0


def test_commands_that_wait_share_transactions_and_keep_their_order(world):
    commands = [make("deny", {"ipv4_net": f"10.0.{n}.0/24"}) for n in range(50)]
    commands.insert(25, make("deny", NAME))
    commands.append(make("deny", NET, insert_rule=9))
    commands.append(make("deny", NET, insert_rule=9))
    commands.append(make("query", {"pf:rule_number": 9}))
    commands.append(make("delete", {"pf:rule_number": 9}))
    answers = world.running.execute_many(commands)
    kinds = [type(one) for one in answers]
    assert kinds == [Response] * 52 + [Failed] + [Response] * 2
    numbers = [one.results.rule_number for one in answers[:51]]
    assert numbers == sorted(numbers, reverse=True)
    assert len(world.rules()) == 52


STEPS = ("put", "ask", "remember", "withdraw", "drop")


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("target", [NET, NAME])
def test_a_death_at_any_step_leaves_what_the_next_run_sets_right(
    world, monkeypatch, step, after, target
):
    """A rule is made, renewed and deleted; each is run again with its key, as the engine does."""
    names = world.names.addresses
    made = make("deny", target)
    removed = None
    holders = {"ask": "_engine", "withdraw": "_engine"}

    def deadly(pf):
        holder = getattr(pf, holders.get(step, "_store"))
        real = getattr(holder, step)

        def call(*args):
            result = real(*args) if after else None
            monkeypatch.setattr(holder, step, real)
            raise Death(result)

        monkeypatch.setattr(holder, step, call)

    def survive(action):
        for attempt in range(2):
            if attempt == 0:
                deadly(world.running)
            try:
                return action()
            except Death:
                world.kill()
                world.start()
        return None

    number = survive(lambda: world.running.execute(made)).results.rule_number
    if target is NAME:
        names["www.example.com"] = ("192.0.2.1", "192.0.2.77")
        survive(lambda: world.renew(number))
        assert sorted(world.matches()) == ["ipv4_net 192.0.2.1/32", "ipv4_net 192.0.2.77/32"]
    else:
        assert world.matches() == ["ipv4_net 198.51.100.0/24"]
    world.running.status()
    removed = make("delete", {"pf:rule_number": number})
    answer = survive(lambda: world.running.execute_many([removed])[0])
    assert isinstance(answer, Response | Refusal)
    assert world.rules() == []
    assert world.running._store.by_number(number) is None


@pytest.mark.req("PF-14")
@pytest.mark.parametrize("target", [NET, NAME, {"pf:advanced_connection": {"dst_port": 1}}])
def test_what_the_packet_filter_refuses_is_500_and_leaves_nothing(world, monkeypatch, target):
    firewall = world.running._engine._rules.firewall

    def refuse(_):
        raise BackendError("no")

    with monkeypatch.context() as broken:
        broken.setattr(firewall._backend, "apply", refuse)
        broken.setattr(firewall._backend, "replace", refuse)
        refused(world, Failed, "Rule not implemented", "deny", target)
    assert world.rules() == []
    assert world.running._store.count() == 0
    number = number_of(world, "deny", target)
    with monkeypatch.context() as broken:
        broken.setattr(firewall._backend, "apply", refuse)
        broken.setattr(firewall._backend, "replace", refuse)
        refused(world, Failed, "Firewall rule not removed or updated", "delete",
                {"pf:rule_number": number})  # fmt: skip
    assert world.rules()
    assert isinstance(delete(world, number), Response)


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
