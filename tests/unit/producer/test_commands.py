"""From the command line to the command, without a broker."""

from __future__ import annotations

import json
import re

import cbor2
import pytest

from oc2d.errors import BadRequest, NotSupported, Oc2dError, UsageError
from oc2d.language.codec import Encoding
from oc2d.producer.cli import _command
from oc2d.producer.messages import command_topic, compose, compose_file, compose_raw
from oc2d.producer.options import build_parser
from oc2d.producer.rules import checked
from oc2d.producer.words import duration_ms, time_ms

COMPLETE = {"response_requested": "complete"}
DENY = {"action": "deny", "target": {"ipv4_net": "203.0.113.0/24"}}


def built(line: str | list[str], encoding: Encoding = Encoding.JSON) -> dict:
    words = line.split() if isinstance(line, str) else line
    return checked(_command(build_parser().parse_args([*words, "--all"])), encoding)


@pytest.mark.parametrize(
    ("line", "action", "target", "args"),
    [
        ("query features", "query", {"features": []}, {}),
        ("query features pairs", "query", {"features": ["pairs"]}, {}),
        ("deny ipv4_net 203.0.113.0/24", "deny", {"ipv4_net": "203.0.113.0/24"}, {}),
        ("allow ipv6_net 2001:DB8::/32", "allow", {"ipv6_net": "2001:db8::/32"}, {}),
        (
            "allow ipv4_connection protocol=tcp dst_port=22 src_addr=192.0.2.0/24",
            "allow",
            {"ipv4_connection": {"protocol": "tcp", "dst_port": 22, "src_addr": "192.0.2.0/24"}},
            {},
        ),
        (
            "deny ipv6_connection src_port=21 --direction ingress --drop-process reject",
            "deny",
            {"ipv6_connection": {"src_port": 21}},
            {"slpf": {"direction": "ingress", "drop_process": "reject"}},
        ),
        (
            "deny ipv4_net 192.0.2.1 --insert-rule 7 --no-persistent --duration 500ms",
            "deny",
            {"ipv4_net": "192.0.2.1"},
            {"slpf": {"insert_rule": 7, "persistent": False}, "duration": 500},
        ),
        (
            "allow ipv4_net 192.0.2.1 --persistent --start-time 1000 --stop-time 2000",
            "allow",
            {"ipv4_net": "192.0.2.1"},
            {"slpf": {"persistent": True}, "start_time": 1000, "stop_time": 2000},
        ),
        ("delete slpf:rule_number 42", "delete", {"slpf:rule_number": 42}, {}),
        (
            "update file name=rules.nft path=/etc/rules",
            "update",
            {"file": {"name": "rules.nft", "path": "/etc/rules"}},
            {},
        ),
        (
            "command start process name=7 pid=7 parent.pid=1",
            "start",
            {"process": {"name": "7", "pid": 7, "parent": {"pid": 1}}},
            {},
        ),
        ("command scan device device_id=30", "scan", {"device": {"device_id": "30"}}, {}),
        ("command deny domain_name a.example", "deny", {"domain_name": "a.example"}, {}),
        ("command set properties a b", "set", {"properties": ["a", "b"]}, {}),
        (
            'command start x-door:lock door=3 side=left --arg x-door.speed=3 --arg x-door.id:="3"',
            "start",
            {"x-door:lock": {"door": 3, "side": "left"}},
            {"x-door": {"speed": 3, "id": "3"}},
        ),
        ("command start x-door:lock front", "start", {"x-door:lock": "front"}, {}),
        (
            'command deny ipv4_connection {"dst_port":22}',
            "deny",
            {"ipv4_connection": {"dst_port": 22}},
            {},
        ),
        (
            "deny ipv4_net 1.2.3.4 --arg pf.stateful=true",
            "deny",
            {"ipv4_net": "1.2.3.4"},
            {"pf": {"stateful": True}},
        ),
    ],
)
@pytest.mark.req(
    "SLPF-1", "SLPF-26", "SLPF-27", "SLPF-28", "SLPF-60", "AMB-26", "LANG-46", "LANG-58", "LANG-82",
    "LANG-84", "LANG-85", "LANG-86", "LANG-88",
)  # fmt: skip
def test_a_command_line_becomes_the_command_it_says(line, action, target, args) -> None:
    expected = {"action": action, "target": target, "args": {**args, **COMPLETE}}
    assert built(line) == expected


@pytest.mark.req("AMB-30")
def test_the_actuator_has_text_specifiers_and_may_stand_in_the_profile_member() -> None:
    line = "deny ipv4_net 1.2.3.4 --actuator slpf asset_id=30"
    assert built(line)["actuator"] == {"slpf": {"asset_id": "30"}}
    renamed = built(f"{line} --profile-field")
    assert renamed["profile"] == {"slpf": {"asset_id": "30"}}
    assert "actuator" not in renamed
    several = [
        "command",
        "deny",
        "ipv4_net",
        "1.2.3.4",
        "--actuator",
        "slpf",
        'asset_tuple:=["a","b"]',
    ]
    assert built(several)["actuator"] == {"slpf": {"asset_tuple": ["a", "b"]}}


@pytest.mark.req("LANG-57")
def test_no_feature_is_asked_for_twice() -> None:
    line = "query features versions pairs versions"
    assert built(line)["target"] == {"features": ["versions", "pairs"]}


@pytest.mark.req("AMB-52")
def test_in_cbor_an_address_range_is_binary() -> None:
    tree = built("deny ipv4_net 203.0.113.0/24", Encoding.CBOR)
    assert tree["target"] == {"ipv4_net": [bytes([203, 0, 113, 0]), 24]}


@pytest.mark.req("AMB-52", "MQTT-35")
def test_a_request_in_concise_cbor_has_ids() -> None:
    tree = built("deny ipv4_net 203.0.113.0/24 --direction ingress", Encoding.CONCISE)
    made = compose(tree, "t", sender="soc", encoding=Encoding.CONCISE)
    _, body = cbor2.loads(made.payload)
    assert body == {1: {1: [6, {13: [bytes([203, 0, 113, 0]), 24]}, {1024: {1026: 2}, 4: 3}]}}
    for given in (Encoding.CBOR, Encoding.CONCISE):
        raw = compose_raw(made.payload, "t", encoding=given)
        assert (raw.payload, raw.request_id) == (made.payload, made.request_id)


def test_host_bits_are_masked_and_told() -> None:
    told: list[str] = []
    tree = {"action": "deny", "target": {"ipv4_net": "10.1.2.3/8"}}
    assert checked(tree, Encoding.JSON, told.append)["target"] == {"ipv4_net": "10.0.0.0/8"}
    assert "10.1.2.3/8 taken as 10.0.0.0/8" in told[0]


@pytest.mark.parametrize(
    ("line", "error", "says"),
    [
        ("deny ipv4_net 203.0.113.300", BadRequest, "an IPv4 range like"),
        ("deny ipv4_net 2001:db8::/32", BadRequest, "did you mean ipv6_net?"),
        ("deny ipv6_connection src_addr=192.0.2.1", BadRequest, "did you mean ipv4_connection?"),
        ("deny ipv4_connection protocl=tcp", BadRequest, "did you mean protocol?"),
        ("deny ipv4_connection from=192.0.2.1", BadRequest, "it has src_addr, src_port, "),
        ("deny ipv4_connection dst_port=70000", BadRequest, "dst_port"),
        ("deny ipv4_connection dst_port=ssh", BadRequest, "dst_port"),
        ("deny ipv4_connection protocol=gre", NotSupported, "gre"),
        ("deny ipv4_connection tcp", UsageError, "needs|takes|NAME=VALUE"),
        ("deny ipv4_connection dst_port=1 dst_port=2", UsageError, "twice"),
        ("deny ipv4_net 1.2.3.4 5.6.7.8", UsageError, "one value"),
        ("query features colour", BadRequest, "versions, profiles"),
        ("delete slpf:rule_number abc", BadRequest, "rule_number"),
        ("delete slpf:rule_number 0", BadRequest, "rule_number"),
        ("update file path=/x", UsageError, "needs name="),
        ("command deny ipv4_conection dst_port=1", BadRequest, "did you mean 'ipv4_connection'"),
        ("command deny file", UsageError, "name=…, path=…"),
        ("command copy artifact payload.url=nowhere", BadRequest, "URI with a scheme"),
        ("command copy artifact payload.url=http://x/%zz", BadRequest, "URI with a scheme"),
        ("command deny file {", UsageError, "JSON"),
        ("deny ipv4_net 1.2.3.4 --insert-rule 7 --response ack", UsageError, "complete"),
        ("deny ipv4_net 1.2.3.4 --insert-rule 0", BadRequest, "args.slpf.insert_rule"),
        ("command allow ipv4_net 1.2.3.4 --arg slpf.drop_process=none", UsageError, "deny only"),
        ("command deny ipv4_net 1.2.3.4 --arg slpf.direction=up", BadRequest, "direction"),
        ("command deny ipv4_net 1.2.3.4 --arg slpf.logged=true", BadRequest, "logged"),
        ("command deny ipv4_net 1.2.3.4 --arg direction=both", UsageError, "NSID.NAME"),
        ("command deny ipv4_net 1.2.3.4 --actuator slpf asset=1", BadRequest, "asset"),
        (
            "deny ipv4_net 1.2.3.4 --start-time 1 --stop-time 5 --duration 4ms",
            BadRequest,
            "exclude each other",
        ),
        ("deny ipv4_net 1.2.3.4 --start-time 5 --stop-time 1", BadRequest, "before start_time"),
        ("deny ipv4_net 1.2.3.4 --duration 5", UsageError, "30s"),
        ("deny ipv4_net 1.2.3.4 --start-time soon", UsageError, "no time"),
        ("command query x-door:items", UsageError, "not 0; for an empty structure write '{}'"),
        ("command query features --response ack", UsageError, "no argument"),
        ("command query features --duration 5s", UsageError, "no argument"),
        ("command delete slpf:rule_number 4 --response none", UsageError, "no argument"),
        ("command delete slpf:rule_number 4 --start-time 5", UsageError, "no argument"),
        ("command update file name=a path=/b --response status", UsageError, "ack or none"),
    ],
)  # fmt: skip
@pytest.mark.req(
    "LANG-59", "SLPF-26", "SLPF-43", "SLPF-45", "SLPF-46", "SLPF-6", "AMB-36", "AMB-37", "LANG-25",
    "LANG-65", "LANG-70",
)  # fmt: skip
def test_what_must_not_be_sent_is_refused_with_a_reason(line, error, says) -> None:
    with pytest.raises(error) as caught:
        built(line)
    assert re.search(says, str(caught.value)), caught.value


@pytest.mark.req("LANG-12", "LANG-13", "LANG-59", "SLPF-43", "SLPF-46", "MQTT-22")
@pytest.mark.parametrize(
    "line",
    [
        "query features",
        "query features --all --device x",
        "query features --all --response ack",
        "query features --all --duration 5s",
        "delete slpf:rule_number 1 2 --all",
        "delete slpf:rule_number 1 --all --response none",
        "delete ipv4_net 1.2.3.4 --all",
        "update file name=a --all --response status",
        "allow ipv4_net 1.2.3.4 --all --drop-process none",
        "deny 1.2.3.4 --all",
        "deny ipv4_net --all",
        "command block ipv4_net 1.2.3.4 --all",
        "query features --topic=",
        "query features --topic oc2/#",
        "query features --all --timeout 0",
        "query features --all --timeout 1e10",
        "query features --all --expect 0",
        "query features --all --encoding xml",
        "query features --all --broker host:port",
    ],
)
def test_a_command_line_that_does_not_fit_is_a_usage_error(line, capsys) -> None:
    with pytest.raises(SystemExit) as caught:
        build_parser().parse_args(line.split())
    assert caught.value.code == 2
    err = capsys.readouterr().err.splitlines()
    assert err[0].startswith("oc2ctl")
    assert err[1].endswith(" --help)")
    assert len(err) == 2


@pytest.mark.req("MQTT-22", "MQTT-25", "AMB-44")
def test_a_topic_is_one_of_three_kinds_behind_the_namespace() -> None:
    assert command_topic() == "oc2/cmd/all"
    assert command_topic("a/b", profile="slpf") == "a/b/oc2/cmd/ap/slpf"
    assert command_topic("vpf", device="Zulu") == "vpf/oc2/cmd/device/Zulu"
    assert command_topic(profile="iot-front-door-lock") == "oc2/cmd/ap/iot-front-door-lock"
    for bad in ("", "a/b", "+", "#", "a\0"):
        with pytest.raises(UsageError):
            command_topic(device=bad)


@pytest.mark.req("LANG-2", "LANG-3", "LANG-7", "LANG-8", "MQTT-36", "MQTT-42", "MQTT-43")
def test_a_request_names_itself_its_time_and_its_sender() -> None:
    first = compose(DENY, "t", sender="me", to=("fw-7",))
    tree = json.loads(first.payload)
    assert tree["body"] == {"openc2": {"request": DENY}}
    headers = tree["headers"]
    assert re.fullmatch(
        r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}",
        headers["request_id"],
    )
    assert headers["from"] == "me"
    assert headers["to"] == ["fw-7"]
    assert len(str(headers["created"])) == 13
    assert first.request_id == headers["request_id"]
    assert compose(DENY, "t", sender="me").request_id != first.request_id


def from_file(tree: object, to: tuple[str, ...] = ()) -> dict:
    made = compose_file(
        json.dumps(tree).encode(),
        "t",
        sender="me",
        to=to,
        encoding=Encoding.JSON,
        check=lambda command: checked(command, Encoding.JSON),
    )
    assert made.sender == json.loads(made.payload)["headers"]["from"]
    return json.loads(made.payload)


def test_a_bare_command_in_a_file_is_wrapped() -> None:
    assert from_file(DENY)["body"] == {"openc2": {"request": DENY}}


@pytest.mark.req("MQTT-36", "LANG-2", "LANG-7")
def test_a_message_in_a_file_keeps_its_headers_and_gets_the_missing_ones() -> None:
    body = {"openc2": {"request": DENY}}
    headers = from_file({"headers": {"request_id": "uuid_1", "from": "orch"}, "body": body})[
        "headers"
    ]
    assert headers["request_id"] == "uuid_1"
    assert headers["from"] == "orch"
    assert headers["created"] > 10**12
    assert from_file({"body": body}, to=("a",))["headers"]["to"] == ["a"]
    assert (
        from_file({"headers": {"actuator_id": "x"}, "body": body})["headers"]["actuator_id"] == "x"
    )


@pytest.mark.parametrize(
    "tree",
    [
        [],
        {"headers": {"from": "a"}},
        {"headers": {"from": 1}, "body": {"openc2": {"request": DENY}}},
        {"body": {"openc2": {"response": {"status": 200}}}},
        {"body": {"openc2": {"request": {"action": "deny"}}}},
        {"action": "query", "target": {"features": []}, "args": {"duration": 1}},
        {"action": "deny", "target": {"ipv4_net": "1.2.3.4"}, "args": {"color": "red"}},
    ],
)
@pytest.mark.req("LANG-89", "MQTT-35")
def test_a_file_that_is_no_right_request_is_refused(tree) -> None:
    with pytest.raises(Oc2dError):
        from_file(tree)


def test_raw_bytes_stay_as_they_are_and_tell_what_they_can() -> None:
    request = b'{"args":{"response_requested":"ack"}}'
    data = b' {"headers":{"request_id":7},"body":{"openc2":{"request":%s}}}' % request
    made = compose_raw(data, "t", encoding=Encoding.JSON)
    assert made.payload == data
    assert made.request_id == "7"
    assert made.response == "ack"
    broken = compose_raw(b"{", "t", encoding=Encoding.JSON)
    assert (broken.payload, broken.request_id, broken.response) == (b"{", None, None)


@pytest.mark.req("LANG-7", "LANG-19")
def test_times_are_milliseconds() -> None:
    assert time_ms("+1m", 5000) == 65_000
    assert time_ms("1700000000000", 0) == 1_700_000_000_000
    assert time_ms("1970-01-01T00:00:01Z", 0) == 1000
    assert time_ms("1970-01-01T02:00:00.500+01:00", 0) == 3_600_500
    assert [duration_ms(text) for text in ("5ms", "5s", "5m", "5h", "5d")] == [
        5,
        5000,
        300_000,
        18_000_000,
        432_000_000,
    ]


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ("203.0.113.0/24", "say what 203.0.113.0/24 is: ipv4_net 203.0.113.0/24"),
        ("2001:db8::1", "say what 2001:db8::1 is: ipv6_net 2001:db8::1"),
        ("ipv4", "invalid choice: 'ipv4' (choose from"),
    ],
)
def test_a_value_without_its_target_is_told_the_target(capsys, value, told) -> None:
    with pytest.raises(SystemExit):
        build_parser().parse_args(["deny", value, "x", "--all"])
    assert told in capsys.readouterr().err


def test_query_wants_a_target_and_no_feature(capsys) -> None:
    with pytest.raises(SystemExit):
        build_parser().parse_args(["query", "--all"])
    assert "required: TARGET\n" in capsys.readouterr().err


@pytest.mark.parametrize("action", ["deny", "query"])
def test_a_target_of_another_profile_is_sent_by_command_and_that_is_said(action, capsys):
    with pytest.raises(SystemExit) as ended:
        build_parser().parse_args([action, "x-lamp:level", "--all"])
    assert ended.value.code == 2
    assert f"oc2ctl command {action} TARGET …" in capsys.readouterr().err
