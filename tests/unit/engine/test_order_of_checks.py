"""REQUIREMENTS 2.6: which check comes first, and who hears what."""

from __future__ import annotations

import json

import pytest

from oc2d.config import Limits, Policy
from oc2d.engine.ports import Channel
from oc2d.hookspecs import hookimpl
from tests.unit.engine.bench import deny, features
from tests.unit.engine.plugins import Plain, Recording

UNKNOWN = {"action": "deny", "target": {"ipv4_net": "1.2.3.4"}, "actuator": {"x-other": {}}}


class Refuses:
    @hookimpl
    def oc2d_authorise(self, request):
        return "not on my watch" if request.command.action.value == "deny" else None


@pytest.mark.req("MQTT-44", "AMB-4", "AMB-13")
def test_only_the_named_act(bench, door):
    assert bench.silent_to(bench.message(deny(), to=["other"]))
    broken = {"headers": {"to": ["other"]}, "body": {}}
    assert bench.silent_to(bench.raw(json.dumps(broken).encode()))
    assert bench.silent_to(bench.message({"action": "nonsense"}, to=["other"]))
    assert door.executed == []
    for number, to in enumerate(
        (["fw-7"], "fw-7", [], ["a", "oc2/cmd/device/fw-7"], ["oc2/cmd/all"], ["oc2/cmd/ap/x-door"])
    ):
        assert bench.answered(deny(), to=to, request_id=f"r-{number}").status == 200


@pytest.mark.req("AMB-12", "LANG-9")
def test_an_allow_list_knows_its_producers(build, door):
    bench = build(door, policy=Policy(producers=("soc",)))
    assert bench.answered(deny(), sender=None).status == 401
    assert bench.answered(deny(), sender="someone").status == 403
    assert bench.answered(deny(), sender="soc").status == 200
    assert len(door.executed) == 1


@pytest.mark.req("AMB-51", "AMB-19")
def test_old_commands_are_refused(build, door):
    bench = build(door, policy=Policy(max_age=60))
    now = bench.turned.wall
    cases = [
        (now - 60_001, 403),
        (now - 60_000, 200),
        (now // 1000 - 61, 403),
        (now // 1000, 200),
        (None, 403),
        ("soon", 403),
        (now + 999_999, 200),
    ]
    for number, (created, status) in enumerate(cases):
        assert bench.answered(deny(), created=created, request_id=f"{number}").status == status


@pytest.mark.req("AMB-21")
def test_401_and_403_come_before_duplicates(build, door):
    bench = build(door)
    message = bench.ask(deny())
    assert bench.reply(1).status == 200
    strict = build(
        Recording(), directory=bench.dead_copy("later"), policy=Policy(producers=("other",))
    )
    before = len(strict.broker.sent)
    strict.deliver(message)
    assert strict.reply(before + 1).status == 403


@pytest.mark.req("AMB-21")
def test_a_duplicate_is_repeated_where_a_new_request_gets_503(build, door):
    bench = build(door, limits=Limits(rate_per_minute=1))
    message = bench.ask(deny())
    assert bench.reply(1).status == 200
    assert bench.answered(deny(), request_id="other").status == 503
    bench.deliver(message)
    assert bench.reply(3).status == 200
    assert len(door.executed) == 1


def test_503_comes_before_the_structure_and_the_structure_before_policy(build, door):
    bench = build(door, limits=Limits(rate_per_minute=1), hooks=Refuses())
    broken = {"action": "deny", "target": {"ipv4_net": "1.2.3.400"}}
    assert bench.answered(broken).status == 400
    assert bench.answered(broken, request_id="r-2").status == 503


def test_policy_comes_before_the_choice_of_an_actuator(build, door):
    bench = build(door, hooks=Refuses())
    reply = bench.answered(UNKNOWN)
    assert (reply.status, reply.text) == (403, "not on my watch")
    assert bench.answered({**UNKNOWN, "action": "block"}, request_id="r-2").status == 400
    assert door.executed == []


@pytest.mark.req("AMB-23", "LANG-36")
@pytest.mark.parametrize("actuator", [{"x-other": {}}, {"x-door": {"name": "back"}}])
def test_a_command_for_another_actuator_is_answered_only_when_it_was_sent_to_us(
    bench, door, actuator
):
    command = {**deny(), "actuator": actuator}
    assert bench.silent_to(bench.message(command))
    assert bench.silent_to(bench.message(command, channel=Channel.PROFILE, profile="x-door"))
    assert bench.silent_to(bench.message(command, channel=Channel.OTHER))
    assert bench.silent_to(bench.message(command, to=["oc2/cmd/all"]))
    reply = bench.answered(command, channel=Channel.DEVICE)
    assert (reply.status, reply.text) == (404, "No matching actuator")
    assert bench.answered(command, to=["fw-7"], request_id="r-2").status == 404
    assert bench.answered(command, to="oc2/cmd/device/fw-7", request_id="r-3").status == 404
    assert door.executed == []


@pytest.mark.req("AMB-23")
def test_a_command_on_the_topic_of_a_profile_that_is_not_here_is_for_others(bench, door):
    for command in (deny(), features()):
        message = bench.message(command, channel=Channel.PROFILE, profile="x-other")
        assert bench.silent_to(message)
    assert door.executed == []


@pytest.mark.req("AMB-23", "AMB-33")
def test_an_unknown_protocol_for_another_actuator_is_no_reason_to_answer(bench, door):
    gre = {"action": "deny", "target": {"ipv4_connection": {"protocol": "gre"}}}
    other = {**gre, "actuator": {"x-other": {}}}
    assert bench.silent_to(bench.message(other))
    assert bench.silent_to(bench.message(gre, channel=Channel.PROFILE, profile="x-other"))
    assert bench.answered(other, channel=Channel.DEVICE).status == 404
    assert bench.answered(gre, request_id="r-2").status == 501
    assert door.executed == []


def test_mismatch_comes_before_pair_and_arguments(bench):
    command = {**deny(), "action": "scan", "actuator": {"x-other": {}}, "args": {"foo": 1}}
    assert bench.silent_to(bench.message(command))


@pytest.mark.req("LANG-43", "LANG-37", "SLPF-10", "SLPF-11", "AMB-22")
@pytest.mark.parametrize(
    ("changes", "status", "text"),
    [
        ({"action": "block"}, 400, None),
        ({"target": {"ipv4_nett": "1.2.3.4"}}, 400, None),
        ({"target": {"ipv4_net": "1.2.3.400"}}, 400, None),
        ({"extra": 1}, 400, None),
        ({"args": {}}, 400, None),
        ({"actuator": {}}, 400, None),
        ({"actuator": {"x-door": {"colour": "red"}}}, 400, None),
        ({"action": "scan"}, 501, "Command not supported: scan ipv4_net"),
        ({"target": {"device": {"hostname": "a"}}}, 501, "Command not supported: deny device"),
        ({"target": {"x-other:thing": 1}}, 501, None),
        ({"target": {"x-door:thing": 1}}, 400, None),
        ({"target": {"x-door:lock": "one"}}, 400, None),
        ({"target": {"x-door:lock": True}}, 400, None),
        ({"action": "allow", "target": {"x-door:lock": "one"}}, 501, None),
        ({"args": {"x-door": {"colour": "red"}}}, 501, "Option not supported: colour"),
        ({"args": {"x-door": {"bolt": 5}}}, 400, None),
        ({"args": {"x-door": {"bolt": 5, "colour": 1}}}, 501, None),
        ({"target": {"x-door:lock": "one"}, "args": {"x-pf": {}}}, 501, None),
        ({"args": {"x-pf": {"a": 1}}}, 501, "Option not supported: x-pf"),
        ({"actuator": {"x-door": {}}, "args": {"x-pf": {"a": 1}}}, 501, None),
        ({"args": {"Foo Bar": 1}}, 501, "Option not supported: Foo Bar"),
        ({"action": "allow", "args": {"stop_time": 1}}, 501, "Option not supported: stop_time"),
        ({"action": "allow", "args": {"x-door": {"count": 1}}}, 501, "Option not supported: count"),
        ({"args": {"x-door": {"bolt": "top", "count": 2}}}, 200, ""),
        ({"target": {"x-door:lock": 5}}, 200, ""),
        ({"target": {"x-door": {"lock": 5}}}, 200, ""),
    ],
)
def test_the_table_of_refusals(bench, door, changes, status, text):
    reply = bench.answered({**deny(), **changes})
    assert reply.status == status, reply.text
    if text is not None:
        assert reply.text == text
    assert len(door.executed) == (status == 200)


@pytest.mark.req("LANG-17")
def test_specifiers_are_refused_where_a_profile_has_none(build):
    plain = Plain()
    bench = build(plain)
    command = {"action": "restart", "target": {"device": {"hostname": "a"}}}
    reply = bench.answered({**command, "actuator": {"x-plain": {"name": "a"}}})
    assert reply.status == 400
    assert bench.answered({**command, "actuator": {"x-plain": {}}}, request_id="2").status == 200
    assert bench.answered({**command, "args": {"x-plain": {}}}, request_id="3").status == 501
    assert len(plain.executed) == 1


def test_an_actuator_is_given_its_types_even_when_the_command_has_nothing_for_them(bench, door):
    bench.answered(deny())
    (command,) = door.executed
    assert command.args == door.args_type()
    assert command.specifiers == door.specifiers_type()
    assert command.producer == "soc"


@pytest.mark.req("LANG-28", "SLPF-3", "AMB-17")
@pytest.mark.parametrize(
    "changes",
    [
        {"action": "block"},
        {"action": "scan"},
        {"args": {"response_requested": "none", "foo": 1}},
        {"args": {"response_requested": "none", "start_time": "x"}},
        {"actuator": {"x-other": {}}},
        {"target": {"features": []}, "action": "query"},
        {"target": {"features": ["foo"]}, "action": "query"},
        {},
    ],
)
def test_none_silences_every_answer(build, door, changes):
    bench = build(door)
    command = {**deny(response_requested="none"), **changes}
    for channel in (Channel.ALL, Channel.DEVICE):
        assert bench.silent_to(bench.message(command, channel=channel))
    assert bench.silent_to(
        bench.raw(
            json.dumps({"headers": {}, "body": {"openc2": {"request": command, "x": 1}}}).encode()
        )
    )


@pytest.mark.req("AMB-17")
def test_none_silences_401_403_503_and_duplicates(build, door):
    silent = deny(response_requested="none")
    bench = build(door, policy=Policy(producers=("soc",)), limits=Limits(rate_per_minute=1))
    assert bench.silent_to(bench.message(silent, sender=None))
    assert bench.silent_to(bench.message(silent, sender="other"))
    message = bench.message(silent)
    assert bench.silent_to(message)
    assert bench.silent_to(message)
    assert bench.silent_to(bench.message(silent, request_id="r-2"))
    assert len(door.executed) == 1
