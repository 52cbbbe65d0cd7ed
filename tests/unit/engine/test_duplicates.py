"""Nothing takes effect twice, and every answer fits its request (AMB-21, LANG-4, MQTT-39)."""

from __future__ import annotations

import pytest
import structlog

from oc2d.actuator import Response
from oc2d.config import Limits
from oc2d.engine.ports import Channel
from tests.unit.engine.bench import DAY, again, deny, features
from tests.unit.engine.plugins import DoorResults, Gate


@pytest.mark.req("LANG-4")
@pytest.mark.parametrize(
    "request_id", ["uuid_1", "x" * 200, "Ünïcode ☃ \u0000 \U0001f600", "", " a b ", "1"]
)
def test_the_request_id_comes_back_as_it_was(bench, request_id):
    assert bench.answered(deny(), request_id=request_id).headers["request_id"] == request_id
    broken = {"action": "nonsense"}
    assert bench.answered(broken, request_id=request_id).headers["request_id"] == request_id


@pytest.mark.req("LANG-10", "AMB-12", "MQTT-45", "MQTT-36", "LANG-7")
def test_what_a_reply_says_of_itself(bench):
    reply = bench.answered(deny())
    assert reply.headers == {
        "request_id": "r-1",
        "from": "fw-7",
        "to": ["soc"],
        "created": bench.turned.wall,
    }
    assert reply.outgoing.topic == "oc2/rsp"
    anonymous = bench.answered(deny(), request_id=None, sender=None)
    assert anonymous.headers == {"from": "fw-7", "created": bench.turned.wall}


@pytest.mark.req("MQTT-39", "MQTT-38", "MQTT-23")
def test_correlation_data_come_back_and_a_response_topic_leads_nowhere(bench):
    reply = bench.answered(deny(), correlation=b"\x00\xff", response_topic="x/y")
    assert (reply.outgoing.correlation, reply.outgoing.topic) == (b"\x00\xff", "oc2/rsp")
    reply = bench.answered(deny(), request_id="2", sender="a/b")
    assert (reply.outgoing.correlation, reply.outgoing.topic) == (None, "oc2/rsp")


@pytest.mark.req("AMB-3")
def test_with_both_topics_each_copy_has_a_handle_of_its_own(build, door):
    bench = build(door, response_topic="both", confirm=False)
    bench.ask(deny())
    bench.reply(2)
    one, two = bench.broker.sent
    assert {one.topic, two.topic} == {"oc2/rsp", "oc2/rsp/soc"}
    assert one.handle != two.handle


@pytest.mark.req("AMB-52")
def test_the_reply_has_the_encoding_of_the_request(build, door):
    door.behave = lambda _: Response(results=DoorResults(number=5))
    bench = build(door)
    for number, encoding in enumerate(("json", "cbor")):
        reply = bench.answered(deny(), encoding=encoding, request_id=str(number))
        assert reply.outgoing.encoding.value == encoding
        assert reply.response == {"status": 200, "results": {"x-door": {"number": 5}}}


@pytest.mark.req("AMB-21", "MQTT-50")
def test_a_duplicate_in_any_form_is_told_the_same_and_does_nothing(build, door):
    door.behave = lambda _: Response(text="first", results=DoorResults(number=5))
    bench = build(door)
    first = bench.answered(deny())
    door.behave = lambda _: Response(text="second")
    variants = [
        {},
        {"created": 5},
        {"encoding": "cbor"},
        {"channel": Channel.DEVICE},
        {"channel": Channel.PROFILE, "profile": "x-door"},
        {"redelivered": True, "packet_id": 1},
        {"to": ["fw-7"]},
        {"headers": {"extra": 1}},
    ]
    for options in variants:
        reply = bench.answered(deny(), **options)
        assert reply.response == first.response
        assert reply.outgoing.encoding.value == options.get("encoding", "json")
    shuffled = {"target": {"ipv4_net": "203.0.113.77/24"}, "action": "deny"}
    assert bench.answered(shuffled).response == first.response
    assert len(door.executed) == 1
    assert bench.consumer.snapshot()["engine"]["counters"]["duplicates"] == len(variants) + 1


@pytest.mark.req("AMB-21")
@pytest.mark.parametrize(
    "command",
    [{"action": "block"}, deny(foo=1), deny("1.2.3.400"), deny(**{"a b": 1})],
)
def test_refusals_are_repeated_as_well(bench, command):
    first = bench.answered(command)
    bench.advance(10)
    second = bench.answered(command)
    assert second.response == first.response
    assert second.headers["created"] == first.headers["created"] + 10_000
    assert bench.consumer.snapshot()["engine"]["counters"]["duplicates"] == 1


@pytest.mark.req("AMB-21")
def test_features_are_told_again_and_nothing_of_it_is_remembered(bench):
    first = bench.answered(features("pairs"))
    second = bench.answered(features("pairs"))
    assert second.response == first.response
    assert bench.consumer._journal.remembered == 0


@pytest.mark.req("AMB-21")
def test_the_same_id_from_another_producer_is_another_request(bench, door):
    for sender in ("a", "b", None, "a\u0000r-1"):
        assert bench.answered(deny(), sender=sender).status == 200
    assert bench.answered(deny(), sender="a", request_id="r-1\u0000r-1").status == 200
    assert len(door.executed) == 5


@pytest.mark.req("AMB-21")
def test_the_same_id_with_another_body_is_executed_and_warned_of(bench, door):
    bench.answered(deny())
    with structlog.testing.capture_logs() as logs:
        bench.answered(deny("198.51.100.0/24"))
        bench.settle()
    assert [entry["log_level"] for entry in logs if entry["event"] == "request_id_reused"] == [
        "warning"
    ]
    assert len(door.executed) == 2
    bench.answered(deny())
    assert len(door.executed) == 2


@pytest.mark.req("AMB-21")
def test_without_a_request_id_only_a_redelivery_of_the_same_packet_is_a_duplicate(bench, door):
    message = bench.message(deny(), request_id=None, packet_id=7)
    bench.deliver(message)
    bench.reply(1)
    bench.deliver(again(message, redelivered=True))
    assert bench.reply(2).status == 200
    assert len(door.executed) == 1
    bench.deliver(message)
    bench.reply(3)
    assert len(door.executed) == 2
    bench.deliver(bench.message(deny(), request_id=None, packet_id=8, redelivered=True))
    bench.reply(4)
    assert len(door.executed) == 3
    other = bench.message(deny("192.0.2.1"), request_id=None, packet_id=7, redelivered=True)
    bench.deliver(other)
    bench.reply(5)
    assert len(door.executed) == 4


@pytest.mark.req("AMB-21")
def test_a_redelivery_without_request_id_is_known_at_any_age(build, door):
    bench = build(door, limits=Limits(remember=10))
    message = bench.message(deny(), request_id=None, packet_id=7)
    bench.deliver(message)
    bench.reply(1)
    bench.advance(1000)
    bench.answered(deny())
    bench.deliver(again(message, redelivered=True))
    bench.reply(3)
    assert len(door.executed) == 2


@pytest.mark.req("AMB-21")
def test_packet_ids_of_a_lost_session_mean_nothing(bench, door):
    message = bench.message(deny(), request_id=None, packet_id=7)
    bench.deliver(message)
    bench.reply(1)
    bench.consumer.engine.session_lost()
    bench.deliver(again(message, redelivered=True))
    bench.reply(2)
    assert len(door.executed) == 2


@pytest.mark.req("AMB-21")
def test_deliveries_without_request_id_are_forgotten_when_their_packet_id_is_used_again(
    build, door
):
    bench = build(door, limits=Limits(remember=10))
    for _ in range(20):
        bench.answered(deny(), request_id=None, packet_id=7)
    bench.answered(deny(foo=1), request_id="x")
    bench.settle()
    assert bench.consumer._journal.remembered == 2
    bench.consumer.engine.session_lost()
    bench.answered(deny(foo=1), request_id="y")
    bench.settle()
    assert bench.consumer._journal.remembered == 2


@pytest.mark.req("AMB-21")
@pytest.mark.parametrize("kind", ["complete", "status", "ack"])
def test_while_the_original_runs_a_duplicate_gets_nothing_new(build, door, kind):
    door.behave = gate = Gate()
    bench = build(door, limits=Limits(interim_after=5))
    message = bench.ask(deny(response_requested=kind))
    gate.wait()
    before = 1 if kind == "ack" else 0
    bench.reply(before) if before else None
    bench.deliver(message)
    assert bench.consumer.engine.settle(10)
    # An `ack` has had its only reply: that one is repeated.
    assert bench.statuses == ([102, 102] if kind == "ack" else [])
    bench.advance(6)
    bench.deliver(message)
    assert bench.consumer.engine.settle(10)
    gate.open.set()
    bench.settle()
    assert bench.statuses == ([102] * 3 if kind == "ack" else [102, 200])
    bench.deliver(message)
    bench.settle()
    assert bench.statuses[-1] == (102 if kind == "ack" else 200)
    assert len(door.executed) == 1


@pytest.mark.req("AMB-21")
def test_what_is_past_its_time_is_forgotten_and_nothing_before(build, door):
    bench = build(door, limits=Limits(remember=100))
    message = bench.ask(deny())
    bench.reply(1)
    bench.advance(99)
    bench.deliver(message)
    bench.reply(2)
    assert len(door.executed) == 1
    bench.advance(3)
    bench.answered(features(), request_id="other")
    bench.deliver(message)
    bench.reply(4)
    assert len(door.executed) == 2


@pytest.mark.req("LANG-5")
def test_the_log_has_one_line_for_each_request_with_its_command_id(bench):
    with structlog.testing.capture_logs() as logs:
        bench.answered({**deny(), "command_id": "c-9"})
        bench.answered(deny(), request_id="r-2")
        bench.answered(deny(), request_id="r-2")
        bench.settle()
    lines = [entry for entry in logs if entry["event"] == "request"]
    assert [line["command_id"] for line in lines] == ["c-9", "r-2", "r-2"]
    assert lines[0] == {
        "event": "request",
        "log_level": "info",
        "request_id": "r-1",
        "command_id": "c-9",
        "producer": "soc",
        "topic": "oc2/cmd/all",
        "profile": "x-door",
        "action": "deny",
        "target": "ipv4_net",
        "status": 200,
        "duration_ms": 0.0,
        "duplicate": False,
    }
    assert [line["duplicate"] for line in lines] == [False, False, True]


@pytest.mark.req("AMB-21")
def test_a_clock_that_leaps_forward_forgets_nothing_at_once(build, door):
    bench = build(door, limits=Limits(remember=100))
    first = bench.message(deny(), request_id="first")
    bench.deliver(first)
    bench.reply(1)
    bench.set_wall(5 * DAY)
    bench.answered(deny(), request_id="other")
    bench.deliver(again(first))
    assert bench.reply(3).headers["request_id"] == "first"
    assert len(door.executed) == 2
    bench.advance(101)  # by now the clock is believed
    bench.answered(deny(), request_id="third")
    bench.settle()
    assert bench.consumer._journal.remembered == 1


@pytest.mark.req("AMB-21")
@pytest.mark.parametrize("request_id", ["r-1", None])
def test_a_duplicate_that_arrives_together_with_the_outcome_is_told_the_outcome(
    bench, door, request_id
):
    door.behave = busy = Gate()
    message = bench.ask(deny(), request_id=request_id, correlation=b"1", packet_id=9)
    busy.wait()
    bench.advance(10)
    assert bench.reply(0).status == 102
    hold = Gate()
    bench.consumer.engine.reconfigure(hold)
    hold.wait()
    busy.open.set()
    bench.call("x-door", lambda: None)  # the outcome was reported
    bench.deliver(again(message, correlation=b"2", redelivered=True))
    hold.open.set()
    bench.settle()
    told = [(reply.status, reply.outgoing.correlation) for reply in bench.replies]
    assert told == [(102, b"1"), (200, b"1"), (200, b"2")]
