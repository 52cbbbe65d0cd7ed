"""Concise CBOR: every type of part 6 by hand, the same meaning in all forms, what is refused."""

from __future__ import annotations

import ipaddress
import struct
import time
from enum import Enum
from typing import get_args

import cbor2
import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from oc2d.errors import BadRequest, NotSupported, Refusal
from oc2d.language.codec import Encoding, InputLimits, decode, encode, recognise
from oc2d.language.command import command_tree, fingerprint, parse_command
from oc2d.language.ids import SLPF, Names, ProfileIds, message_names
from oc2d.language.message import Headers, open_envelope, salvage, wrap_request, wrap_response
from oc2d.language.response import OpenC2Response, Results, parse_response, response_tree
from oc2d.language.targets import TARGET_TYPES
from oc2d.language.vocabulary import Action, Feature, L4Protocol, ResponseType, StatusCode

LIMITS = InputLimits()
NET4 = [b"\x0a\0\0\0", 8]
NET6 = [b"\x20\x01\x0d\xb8" + b"\0" * 12, 32]
MD5, SHA1, SHA256 = b"\1" * 16, b"\2" * 20, b"\3" * 32


def message(command, headers=None):
    return [headers, {1: {1: command}}]


def received(payload, names=None):
    more = () if names is None else (names,)
    return open_envelope(decode(payload, Encoding.CONCISE, LIMITS, *more))


def parsed(command):
    content = received(cbor2.dumps(message(command))).content
    return parse_command(content, Encoding.CONCISE)


def from_json(tree):
    return parse_command(tree, Encoding.JSON)


# the target in JSON, and as JADN has it
TARGETS = [
    ({"artifact": {"mime_type": "text/plain"}}, {1: ["text/plain"]}),
    ({"artifact": {"payload": {"bin": "AAH_"}}}, {1: [None, {1: b"\0\1\xff"}]}),
    ({"artifact": {"payload": {"url": "a:b"}}}, {1: [None, {2: "a:b"}]}),
    ({"artifact": {"hashes": {"md5": MD5.hex()}}}, {1: [None, None, {1: MD5}]}),
    (
        {
            "artifact": {
                "mime_type": "a/b",
                "payload": {"bin": "_w"},
                "hashes": {"sha1": SHA1.hex()},
            }
        },
        {1: ["a/b", {1: b"\xff"}, {2: SHA1}]},
    ),
    ({"command": "c-1"}, {2: "c-1"}),
    (
        {"device": {"hostname": "a", "idn_hostname": "ü", "device_id": "x"}},
        {3: {1: "a", 2: "ü", 3: "x"}},
    ),
    ({"domain_name": "a.example"}, {7: "a.example"}),
    ({"email_addr": "a@b.example"}, {8: "a@b.example"}),
    ({"features": []}, {9: []}),
    (
        {"features": ["versions", "profiles", "pairs", "rate_limit"]},
        {9: [1, 2, 3, 4]},
    ),
    ({"file": {"name": "a", "path": "/b"}}, {10: {1: "a", 2: "/b"}}),
    (
        {"file": {"hashes": {"md5": MD5.hex(), "sha1": SHA1.hex(), "sha256": SHA256.hex()}}},
        {10: {3: {1: MD5, 2: SHA1, 3: SHA256}}},
    ),
    ({"idn_domain_name": "ü.example"}, {11: "ü.example"}),
    ({"idn_email_addr": "ü@b.example"}, {12: "ü@b.example"}),
    ({"ipv4_net": "10.0.0.0/8"}, {13: NET4}),
    ({"ipv4_net": "10.0.0.1"}, {13: [b"\x0a\0\0\1", 32]}),
    ({"ipv6_net": "2001:db8::/32"}, {14: NET6}),
    (
        {
            "ipv4_connection": {
                "src_addr": "10.0.0.0/8",
                "src_port": 1,
                "dst_addr": "10.0.0.0/8",
                "dst_port": 80,
                "protocol": "tcp",
            }
        },
        {15: [NET4, 1, NET4, 80, 6]},
    ),
    ({"ipv4_connection": {"dst_port": 80}}, {15: [None, None, None, 80]}),
    ({"ipv4_connection": {"protocol": "icmp"}}, {15: [None, None, None, None, 1]}),
    ({"ipv4_connection": {"protocol": "udp"}}, {15: [None, None, None, None, 17]}),
    ({"ipv6_connection": {"dst_addr": "2001:db8::/32"}}, {16: [None, None, NET6]}),
    (
        {"ipv6_connection": {"src_port": 0, "protocol": "sctp"}},
        {16: [None, 0, None, None, 132]},
    ),
    ({"mac_addr": "8c:85:90:72:31:af"}, {17: b"\x8c\x85\x90\x72\x31\xaf"}),
    (
        {
            "process": {
                "pid": 1,
                "name": "n",
                "cwd": "/",
                "executable": {"name": "f", "hashes": {"sha256": SHA256.hex()}},
                "parent": {"pid": 2, "parent": {"executable": {"path": "p"}}},
                "command_line": "c",
            }
        },
        {
            18: {
                1: 1,
                2: "n",
                3: "/",
                4: {1: "f", 3: {3: SHA256}},
                5: {1: 2, 5: {4: {2: "p"}}},
                6: "c",
            }
        },
    ),
    ({"uri": "a:b"}, {19: "a:b"}),
    ({"iri": "a:ü"}, {20: "a:ü"}),
    ({"properties": ["a", "features"]}, {25: ["a", "features"]}),
    ({"slpf:rule_number": 42}, {1024: 42}),
    ({"x-door:lock": {"features": [1, "deny"]}}, {"x-door:lock": {"features": [1, "deny"]}}),
]
# the members beside action and target, and the rest of the array
REST = [
    ({}, []),
    ({"args": {"start_time": 1, "duration": 2}}, [{1: 1, 3: 2}]),
    ({"args": {"stop_time": 5}}, [{2: 5}]),
    ({"args": {"response_requested": "none"}}, [{4: 0}]),
    ({"args": {"response_requested": "ack"}}, [{4: 1}]),
    ({"args": {"response_requested": "status"}}, [{4: 2}]),
    ({"args": {"response_requested": "complete"}}, [{4: 3}]),
    (
        {
            "args": {
                "slpf": {
                    "drop_process": "false_ack",
                    "persistent": False,
                    "direction": "ingress",
                    "insert_rule": 1024,
                }
            }
        },
        [{1024: {1024: 3, 1025: False, 1026: 2, 1027: 1024}}],
    ),
    (
        {"args": {"slpf": {"drop_process": "none", "direction": "both"}}},
        [{1024: {1024: 1, 1026: 1}}],
    ),
    (
        {"args": {"slpf": {"drop_process": "reject", "direction": "egress"}}},
        [{1024: {1024: 2, 1026: 3}}],
    ),
    ({"args": {"x-door": {"deny": 1}, "duration": 1}}, [{"x-door": {"deny": 1}, 3: 1}]),
    ({"actuator": {"slpf": {}}}, [None, {1024: {}}]),
    (
        {
            "actuator": {
                "slpf": {
                    "hostname": "h",
                    "named_group": "g",
                    "asset_id": "30",
                    "asset_tuple": ["a", "b"],
                }
            }
        },
        [None, {1024: {1: "h", 2: "g", 3: "30", 4: ["a", "b"]}}],
    ),
    ({"actuator": {"x-door": {"hostname": "h"}}}, [None, {"x-door": {"hostname": "h"}}]),
    ({"command_id": "c"}, [None, None, "c"]),
    (
        {"args": {"duration": 1}, "actuator": {"slpf": {}}, "command_id": "c"},
        [{3: 1}, {1024: {}}, "c"],
    ),
]
ACTIONS = {
    1: "scan",
    2: "locate",
    3: "query",
    6: "deny",
    7: "contain",
    8: "allow",
    9: "start",
    10: "stop",
    11: "restart",
    14: "cancel",
    15: "set",
    16: "update",
    18: "redirect",
    19: "create",
    20: "delete",
    22: "detonate",
    23: "restore",
    28: "copy",
    30: "investigate",
    32: "remediate",
}


@pytest.mark.req("AMB-52", "LANG-78", "LANG-79", "LANG-80", "LANG-65")
@pytest.mark.parametrize(("json", "concise"), TARGETS)
def test_every_target_is_written_and_read_by_its_ids(json, concise):
    command = from_json({"action": "deny", "target": json})
    tree = wrap_request(command_tree(command, Encoding.CONCISE), Headers())
    assert cbor2.loads(encode(tree, Encoding.CONCISE)) == message([6, concise])
    assert parsed([6, concise]) == command


@pytest.mark.req("AMB-52", "LANG-78", "LANG-79", "LANG-84", "LANG-85", "LANG-86")
@pytest.mark.parametrize(("json", "concise"), REST)
def test_arguments_actuators_and_command_ids_are_written_and_read_by_their_ids(json, concise):
    command = from_json({"action": "query", "target": {"features": []}, **json})
    tree = wrap_request(command_tree(command, Encoding.CONCISE), Headers())
    assert cbor2.loads(encode(tree, Encoding.CONCISE)) == message([3, {9: []}, *concise])
    again = parsed([3, {9: []}, *concise])
    assert again == command
    assert fingerprint(None, again) == fingerprint(None, command)


@pytest.mark.req("AMB-52", "LANG-78", "LANG-12")
@pytest.mark.parametrize(("number", "name"), ACTIONS.items())
def test_every_action_has_its_id(number, name):
    command = from_json({"action": name, "target": {"command": ""}})
    tree = wrap_request(command_tree(command, Encoding.CONCISE), Headers())
    assert cbor2.loads(encode(tree, Encoding.CONCISE)) == message([number, {2: ""}])
    assert parsed([number, {2: ""}]).action.value == name


HEADERS = [
    (Headers(), None),
    (Headers("r", 5, "soc", ("zulu", "all")), {1: "r", 2: 5, 3: "soc", 4: ["zulu", "all"]}),
    (Headers(sender="soc"), {3: "soc"}),
]


@pytest.mark.req("AMB-52", "MQTT-35", "MQTT-42", "MQTT-43")
@pytest.mark.parametrize(("headers", "concise"), HEADERS)
def test_headers_are_a_map_in_an_array(headers, concise):
    tree = wrap_request({"action": "query", "target": {"features": []}}, headers)
    payload = encode(tree, Encoding.CONCISE)
    assert payload[0] == 0x82
    assert cbor2.loads(payload) == message([3, {9: []}], concise)
    assert received(payload).headers == headers
    signed = encode({**tree, "signature": "s"}, Encoding.CONCISE)
    assert signed[0] == 0x83
    assert cbor2.loads(signed) == [*message([3, {9: []}], concise), "s"]
    assert received(signed).signature == "s"


RESPONSES = [
    (OpenC2Response(StatusCode.OK), {1: 200}),
    (OpenC2Response(StatusCode.NOT_IMPLEMENTED, "deny"), {1: 501, 2: "deny"}),
    (
        OpenC2Response(
            StatusCode.OK,
            results=Results(
                versions=("1.0",),
                profiles=("slpf", "x-door"),
                pairs={
                    Action.QUERY: ("features",),
                    Action.DENY: ("ipv4_net", "x-door:lock"),
                    Action.DELETE: ("slpf:rule_number",),
                },
                rate_limit=60,
            ),
        ),
        {
            1: 200,
            3: {
                1: ["1.0"],
                2: ["slpf", "x-door"],
                3: {3: [9], 6: [13, "x-door:lock"], 20: [1024]},
                4: 60.0,
            },
        },
    ),
    (
        OpenC2Response(
            StatusCode.PROCESSING,
            results=Results(extensions={"slpf": {"rule_number": 7}, "x-door": {"status": 1}}),
        ),
        {1: 102, 3: {1024: {1024: 7}, "x-door": {"status": 1}}},
    ),
]


@pytest.mark.req("AMB-52", "LANG-38", "LANG-40", "LANG-78", "LANG-79", "LANG-87")
@pytest.mark.parametrize(("response", "concise"), RESPONSES)
def test_responses_are_written_and_read_by_their_ids(response, concise):
    tree = response_tree(response, Encoding.CONCISE)
    payload = encode(wrap_response(tree, Headers(sender="zulu")), Encoding.CONCISE)
    assert cbor2.loads(payload) == [{3: "zulu"}, {1: {2: concise}}]
    content = received(payload).content
    assert encode(content, Encoding.JSON) == encode(tree, Encoding.JSON)
    assert parse_response(content).warnings == ()


@pytest.mark.req("AMB-52", "MQTT-35")
def test_these_are_the_very_bytes():
    deny = {
        "action": "deny",
        "target": {"ipv4_connection": {"dst_addr": "198.51.100.0/24", "protocol": "tcp"}},
        "args": {"response_requested": "ack", "slpf": {"direction": "ingress"}},
        "actuator": {"slpf": {"asset_id": "30"}},
    }
    command = command_tree(from_json(deny), Encoding.CONCISE)
    payload = encode(wrap_request(command, Headers("r", 1, "soc")), Encoding.CONCISE)
    assert payload.hex(" ") == (
        "82"  # [
        " a3 01 61 72 02 01 03 63 73 6f 63"  # {1: "r", 2: 1, 3: "soc"},
        " a1 01 a1 01"  # {1: {1:
        " 84 06 a1 0f"  # [6, {15:
        " 85 f6 f6 82 44 c6 33 64 00 18 18 f6 06"  # [null, null, [h'c6336400', 24], null, 6]},
        " a2 04 01 19 04 00 a1 19 04 02 02"  # {4: 1, 1024: {1026: 2}},
        " a1 19 04 00 a1 03 62 33 30"  # {1024: {3: "30"}}]}}]
    )
    limit = wrap_response({"status": 200, "results": {"rate_limit": 60}}, Headers())
    assert encode(limit, Encoding.CONCISE).hex(" ") == (
        "82 f6 a1 01 a1 02 a2 01 18 c8 03 a1 04 fb 40 4e 00 00 00 00 00 00"
    )


def fields_of(type_):
    """Give the structure that a type holds, if any, and its members in their order."""
    for candidate in (type_, *get_args(type_)):
        if isinstance(candidate, type) and issubclass(candidate, msgspec.Struct):
            return {f.encode_name: f.type for f in msgspec.structs.fields(candidate)}
    return {}


def assert_same(names: Names, type_, seen=()):
    members = fields_of(type_)
    assert list(names.ids) == list(members)
    assert list(names.ids.values()) == list(range(1, len(members) + 1))
    assert names.inner.keys() <= names.ids.keys()
    for name, member in members.items():
        if fields_of(member):
            if member not in seen:
                assert_same(names.inner[name], member, (*seen, member))
        elif L4Protocol in (member, *get_args(member)):
            assert names.inner[name].ids == {p.value: p.number for p in L4Protocol}
        else:
            assert name not in names.inner


@pytest.mark.req("AMB-52", "LANG-79")
def test_the_table_has_every_name_of_the_language():
    content = message_names({}).inner["body"].inner["openc2"]
    command, response = content.inner["request"], content.inner["response"]
    assert {own: name for name, own in command.inner["action"].ids.items()} == ACTIONS
    assert set(ACTIONS.values()) == {action.value for action in Action}
    target = command.inner["target"]
    assert target.ids.keys() == TARGET_TYPES.keys()
    for name, type_ in TARGET_TYPES.items():
        if fields_of(type_):
            assert_same(target.inner[name], type_)
        elif name != "features":
            assert name not in target.inner
    assert target.inner["features"].ids == {f.value: n for n, f in enumerate(Feature, 1)}
    kinds = command.inner["args"].inner["response_requested"].ids
    assert kinds == {kind.value: number for number, kind in enumerate(ResponseType)}
    assert list(response.inner["results"].ids) == [feature.value for feature in Feature]


@pytest.mark.req("AMB-52", "SLPF-16", "SLPF-25")
def test_the_table_of_slpf_has_the_names_of_the_plugin():
    from oc2d_slpf.profile import Slpf  # noqa: PLC0415 - only if the plugin is there

    assert Slpf.ids is SLPF
    assert SLPF.targets.ids.keys() == Slpf.targets.keys()
    for names, type_ in (
        (SLPF.args, Slpf.args_type),
        (SLPF.specifiers, Slpf.specifiers_type),
        (SLPF.results, Slpf.results_type),
    ):
        assert list(names.ids) == list(fields_of(type_))
        for name, member in fields_of(type_).items():
            kind = next((k for k in (member, *get_args(member)) if isinstance(k, type)), None)
            if kind is not None and issubclass(kind, Enum):
                assert set(names.inner[name].ids) == {value.value for value in kind}


# what is wrong, and where; None for what no wrapper can be found in
REFUSED = [
    (message([99, {9: []}]), "$.body.openc2.request.action"),
    (message([True, {9: []}]), "$.body.openc2.request.action"),
    (message([6.0, {9: []}]), "$.body.openc2.request.action"),
    (message([[6], {9: []}]), "$.body.openc2.request.action"),
    (message([None, {9: []}]), "$.body.openc2.request"),
    (message([6]), "$.body.openc2.request"),
    (message([]), "$.body.openc2.request"),
    (message(6), "$.body.openc2.request"),
    (message(None), "$.body.openc2.request"),
    (message([6, {9: []}, None, None, None, 1]), "$.body.openc2.request"),
    (message([6, {99: []}]), "$.body.openc2.request.target"),
    (message([6, {9: [], 13: NET4}]), "$.body.openc2.request.target"),
    (message([6, {}]), "$.body.openc2.request.target"),
    (message([6, []]), "$.body.openc2.request.target"),
    (message([6, 13]), "$.body.openc2.request.target"),
    (message([6, {9: [5]}]), "$.body.openc2.request.target.features"),
    (message([6, {9: 1}]), "$.body.openc2.request.target.features"),
    (message([6, {13: [b"\1\2\3", 8]}]), "$.body.openc2.request.target.ipv4_net"),
    (message([6, {13: [b"\1\2\3\4", 33]}]), "$.body.openc2.request.target.ipv4_net"),
    (message([6, {15: []}]), "$.body.openc2.request.target.ipv4_connection"),
    (message([6, {15: {9: 1}}]), "$.body.openc2.request.target.ipv4_connection"),
    (message([6, {15: [None] * 5 + [1]}]), "$.body.openc2.request.target.ipv4_connection"),
    (message([6, {15: [None, True]}]), "$.body.openc2.request.target.ipv4_connection.src_port"),
    (message([6, {10: ["name"]}]), "$.body.openc2.request.target.file"),
    (message([6, {10: {3: {1: b"\1"}}}]), "$.body.openc2.request.target.file.hashes.md5"),
    (message([6, {10: {4: "x"}}]), "$.body.openc2.request.target.file"),
    (message([6, {1: [None, {1: b"", 2: "a:b"}]}]), "$.body.openc2.request.target.artifact"),
    (message([6, {9: []}, {}]), "$.body.openc2.request.args"),
    (message([6, {9: []}, []]), "$.body.openc2.request.args"),
    (message([6, {9: []}, {4: 4}]), "$.body.openc2.request.args.response_requested"),
    (message([6, {9: []}, {1: 1, 2: 2, 3: 1}]), "$.body.openc2.request.args"),
    (message([6, {9: []}, {1: "1"}]), "$.body.openc2.request.args.start_time"),
    (message([6, {9: []}, {1024: []}]), "$.body.openc2.request.args.slpf"),
    (message([6, {9: []}, None, {}]), "$.body.openc2.request.actuator"),
    (message([6, {9: []}, None, {1024: 1}]), "$.body.openc2.request.actuator"),
    (message([6, {9: []}, None, 1024]), "$.body.openc2.request.actuator"),
    (message([6, {9: []}, None, None, 5]), "$.body.openc2.request.command_id"),
    ([], "$"),
    ([None], "$"),
    ([{1: "r"}, None], "$"),
    ([None, []], "$.body"),
    ([None, {2: {}}], "$.body"),
    ([None, {1: {4: []}}], "$.body.openc2"),
    ([None, {1: {}}], "$.body.openc2"),
    ([[], {1: {1: []}}], "$.headers"),
    ([{1: 5}, {1: {1: []}}], "$.headers.request_id"),
    ([None, {1: {1: []}}, 5], "$.signature"),
]


@pytest.mark.req("AMB-52", "LANG-17", "LANG-18", "LANG-79", "LANG-44")
@pytest.mark.parametrize(("concise", "path"), REFUSED)
def test_wrong_ids_and_shapes_are_refused_with_their_place_by_name(concise, path):
    payload = cbor2.dumps(concise)
    with pytest.raises(BadRequest) as caught:
        parse_command(received(payload).content, Encoding.CONCISE)
    assert caught.value.path.startswith(path)
    salvage(decode(payload, Encoding.CONCISE, LIMITS))


@pytest.mark.req("AMB-8", "AMB-52")
@pytest.mark.parametrize(
    "concise",
    [
        [6, {13: NET4}, {4: 0, 1024: {1026: 2}}],
        ["deny", {"ipv4_net": "10.0.0.0/8"}, {4: "none", 1024: {1026: "ingress"}}],
    ],
)
def test_a_bare_command_is_told_by_its_action(concise):
    tree = decode(cbor2.dumps(concise), Encoding.CONCISE, LIMITS)
    envelope = open_envelope(tree, bare_command=True)
    command = parse_command(envelope.content, Encoding.CONCISE)
    assert (command.action, command.target.name) == (Action.DENY, "ipv4_net")
    assert command.args.profiles == {"slpf": {"direction": "ingress"}}
    with pytest.raises(BadRequest, match="missing body"):
        open_envelope(tree)
    assert salvage(tree).silent


@pytest.mark.req("AMB-52", "AMB-33")
def test_a_protocol_that_is_none_of_the_four_is_not_supported():
    with pytest.raises(NotSupported, match="47"):
        parsed([6, {15: [None, None, None, None, 47]}])
    with pytest.raises(BadRequest):
        parsed([6, {15: [None, 65536, None, None, 47]}])


@pytest.mark.req("AMB-52", "LANG-4", "AMB-17")
def test_a_broken_command_still_tells_whom_to_answer():
    tree = decode(
        cbor2.dumps([{1: "r", 3: "soc", 4: ["zulu"]}, {1: {1: [99, {}, {4: 0}]}, 9: 9}]),
        Encoding.CONCISE,
        LIMITS,
    )
    left = salvage(tree)
    assert (left.request_id, left.sender, left.to) == ("r", "soc", ("zulu",))
    assert left.silent
    assert left.is_request
    assert not salvage(
        decode(cbor2.dumps([None, {1: {2: 1}}]), Encoding.CONCISE, LIMITS)
    ).is_request


@pytest.mark.req("AMB-52", "LANG-36", "AMB-22")
def test_ids_that_nobody_here_knows_are_not_an_error_of_the_payload():
    command = parsed([6, {9: []}, {3: 1, 1034: {1: 2}}, {1034: {5: [{6: 7}]}}])
    assert command.args.unknown == ("1034",)
    assert (command.actuator.nsid, command.actuator.specifiers) == ("1034", {"5": [{"6": 7}]})
    # beside the headers' own and the message's own, unknown members are ignored
    assert received(cbor2.dumps([{1: "r", 9: 1}, {1: {1: 0}}, "s", 4])).headers == Headers("r")


@pytest.mark.req("AMB-52")
def test_names_are_taken_where_ids_and_positions_belong():
    named = {"action": 6, "target": {"ipv4_net": "10.0.0.0/8"}, 3: {"response_requested": "ack"}}
    assert parsed(named) == parsed([6, {13: NET4}, {4: 1}])
    assert parsed(["deny", {"ipv4_net": NET4}, {4: "ack"}]) == parsed(named)


def with_key(key: bytes) -> bytes:
    """Write a message of which one key is these bytes."""
    return b"\x82\xa1" + key + b"\x61\x72" + cbor2.dumps({1: {1: [3, {9: []}]}})


@pytest.mark.req("AMB-52", "LANG-75")
@pytest.mark.parametrize(
    "key",
    ["f4", "f6", "f90001", "fb3ff0000000000000", "20", "4101", "80", "a0", "1a00000001", "c101"],
)
def test_keys_are_ids_or_text(key):
    assert received(with_key(b"\x01")).headers == Headers("r")
    assert received(with_key(b"\x18\x01")).headers == Headers("r")
    with pytest.raises(BadRequest, match="key"):
        received(with_key(bytes.fromhex(key)))
    # wherever a map stands
    for before in (
        "",
        "1818 190001 1a00000001 1b0000000000000001 20",
        "4101 5801ff 590001ff 5f41004100ff",
        "6161 780161 7f61616161ff",
        "80 8101 9801f6 9fff 9f0102ff",
        "a0 a10101 b80101a0 bfff bf010202a10101ff",
        "f5 f6 f93c00 fa00000000 fb0000000000000000",
    ):
        for outer in ("82", "9f", "82a101", "82bf18199f"):
            with pytest.raises(BadRequest, match="key"):
                received(bytes.fromhex(outer + "9f" + before + "bf" + key + "00ffffff"))


@pytest.mark.req("AMB-52", "LANG-75")
@pytest.mark.parametrize(
    "payload",
    [
        "82a20161610161 62",
        "82a201616118016162",
        "82a2016161 6a726571756573745f6964 6162",
        "82bf01010102ffa0",
    ],
)
def test_a_member_named_twice_is_refused(payload):
    with pytest.raises(BadRequest, match=r"wice|uplicate"):
        received(bytes.fromhex(payload) + cbor2.dumps({1: {1: [3, {9: []}]}}))


@pytest.mark.req("AMB-52")
def test_indefinite_lengths_are_read():
    payload = bytes.fromhex("9f bf 01 7f 6172 6173 ff ff bf01bf01 9f03bf099fffffff ffff ff")
    envelope = received(payload)
    assert envelope.headers.request_id == "rs"
    assert envelope.content == {"action": "query", "target": {"features": []}}


@pytest.mark.req("LANG-77", "LANG-44")
def test_the_limits_are_those_of_the_other_forms():
    command = [3, {"x-a:b": None}]
    deep = None
    for _ in range(26):
        deep = [deep]
    assert received(cbor2.dumps(message([3, {"x-a:b": deep}])))
    with pytest.raises(BadRequest):
        received(cbor2.dumps(message([3, {"x-a:b": [[deep]]}])))
    payload = cbor2.dumps(message(command))
    decode(payload, Encoding.CONCISE, InputLimits(items=7))
    for limits in (InputLimits(items=6), InputLimits(payload=len(payload) - 1)):
        with pytest.raises(BadRequest, match="more than"):
            decode(payload, Encoding.CONCISE, limits)
    with pytest.raises(BadRequest, match="items"):
        decode(b"\x99\x01\x00" + b"\0" * 256, Encoding.CONCISE, InputLimits(items=10))


def colliding_pairs(count):
    """Find pairs of integers that have one hash as Python's tuples, which no seed changes."""
    one, two, five = 0x9E3779B185EBCA87, 0xC2B2AE3D27D4EB4F, 0x27D4EB2F165667C5
    inverse, mask, first, found = pow(two, -1, 2**64), 2**64 - 1, 0, []
    while len(found) < count:
        first += 1
        mixed = (five + first * two) & mask
        mixed = ((mixed << 31 | mixed >> 33) & mask) * one
        second = -mixed * inverse & mask
        if second < 2**61 - 1:
            found.append([first, second])
    assert len({hash(tuple(pair)) for pair in found}) == 1
    return found


def hostile():
    """Maps whose keys all have one hash, and other ways to waste time."""
    floats = b"".join(b"\xfb" + struct.pack(">d", 2.0**n) + b"\0" for n in range(-1000, 1000))
    yield b"\x82\xb9\x07\xd0" + floats
    colliding = b"".join(cbor2.dumps(key) + b"\0" for key in colliding_pairs(15_000))
    yield b"\x82\xbf" + colliding
    yield b"\x82\xbf" + b"".join(b"\x1b" + struct.pack(">Q", n << 44) + b"\0" for n in range(20000))
    yield b"\x82\xbf" + b"".join(b"\x19" + struct.pack(">H", n) + b"\0" for n in range(60000))
    yield b"\x81" * 200_000
    yield b"\x9f" * 200_000
    yield b"\xbf\x00" * 100_000
    yield b"\x82\xbf\x00" + b"\x7f" + b"\x60" * 200_000
    yield b"\x82" + b"\xc1" * 200_000
    yield b"\x82\xbb" + b"\xff" * 8
    yield b"\x82\x5b" + b"\xff" * 8
    yield b"\x82\x1f" * 50_000
    yield b"\x82" + b"\xff" * 100_000


@pytest.mark.req("LANG-44", "LANG-77")
@pytest.mark.parametrize("payload", list(hostile()), ids=lambda payload: payload[:6].hex())
def test_hostile_messages_cost_little(payload):
    started = time.process_time()
    with pytest.raises(BadRequest):
        received(payload)
    assert time.process_time() - started < 1


#: A busy machine is no failure.
patient = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
ids = st.sampled_from([0, 1, 2, 3, 4, 5, 6, 9, 13, 15, 18, 25, 1024, 1025, 1026, 1027, 99])
values = st.one_of(
    ids,
    st.none(),
    st.booleans(),
    st.integers(-(2**53), 2**53),
    st.floats(allow_nan=False),
    st.binary(max_size=17),
    st.text(max_size=6),
    st.sampled_from(["deny", "ipv4_net", "action", "request_id", "1", "99"]),
    st.ip_addresses().map(lambda a: [a.packed, a.max_prefixlen]),
)
almost = st.recursive(
    values,
    lambda inner: (
        st.lists(inner, max_size=5) | st.dictionaries(ids | st.text(max_size=3), inner, max_size=4)
    ),
    max_leaves=20,
)


@pytest.mark.req("AMB-52", "AMB-30")
def test_a_record_with_a_member_that_has_no_place_stays_a_map():
    tree = {"action": "query", "target": {"features": []}, "profile": {"slpf": {}}}
    payload = encode(wrap_request(tree, Headers()), Encoding.CONCISE)
    assert cbor2.loads(payload) == message({1: 3, 2: {9: []}, "profile": {"slpf": {}}})
    assert received(payload).content == tree


@pytest.mark.req("LANG-44")
@patient
@given(almost)
def test_whatever_a_plugin_answers_can_be_written(tree):
    assert encode(tree, Encoding.CONCISE)
    results = {"results": {"rate_limit": tree, "slpf": tree, "pairs": tree}}
    assert encode(wrap_response(results, Headers()), Encoding.CONCISE)


DOOR = ProfileIds(
    targets=Names({"lock": 13, "key": 1025, "hinge": 1024}, {"key": Names({"colour": 1})}),
    args=Names({"speed": 1}, {"speed": Names({"slow": 1, "quick": 2})}),
    results=Names({"turns": 1}),
)
FAN = ProfileIds(profile=2, args=Names({"speed": 7}))


@pytest.mark.req("AMB-52", "LANG-84", "LANG-85", "LANG-87")
def test_profiles_bring_ids_of_their_own():
    names = message_names({"slpf": SLPF, "x-door": DOOR, "x-fan": FAN})
    trees = [
        (
            {
                "action": "set",
                "target": {"x-door:key": {"colour": 1}},
                "args": {"x-door": {"speed": "slow"}, "slpf": {"persistent": True}},
            },
            [15, {1025: {1: 1}}, {"x-door": {1: 1}, 1024: {1025: True}}],
        ),
        # 13 is the language's ipv4_net, 1024 the rule_number of slpf: the names stay
        ({"action": "set", "target": {"x-door:lock": "a"}}, [15, {"x-door:lock": "a"}]),
        ({"action": "set", "target": {"x-door:hinge": 1}}, [15, {"x-door:hinge": 1}]),
        # 2 is stop_time among the arguments and nothing among the actuators
        (
            {"action": "set", "target": {"command": ""}, "args": {"x-fan": {"speed": 3}}},
            [15, {2: ""}, {"x-fan": {7: 3}}],
        ),
        (
            {"action": "set", "target": {"command": ""}, "actuator": {"x-fan": {}}},
            [15, {2: ""}, None, {2: {}}],
        ),
    ]
    for tree, concise in trees:
        payload = encode(wrap_request(tree, Headers()), Encoding.CONCISE, names)
        assert cbor2.loads(payload) == message(concise)
        assert received(payload, names).content == tree
    reply = wrap_response({"status": 200, "results": {"x-door": {"turns": 5}}}, Headers())
    payload = encode(reply, Encoding.CONCISE, names)
    assert cbor2.loads(payload) == [None, {1: {2: {1: 200, 3: {"x-door": {1: 5}}}}}]
    assert decode(payload, Encoding.CONCISE, LIMITS, names) == {"body": reply["body"]}


def go_all_the_way(payload):
    """Do to a payload what the engine does; only a refusal may come out."""
    recognise("cbor", payload)
    try:
        tree = decode(payload, Encoding.CONCISE, LIMITS)
    except Refusal:
        return
    left = salvage(tree)
    encode(
        wrap_response({"status": 400}, Headers(left.request_id, 1, left.sender)), Encoding.CONCISE
    )
    fingerprint(tree, None)
    try:
        envelope = open_envelope(tree)
        command = parse_command(envelope.content, Encoding.CONCISE)
    except Refusal:
        return
    again = encode(
        wrap_request(command_tree(command, Encoding.CONCISE), envelope.headers), Encoding.CONCISE
    )
    back = parse_command(received(again).content, Encoding.CONCISE)
    digest = fingerprint(envelope.content, command)
    if not (command.args and command.args.unknown):
        assert fingerprint(None, back) == digest
    json = command_tree(command, Encoding.JSON)
    if not (command.args and command.args.unknown):
        assert fingerprint(json, parse_command(json, Encoding.JSON)) == digest


@pytest.mark.req("LANG-44")
@patient
@given(st.binary(max_size=200))
def test_arbitrary_bytes_are_never_worse_than_refused(rest):
    go_all_the_way(b"\x82" + rest)
    go_all_the_way(b"\x82\xf6\xa1\x01\xa1\x01" + rest)


@pytest.mark.req("LANG-44")
@patient
@given(almost, almost, almost, almost)
def test_arbitrary_shapes_are_never_worse_than_refused(one, two, three, four):
    go_all_the_way(cbor2.dumps([one, two]))
    go_all_the_way(cbor2.dumps([one, {1: {1: [two, three, four]}}]))
    go_all_the_way(cbor2.dumps([{1: "r"}, {1: {1: [6, {15: one}, two, {1024: three}]}}]))
    go_all_the_way(cbor2.dumps([{1: "r"}, {1: {1: [6, {13: NET4}, {1024: three}]}}]))


@pytest.mark.req("LANG-44", "AMB-31")
@patient
@given(st.ip_addresses(v=4), st.integers(0, 32), st.sampled_from(range(24)), st.integers(0, 255))
def test_damaged_messages_are_never_worse_than_refused(address, prefix, place, octet):
    payload = bytearray(cbor2.dumps(message([6, {13: [address.packed, prefix]}])))
    network = ipaddress.ip_network((address, prefix), strict=False)
    assert parsed([6, {13: [address.packed, prefix]}]).target.value.network == network
    payload[place % len(payload)] = octet
    go_all_the_way(bytes(payload))
