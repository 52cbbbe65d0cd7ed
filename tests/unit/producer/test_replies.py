"""Responses of well-behaved and of odd Consumers, and how they look."""

from __future__ import annotations

import dataclasses
import json

import cbor2
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from oc2d.engine.ports import Channel, Inbound, Token
from oc2d.language.codec import Encoding, encode
from oc2d.producer.replies import Reply, read_reply
from oc2d.producer.text import reply_line, reply_object, to_json, traffic_line, traffic_object

HEADERS = {"request_id": "r-1", "created": 1, "from": "fw-7", "to": ["me"]}


def delivery(payload: bytes, **changes: object) -> Inbound:
    made = Inbound(
        token=Token(1, 1, 1),
        topic="oc2/rsp",
        channel=Channel.OTHER,
        profile=None,
        payload=payload,
        message_type="rsp",
        encoding="json",
        content_type="application/openc2",
        payload_is_text=True,
    )
    return msgspec.structs.replace(made, **changes)


def message(response: object, headers: object = HEADERS) -> bytes:
    return json.dumps({"headers": headers, "body": {"openc2": {"response": response}}}).encode()


def read(payload: bytes, **changes: object) -> Reply:
    reply = read_reply(delivery(payload, **changes))
    assert reply is not None
    return reply


@pytest.mark.req("LANG-38", "LANG-88", "LANG-89")
def test_a_right_response_is_read_without_warnings() -> None:
    reply = read(message({"status": 200, "results": {"slpf": {"rule_number": 7}}}))
    assert (reply.sender, reply.request_id, reply.status) == ("fw-7", "r-1", 200)
    assert reply.succeeded
    assert not reply.interim
    assert reply.warnings == ()
    assert reply_line(reply) == "fw-7  200  rule_number=7"


@pytest.mark.req("AMB-52", "MQTT-35")
@pytest.mark.parametrize("encoding", ["cbor", None, "other"])
def test_a_response_in_concise_cbor_is_read_alike(encoding) -> None:
    response = {"status": 200, "results": {"slpf": {"rule_number": 7}, "rate_limit": 60}}
    payload = encode(json.loads(message(response)), Encoding.CONCISE)
    reply = read(payload, encoding=encoding)
    assert dataclasses.replace(reply, warnings=()) == read(message(response))
    assert reply.warnings == () if encoding == "cbor" else len(reply.warnings) == 1
    assert "60" in reply_line(reply)
    assert "60.0" not in reply_line(reply)


def test_a_response_in_cbor_is_read_alike() -> None:
    tree = json.loads(message({"status": 102}))
    reply = read(cbor2.dumps(tree), encoding="cbor")
    assert reply.interim
    assert reply.warnings == ()


@pytest.mark.parametrize(
    ("response", "status", "says"),
    [
        ({"status": 200, "results": None}, 200, "results"),
        ({"status": 200, "results": "done"}, 200, "results"),
        ({"status": 418}, 418, "not in the language"),
        ({"status": 500, "status_text": ["trace"]}, 500, "status_text"),
        ({"status": 200, "extra": 1}, 200, "unknown member 'extra'"),
        ({"status": "200"}, None, "integer status"),
        ({}, None, "integer status"),
        ("ok", None, "an object"),
    ],
)
@pytest.mark.req("LANG-42", "LANG-41")
def test_an_odd_response_is_shown_with_a_warning(response, status, says) -> None:
    reply = read(message(response))
    assert reply.status == status
    assert says in " ".join(reply.warnings)
    assert reply_line(reply).startswith("fw-7  ")
    assert reply.succeeded is (status == 200)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"token": Token(1, 0, 0)}, "QoS 0"),
        ({"message_type": None}, "msgType is missing"),
        ({"encoding": None}, "encoding is missing"),
        ({"encoding": "text/json"}, "encoding is 'text/json'"),
        ({"content_type": None}, "Content Type is missing"),
        ({"retained": True}, "RETAIN"),
    ],
)
@pytest.mark.req("LANG-42")
def test_a_response_against_the_transfer_specification_is_read_with_a_warning(
    changes, says
) -> None:
    reply = read(message({"status": 200}), **changes)
    assert reply.status == 200
    assert any(says in warning for warning in reply.warnings)


@pytest.mark.req("LANG-42", "AMB-14")
def test_a_link_without_properties_is_no_reason_to_warn() -> None:
    bare = {"message_type": None, "encoding": None, "content_type": None, "properties": False}
    assert read(message({"status": 200}), **bare).warnings == ()


@pytest.mark.req("LANG-42")
def test_a_broken_wrapper_that_names_the_request_counts_as_a_response_without_status() -> None:
    tree = {"headers": HEADERS, "body": {"openc2": {"response": {"status": 200}, "x": 1}}}
    reply = read(json.dumps(tree).encode())
    assert (reply.request_id, reply.status) == ("r-1", None)
    assert not reply.succeeded
    assert read(message({"status": 200}, {"request_id": "r-1"})).sender is None


@pytest.mark.req("AMB-13")
def test_a_single_name_as_recipient_is_fine() -> None:
    assert read(message({"status": 200}, {**HEADERS, "to": "me"})).warnings == ()


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"hello",
        b"{",
        b"[]",
        b'{"headers":{"request_id":"r-1"},"body":{"openc2":{"response":{"status":200,"status":500}}}}',
        b'{"headers":{"request_id":"r-1"},"body":{"openc2":{"response":{"status":NaN}}}}',
        json.dumps({"headers": HEADERS, "body": {"openc2": {"request": {}}}}).encode(),
        json.dumps({"headers": HEADERS, "body": {"openc2": {"notification": {}}}}).encode(),
    ],
)
@pytest.mark.req("LANG-75", "LANG-76", "LANG-89")
def test_what_is_no_response_is_ignored(payload) -> None:
    assert read_reply(delivery(payload)) is None


@given(st.binary(max_size=200))
def test_no_payload_breaks_the_reader_or_the_traffic_log(payload) -> None:
    made = delivery(payload)
    read_reply(made)
    assert "\n" not in traffic_line(made, 0)
    json.loads(to_json(traffic_object(made, 0)))


NAMES = (
    *("headers", "body", "openc2", "request", "response", "action", "target", "args", "from", "to"),
    *("request_id", "created", "status", "status_text", "results", "pairs", "versions", "slpf"),
)
TREES = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(NAMES),
            inner,
            max_size=4,
        )
    ),
)


@given(TREES, TREES, TREES)
def test_no_message_however_odd_breaks_what_is_shown(headers, content, results) -> None:
    for said in ({"response": content}, {"response": {"status": 200, "results": results}}, content):
        tree = {"headers": headers, "body": {"openc2": said}}
        made = delivery(json.dumps(tree).encode())
        assert "\n" not in traffic_line(made, 0)
        if (reply := read_reply(made)) is not None:
            reply_line(reply)
            to_json(reply_object(reply))


def test_features_are_shown_one_a_line() -> None:
    results = {
        "rate_limit": 60,
        "pairs": {"query": ["features"], "deny": ["ipv4_net", "ipv6_net"]},
        "profiles": [],
        "versions": ["1.0"],
    }
    assert reply_line(read(message({"status": 200, "results": results}))).splitlines() == [
        "fw-7  200",
        "    versions    1.0",
        "    profiles    none",
        "    pairs       query: features",
        "                deny: ipv4_net, ipv6_net",
        "    rate_limit  60",
    ]


def test_a_consumer_cannot_drive_the_terminal_or_forge_a_line() -> None:
    text = "no\x1b[2J\nfw-8  200"
    line = reply_line(read(message({"status": 400, "status_text": text})))
    assert line == "fw-7  400  no\\x1b[2J\\nfw-8  200"


def test_json_output_leaves_out_what_is_not_there() -> None:
    reply = read(message({"status": 400, "status_text": "no"}))
    assert reply_object(reply) == {
        "from": "fw-7",
        "status": 400,
        "status_text": "no",
        "request_id": "r-1",
        "created": 1,
        "topic": "oc2/rsp",
    }
    assert to_json({"x": b"\xff\xfe"}) == '{"x": "__4"}'


@pytest.mark.req("AMB-48")
def test_traffic_of_every_kind_has_a_line() -> None:
    request = {"action": "deny", "target": {"ipv4_net": "1.2.3.4"}, "args": {"duration": 5}}
    for kind, content, says in (
        ("request", request, 'fw-7 -> me  deny ipv4_net 1.2.3.4 args={"duration": 5}  [r-1]'),
        ("response", {"status": 200, "results": {"x": 1}}, 'fw-7 -> me  200  {"x": 1}  [r-1]'),
        ("notification", {"event": 1}, '"notification": {"event": 1}'),
    ):
        payload = json.dumps({"headers": HEADERS, "body": {"openc2": {kind: content}}}).encode()
        assert says in traffic_line(delivery(payload), 0)
    assert "unreadable" in traffic_line(delivery(b"\x00"), 0)
    assert traffic_object(delivery(b"\x00"), 0)["payload"] == b"\x00"
