"""REQUIREMENTS 2.6: which check comes first, and who hears what."""

from __future__ import annotations

import json

import cbor2
import pytest
from msgspec.structs import replace

from oc2d.config import Compat, Limits, Policy
from oc2d.engine.ports import Channel
from oc2d.hookspecs import hookimpl
from tests.unit.engine.bench import again, deny, features
from tests.unit.engine.plugins import Gate, Plain, Recording, Window

UNKNOWN = {"action": "deny", "target": {"ipv4_net": "1.2.3.4"}, "actuator": {"x-other": {}}}


class Refuses:
    @hookimpl
    def oc2d_authorise(self, request):
        return "not on my watch" if request.command.action.value == "deny" else None


@pytest.mark.req("MQTT-46", "AMB-48")
@pytest.mark.parametrize("kind", ["rsp", "ntf", "REQ", ""])
def test_what_is_not_marked_as_a_request_is_dropped(bench, door, kind):
    assert bench.silent_to(bench.message(deny(), message_type=kind))
    assert bench.silent_to(bench.raw(b"{broken", message_type=kind))
    assert door.executed == []


@pytest.mark.req("MQTT-46")
@pytest.mark.parametrize("kind", ["response", "notification"])
def test_a_response_on_a_command_topic_is_dropped(bench, kind):
    tree = {"headers": {"request_id": "r"}, "body": {"openc2": {kind: {"status": 200}}}}
    assert bench.silent_to(bench.raw(json.dumps(tree).encode()))
    broken = {"headers": {"request_id": "r"}, "body": {"openc2": {kind: {}, "x": 1}}}
    assert bench.silent_to(bench.raw(json.dumps(broken).encode()))


@pytest.mark.req("MQTT-51")
def test_a_retained_request_is_dropped_even_a_broken_one(bench, door):
    assert bench.silent_to(bench.message(deny(), retained=True))
    assert bench.silent_to(bench.raw(b"{broken", retained=True))
    assert door.executed == []


@pytest.mark.req("MQTT-51")
def test_retained_requests_are_taken_where_the_configuration_says_so(build, door):
    assert build(door, accept_retained=True).answered(deny(), retained=True).status == 200


@pytest.mark.req("AMB-15", "MQTT-41")
def test_a_request_without_any_property_is_taken(bench):
    bare = {"message_type": None, "encoding": None, "content_type": None}
    assert bench.answered(deny(), **bare).status == 200
    packed = bench.message(deny(), request_id="r-2", encoding="cbor")
    bench.deliver(again(packed, **bare))
    assert bench.reply(2).outgoing.encoding.value == "cbor"


@pytest.mark.req("AMB-15", "LANG-45")
@pytest.mark.parametrize(
    "properties",
    [
        {"encoding": "xml"},
        {"encoding": "cbor"},
        {"encoding": "json", "payload": cbor2.dumps({"a": 1})},
        {"content_type": "text/plain"},
        {"content_type": "text/plain", "message_type": None, "encoding": None},
        {"encoding": "xml", "message_type": None, "content_type": None},
        {"payload": b"{'a': 1}"},
        {"payload": b'{"a": "\xff"}', "payload_is_text": True},
        {"payload": b""},
        {"payload": b"hello", "encoding": None},
    ],
)
def test_properties_that_contradict_and_what_cannot_be_decoded_are_answered_400(
    bench, properties, door
):
    message = again(bench.message(deny()), **properties)
    bench.deliver(message)
    reply = bench.reply(1)
    assert reply.status == 400
    assert not reply.outgoing.durable
    assert bench.broker.acknowledged == [message.token]
    assert door.executed == []


@pytest.mark.req("LANG-45", "AMB-7", "AMB-14")
def test_rubbish_that_nobody_called_openc2_is_dropped(bench):
    bare = {"message_type": None, "encoding": None, "content_type": None}
    assert bench.silent_to(bench.raw(b"hello", **bare))
    assert bench.silent_to(bench.raw(b"{'action': 'deny'}", **bare))
    assert bench.silent_to(bench.raw(b"", **bare, properties=False))


@pytest.mark.req("LANG-45")
def test_answers_to_undecodable_input_are_rationed_for_each_topic(bench):
    for _ in range(70):
        bench.deliver(bench.raw(b"{"))
    bench.settle()
    assert bench.statuses == [400] * 60
    bench.deliver(bench.raw(b"{", channel=Channel.DEVICE))
    bench.settle()
    assert len(bench.replies) == 61
    bench.advance(60.5)
    bench.deliver(bench.raw(b"{"))
    bench.settle()
    assert len(bench.replies) == 62


@pytest.mark.req("LANG-77")
def test_the_largest_payload_is_taken_and_one_octet_more_is_not(build, door):
    bench = build(door, limits=Limits(payload=1000))
    message = bench.message(deny())
    pad = 1000 - len(message.payload)
    bench.deliver(again(message, payload=message.payload + b" " * pad))
    assert bench.reply(1).status == 200
    bench.deliver(again(message, payload=message.payload + b" " * (pad + 1)))
    assert bench.reply(2).status == 400


@pytest.mark.req("MQTT-42", "AMB-62", "AMB-6")
def test_a_broken_wrapper_is_answered_400_with_what_can_be_read_of_it(bench):
    bench.deliver(bench.raw(b'{"headers": {"request_id": 5, "from": "soc"}, "body": {}}'))
    reply = bench.reply(1)
    assert (reply.status, reply.headers["request_id"]) == (400, "5")
    assert reply.headers["to"] == ["soc"]
    misplaced = {
        "headers": {"request_id": "r"},
        "body": {"openc2": {"request": deny(), "args": {"response_requested": "complete"}}},
    }
    bench.deliver(bench.raw(json.dumps(misplaced).encode()))
    assert bench.reply(2).status == 400


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


@pytest.mark.req("LANG-35", "AMB-27", "LANG-34")
def test_the_actuator_is_chosen_in_order(build, door):
    window = Window()
    bench = build(door, window, order=["x-window"])
    chosen = [
        (dict(deny(), actuator={"x-door": {}}), {"profile": "x-window"}, door),
        (deny(), {"profile": "x-door"}, door),
        ({"action": "deny", "target": {"x-door:lock": 1}}, {}, door),
        ({"action": "deny", "target": {"x-window:pane": 1}}, {}, window),
        (deny(**{"x-door": {}}), {}, door),
        ({"action": "allow", "target": {"ipv4_net": "1.2.3.4"}}, {}, door),
        ({"action": "scan", "target": {"ipv4_net": "1.2.3.4"}}, {}, window),
        (deny(), {}, window),
    ]
    for number, (command, options, actuator) in enumerate(chosen):
        channel = Channel.PROFILE if options else Channel.ALL
        before = len(actuator.executed)
        reply = bench.answered(command, request_id=str(number), channel=channel, **options)
        assert reply.status == 200
        assert len(actuator.executed) == before + 1, number
    both = deny(**{"x-door": {}, "x-window": {}})
    assert bench.answered(both, request_id="both").status == 501


@pytest.mark.req("LANG-35")
def test_without_an_order_the_first_configured_actuator_is_chosen(build, door):
    bench = build(door, Window())
    bench.answered(deny())
    assert len(door.executed) == 1


@pytest.mark.req("LANG-53", "LANG-54", "AMB-20")
@pytest.mark.parametrize(
    ("args", "status"),
    [
        ({"response_requested": "complete"}, 200),
        ({"response_requested": "ack"}, 400),
        ({"response_requested": "status"}, 400),
        ({"start_time": 5}, 400),
        ({"x-door": {}}, 400),
        ({"foo bar": 1}, 400),
    ],
)
def test_query_features_takes_no_other_argument(bench, args, status):
    assert bench.answered(features("versions", **args)).status == status


@pytest.mark.req(
    "LANG-46", "LANG-47", "LANG-48", "LANG-49", "LANG-50", "LANG-52", "LANG-61", "LANG-90"
)
def test_query_features_tells_of_the_whole_consumer(build, door):
    bench = build(door, Window())
    assert bench.answered(features()).response == {"status": 200}
    only = bench.answered({**features("versions"), "actuator": {"x-door": {}}}, request_id="2")
    assert only.response == {"status": 200, "results": {"versions": ["1.0"]}}
    asked = features("profiles", "pairs", "rate_limit", "pairs")
    results = bench.answered(asked, request_id="3", profile="x-door", channel=Channel.PROFILE)
    assert results.response["results"] == {
        "profiles": ["x-door", "x-window"],
        "pairs": {
            "query": ["features"],
            "deny": ["x-door:lock", "ipv4_net", "x-window:pane"],
            "allow": ["ipv4_net"],
            "scan": ["ipv4_net"],
        },
    }


@pytest.mark.req("LANG-46", "LANG-49", "LANG-51")
def test_query_features_needs_no_actuator(build):
    bench = build(limits=Limits(rate_per_minute=30))
    reply = bench.answered(features("profiles", "rate_limit"))
    assert reply.response["results"] == {"profiles": [], "rate_limit": 30}
    assert bench.answered(deny(), request_id="2").status == 501


@pytest.mark.req("AMB-8")
def test_a_bare_command_is_taken_only_where_the_configuration_says_so(build, door):
    payload = json.dumps(deny()).encode()
    strict = build(door)
    strict.deliver(strict.raw(payload))
    assert strict.reply(1).status == 400
    lenient = build(
        Recording(), directory=strict.directory.parent / "b", compat=Compat(bare_command=True)
    )
    lenient.deliver(lenient.raw(payload))
    reply = lenient.reply(1)
    assert reply.status == 200
    assert "request_id" not in reply.headers


@pytest.mark.req("LANG-51")
def test_the_rate_is_exact_over_a_sliding_minute(build, door):
    bench = build(door, limits=Limits(rate_per_minute=3))
    for number, (wait, status) in enumerate(
        [(0, 200), (10, 200), (10, 200), (10, 503), (29.5, 503), (0.5, 200), (9.9, 503), (0.2, 200)]
    ):
        bench.advance(wait)
        assert bench.answered(deny(), request_id=str(number)).status == status, number


def test_the_queue_is_full_at_its_limit_even_within_one_delivery(build, door):
    door.behave = gate = Gate()
    bench = build(door, limits=Limits(queue=3))
    bench.deliver(*(bench.message(deny(), request_id=str(number)) for number in range(5)))
    gate.wait()
    assert bench.reply(2).status == 503
    assert [r.headers["request_id"] for r in bench.replies] == ["3", "4"]
    gate.open.set()
    bench.reply(5)
    # never stored as the outcome: the same request may be tried again
    assert bench.answered(deny(), request_id="4").status == 200
    assert len(door.executed) == 4


def test_large_messages_fill_the_queue_by_their_bytes(build, door, monkeypatch):
    monkeypatch.setattr("oc2d.engine.intake._MOST_HELD", 3000)
    door.behave = gate = Gate()
    bench = build(door, limits=Limits(payload=2000))

    def padded(request_id):
        message = bench.message(deny(), request_id=request_id)
        return replace(message, payload=message.payload.ljust(1400))

    bench.deliver(*(padded(str(number)) for number in range(3)))
    assert (bench.reply(1).headers["request_id"], bench.reply(1).status) == ("2", 503)
    gate.open.set()
    bench.reply(3)
    bench.settle()
    bench.deliver(padded("2"))
    bench.reply(4)
    assert bench.statuses == [503, 200, 200, 200]
    bench.settle()
    assert bench.consumer._cases.held == 0


def test_a_producer_has_its_share_of_the_queue(build, door):
    door.behave = gate = Gate()
    bench = build(door, limits=Limits(queue_per_producer=1))
    bench.ask(deny())
    gate.wait()
    assert bench.answered(deny(), request_id="2").status == 503
    bench.ask(deny(), sender="other")
    bench.ask(deny(), sender=None)
    gate.open.set()
    bench.reply(4)
    assert bench.statuses == [503, 200, 200, 200]
    bench.settle()
    assert bench.answered(deny(), request_id="3").status == 200


@pytest.mark.req("AMB-21")
def test_beyond_what_can_be_remembered_new_requests_wait_and_old_ones_stay_known(build, door):
    bench = build(door, limits=Limits(remember_count=2, remember=100))
    first = bench.ask(deny())
    bench.reply(1)
    assert bench.answered(deny(), request_id="2").status == 200
    assert bench.answered(deny(), request_id="3").status == 503
    bench.deliver(first)
    assert bench.reply(4).status == 200
    assert len(door.executed) == 2
    bench.advance(101.5)
    assert bench.answered(deny(), request_id="3").status == 200
    assert len(door.executed) == 3
