"""The wrapper: what is a message, what can be read of a broken one."""

from __future__ import annotations

import pytest

from oc2d.errors import BadRequest
from oc2d.language.message import (
    Headers,
    MessageKind,
    Salvage,
    created_ms,
    open_envelope,
    salvage,
    wrap_request,
    wrap_response,
)

COMMAND = {"action": "query", "target": {"features": []}}
BODY = {"openc2": {"request": COMMAND}}


def refusal(tree, **options) -> BadRequest:
    with pytest.raises(BadRequest) as caught:
        open_envelope(tree, **options)
    return caught.value


@pytest.mark.req("MQTT-42", "MQTT-43", "LANG-8")
def test_all_members_of_a_message_are_read():
    headers = {"request_id": "a b/ü", "created": 1545257700000, "from": "soc", "to": ["x", "y"]}
    envelope = open_envelope({"headers": headers, "body": BODY, "signature": "s"})
    assert envelope.headers == Headers("a b/ü", 1545257700000, "soc", ("x", "y"))
    assert envelope.kind is MessageKind.REQUEST
    assert envelope.content == COMMAND
    assert envelope.signature == "s"


@pytest.mark.req("MQTT-46", "AMB-47")
@pytest.mark.parametrize("kind", list(MessageKind))
def test_the_kind_of_a_message_is_told(kind):
    assert open_envelope({"body": {"openc2": {kind.value: {}}}}).kind is kind


@pytest.mark.req("LANG-4", "LANG-6")
@pytest.mark.parametrize("request_id", ["uuid_1", "x" * 200, "ü \n ☃", ""])
def test_request_ids_follow_no_pattern(request_id):
    message = {"headers": {"request_id": request_id}, "body": BODY}
    assert open_envelope(message).headers.request_id == request_id


@pytest.mark.req("AMB-13", "LANG-10", "AMB-12")
@pytest.mark.parametrize(
    ("headers", "read"),
    [
        ({}, Headers()),
        ({"to": "fw-7"}, Headers(to=("fw-7",))),
        ({"to": []}, Headers()),
        ({"created": "2020-01-01"}, Headers(created="2020-01-01")),
        ({"created": 1.5}, Headers(created=1.5)),
    ],
)
def test_what_deployed_producers_do_to_headers_is_tolerated(headers, read):
    assert open_envelope({"headers": headers, "body": BODY}).headers == read
    assert open_envelope({"body": BODY}).headers == Headers()


@pytest.mark.req("AMB-22", "LANG-17")
def test_unknown_members_of_headers_and_message_are_ignored():
    message = {
        "headers": {"actuator_id": "x", "request_id": "1"},
        "body": BODY,
        "content_type": "application/openc2",
        "status_code": 1,
    }
    assert open_envelope(message).headers.request_id == "1"


@pytest.mark.req("MQTT-42", "MQTT-43", "LANG-8", "LANG-18", "LANG-81", "AMB-62", "AMB-6")
@pytest.mark.parametrize(
    ("message", "path"),
    [
        (None, "$"),
        (42, "$"),
        ("x", "$"),
        ([], "$"),
        (True, "$"),
        ({}, "$"),
        ({"headers": {}}, "$"),
        ({"body": None}, "$.body"),
        ({"body": []}, "$.body"),
        ({"body": {}}, "$.body"),
        ({"body": {"openc2": {"request": {}}, "actuator": {}}}, "$.body"),
        ({"body": {"openc3": {}}}, "$.body"),
        ({"body": {"openc2": {}}}, "$.body.openc2"),
        ({"body": {"openc2": None}}, "$.body.openc2"),
        ({"body": {"openc2": {"command": {}}}}, "$.body.openc2"),
        ({"body": {"openc2": {"request": {}, "response": {}}}}, "$.body.openc2"),
        ({"body": {"openc2": {"request": {}, "args": {}}}}, "$.body.openc2"),
        ({"body": BODY, "signature": 1}, "$.signature"),
        ({"body": BODY, "signature": None}, "$.signature"),
        ({"body": BODY, "headers": None}, "$.headers"),
        ({"body": BODY, "headers": []}, "$.headers"),
        ({"body": BODY, "headers": {"request_id": 7}}, "$.headers.request_id"),
        ({"body": BODY, "headers": {"request_id": None}}, "$.headers.request_id"),
        ({"body": BODY, "headers": {"from": ["a"]}}, "$.headers.from"),
        ({"body": BODY, "headers": {"created": True}}, "$.headers.created"),
        ({"body": BODY, "headers": {"created": None}}, "$.headers.created"),
        ({"body": BODY, "headers": {"to": [1]}}, "$.headers.to"),
        ({"body": BODY, "headers": {"to": None}}, "$.headers.to"),
        ({"body": BODY, "headers": {"to": {"a": 1}}}, "$.headers.to"),
    ],
)
def test_a_broken_wrapper_is_refused_with_its_place(message, path):
    assert refusal(message).path == path


@pytest.mark.req("AMB-8")
def test_a_bare_command_is_taken_only_when_that_is_switched_on():
    assert "missing body" in refusal(COMMAND).text
    envelope = open_envelope(COMMAND, bare_command=True)
    assert (envelope.headers, envelope.content) == (Headers(), COMMAND)
    assert "missing body" in refusal({"headers": {}, **COMMAND}, bare_command=True).text
    assert "missing body" in refusal({"status": 200}, bare_command=True).text


@pytest.mark.req("AMB-62", "AMB-17", "MQTT-46")
@pytest.mark.parametrize(
    ("tree", "read"),
    [
        (None, Salvage(None, None, silent=False, to=(), is_request=True)),
        ({"headers": {"request_id": 5}}, Salvage("5", None, silent=False, to=(), is_request=True)),
        (
            {"headers": {"request_id": True}},
            Salvage(None, None, silent=False, to=(), is_request=True),
        ),
        (
            {"headers": {"request_id": "a", "from": "p", "to": ["x", 3]}, "body": 1},
            Salvage("a", "p", silent=False, to=("x",), is_request=True),
        ),
        ({"headers": {"to": "x"}}, Salvage(None, None, silent=False, to=("x",), is_request=True)),
        (
            {"body": {"openc2": {"response": {}}}},
            Salvage(None, None, silent=False, to=(), is_request=False),
        ),
        (
            {"body": {"openc2": {"notification": {}}}},
            Salvage(None, None, silent=False, to=(), is_request=False),
        ),
        ({"status": 200}, Salvage(None, None, silent=False, to=(), is_request=False)),
    ],
)
def test_what_is_left_of_a_broken_message_is_salvaged(tree, read):
    assert salvage(tree) == read


@pytest.mark.req("AMB-17")
@pytest.mark.parametrize(
    "tree",
    [
        {"body": {"openc2": {"request": {"args": {"response_requested": "none", "x": 1}}}}},
        {"body": {"openc2": {"request": {}, "args": {"response_requested": "none"}}}},
        {"body": {"openc2": {"request": 1}, "args": {"response_requested": "none"}}},
        {"action": 1, "args": {"response_requested": "none"}},
    ],
)
def test_silence_is_kept_wherever_none_can_be_read(tree):
    assert salvage(tree).silent


@pytest.mark.req("MQTT-43", "MQTT-45", "LANG-39", "AMB-13")
def test_sending_leaves_out_what_is_not_there():
    headers = Headers("r", 1, "fw-7", ("soc",))
    assert wrap_response({"status": 200}, headers) == {
        "headers": {"request_id": "r", "created": 1, "from": "fw-7", "to": ["soc"]},
        "body": {"openc2": {"response": {"status": 200}}},
    }
    assert wrap_request(COMMAND, Headers(sender="a")) == {"headers": {"from": "a"}, "body": BODY}
    assert wrap_request(COMMAND, Headers()) == {"body": BODY}


@pytest.mark.req("AMB-19", "LANG-7")
@pytest.mark.parametrize(
    ("created", "milliseconds"),
    [
        (1545257700000, 1545257700000),
        (1545257700, 1545257700000),
        (1545257700.5, 1545257700500),
        ("1545257700", 1545257700000),
        ("1545257700000", 1545257700000),
        (99_999_999_999, 99_999_999_999_000),
        (100_000_000_000, 100_000_000_000),
        ("2018-12-19", None),
        ("", None),
        ("nan", None),
        ("inf", None),
        ("-inf", None),
        ("9" * 5000, None),
        (10**400, None),
        (-1e308, None),
        (None, None),
    ],
)
def test_created_is_read_as_seconds_when_it_is_small(created, milliseconds):
    assert created_ms(created) == milliseconds
