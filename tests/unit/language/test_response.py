"""Responses as we send them and as others do; the answer to `query features`."""

from __future__ import annotations

import msgspec
import pytest

from oc2d.errors import BadRequest
from oc2d.language.codec import Encoding
from oc2d.language.command import parse_command
from oc2d.language.features import Capabilities, answer_features, is_query_features
from oc2d.language.response import OpenC2Response, Results, parse_response, response_tree
from oc2d.language.vocabulary import Action, StatusCode

CAPABILITIES = Capabilities(
    versions=("1.0",),
    profiles=("slpf", "x-log"),
    pairs={Action.QUERY: ("features",), Action.DELETE: ("slpf:rule_number",)},
    rate_limit=30,
)
NAMES = ["versions", "profiles", "pairs", "rate_limit"]


class Own(msgspec.Struct, frozen=True):
    rule_number: int | None = None


def query(features, action="query", **args):
    tree = {"action": action, "target": {"features": features}}
    return parse_command({**tree, "args": args} if args else tree, Encoding.JSON)


def answer(features, capabilities=CAPABILITIES, **args):
    response = answer_features(query(features, **args), capabilities)
    return response_tree(response, Encoding.JSON)


@pytest.mark.req("LANG-38", "LANG-39", "LANG-40", "LANG-78", "LANG-87")
def test_a_response_holds_what_there_is_and_nothing_else():
    assert response_tree(OpenC2Response(StatusCode.OK), Encoding.JSON) == {"status": 200}
    status = response_tree(OpenC2Response(StatusCode.OK), Encoding.JSON)["status"]
    assert type(status) is int
    for extensions in ({}, {"slpf": {}}, {"slpf": Own()}, {"slpf": None}):
        response = OpenC2Response(StatusCode.OK, results=Results(extensions=extensions))
        assert response_tree(response, Encoding.JSON) == {"status": 200}
    full = OpenC2Response(
        StatusCode.PROCESSING, "soon", Results(extensions={"slpf": Own(5), "x-a": {"b": [1]}})
    )
    assert response_tree(full, Encoding.CBOR) == {
        "status": 102,
        "status_text": "soon",
        "results": {"slpf": {"rule_number": 5}, "x-a": {"b": [1]}},
    }


@pytest.mark.req("LANG-42", "LANG-41")
@pytest.mark.parametrize(
    ("tree", "status", "text", "results", "warnings"),
    [
        ({"status": 200}, 200, None, None, 0),
        ({"status": 200, "status_text": "x", "results": {"a": 1}}, 200, "x", {"a": 1}, 0),
        ({"status": 201}, 201, None, None, 1),
        ({"status": 200, "results": None}, 200, None, None, 1),
        ({"status": 200, "results": "done"}, 200, None, "done", 1),
        ({"status": 200, "results": {}}, 200, None, {}, 1),
        ({"status": 500, "status_text": 7}, 500, None, None, 1),
        ({"status": 200, "command_id": "x", "z": 1}, 200, None, None, 2),
    ],
)
def test_responses_of_other_consumers_are_read_with_warnings(tree, status, text, results, warnings):
    read = parse_response(tree)
    assert (read.status, read.status_text, read.results) == (status, text, results)
    assert len(read.warnings) == warnings


@pytest.mark.req("LANG-42", "LANG-18")
@pytest.mark.parametrize(
    "tree", [None, [], {}, {"status": "200"}, {"status": True}, {"status": 200.0}, {"status": None}]
)
def test_a_response_without_a_status_is_none(tree):
    with pytest.raises(BadRequest):
        parse_response(tree)


@pytest.mark.req("LANG-46", "LANG-49", "LANG-90")
def test_a_consumer_without_plugins_answers_too():
    bare = Capabilities(("1.0",), (), {Action.QUERY: ("features",)})
    assert answer(["profiles", "pairs", "rate_limit"], bare) == {
        "status": 200,
        "results": {"profiles": [], "pairs": {"query": ["features"]}},
    }


@pytest.mark.req("LANG-47", "LANG-39")
def test_an_empty_query_is_a_heartbeat():
    assert answer([]) == {"status": 200}


@pytest.mark.req("LANG-48", "LANG-49", "LANG-50", "LANG-51", "LANG-61", "AMB-43", "AMB-61")
@pytest.mark.parametrize("name", NAMES)
def test_only_what_was_asked_is_answered(name):
    told = {
        "versions": ["1.0"],
        "profiles": ["slpf", "x-log"],
        "pairs": {"query": ["features"], "delete": ["slpf:rule_number"]},
        "rate_limit": 30,
    }
    assert answer([name]) == {"status": 200, "results": {name: told[name]}}
    assert answer(NAMES)["results"] == told


@pytest.mark.req("LANG-52", "LANG-39")
def test_without_a_limit_none_is_told():
    assert answer(["rate_limit"], Capabilities(("1.0",), (), {})) == {"status": 200}


@pytest.mark.req("LANG-56")
def test_a_name_twice_counts_once():
    assert answer(["versions", "versions"]) == answer(["versions"])


@pytest.mark.req("LANG-53", "LANG-54", "AMB-20")
@pytest.mark.parametrize(
    "args",
    [
        {"response_requested": "ack"},
        {"response_requested": "status"},
        {"start_time": 0},
        {"stop_time": 9},
        {"duration": 0},
        {"slpf": {}},
        {"x-a": {"b": 1}},
        {"comment": "x"},
        {"response_requested": "complete", "start_time": 1},
    ],
)
def test_any_other_argument_is_refused(args):
    with pytest.raises(BadRequest):
        answer([], **args)


@pytest.mark.req("LANG-53", "LANG-58", "AMB-20")
@pytest.mark.parametrize("wanted", ["complete", "none"])
def test_complete_and_none_are_tolerated(wanted):
    assert answer(["versions"], response_requested=wanted) == answer(["versions"])


def test_only_query_features_is_query_features():
    assert is_query_features(query([]))
    assert not is_query_features(query([], action="deny"))
    assert not is_query_features(
        parse_command({"action": "query", "target": {"x-a:features": []}}, Encoding.JSON)
    )
