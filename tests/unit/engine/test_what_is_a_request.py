"""REQUIREMENTS 2.6: which messages are requests, and what is answered to the broken ones."""

from __future__ import annotations

import json

import cbor2
import pytest

from oc2d.config import Compat, Limits
from oc2d.engine.ports import Channel
from tests.unit.engine.bench import again, deny
from tests.unit.engine.plugins import Recording


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
