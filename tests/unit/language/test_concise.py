"""Concise CBOR: every type of part 6 by hand, to the last byte."""

from __future__ import annotations

import cbor2
import pytest

from oc2d.language.codec import Encoding, encode
from oc2d.language.command import command_tree, fingerprint, parse_command
from oc2d.language.message import Headers, wrap_request, wrap_response
from oc2d.language.response import OpenC2Response, Results, parse_response, response_tree
from oc2d.language.vocabulary import Action, StatusCode
from tests.unit.language.concise import ACTIONS, NET4, message, parsed, received

NET6 = [b"\x20\x01\x0d\xb8" + b"\0" * 12, 32]
MD5, SHA1, SHA256 = b"\1" * 16, b"\2" * 20, b"\3" * 32


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
