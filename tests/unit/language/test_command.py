"""The structure of commands: what is taken, what is refused, where and with which words."""

from __future__ import annotations

import itertools
from typing import Annotated

import msgspec
import pytest

from oc2d.errors import BadRequest, NotSupported, Refusal
from oc2d.language.codec import Encoding, InputLimits, decode, encode
from oc2d.language.command import (
    Args,
    Dialect,
    OpenC2Command,
    Specified,
    Target,
    command_tree,
    decode_extension,
    extension_tree,
    fingerprint,
    parse_command,
)
from oc2d.language.values import Features, IPv4Net
from oc2d.language.vocabulary import Action, L4Protocol, ResponseType

BASE = {"action": "deny", "target": {"ipv4_net": "10.0.0.0/8"}}
ROOT = "$.body.openc2.request"


def parse(encoding=Encoding.JSON, dialect=Dialect(), **members) -> OpenC2Command:  # noqa: B008 - immutable
    return parse_command({**BASE, **members}, encoding, dialect)


def refusal(tree, dialect=Dialect()) -> Refusal:  # noqa: B008 - immutable
    with pytest.raises(Refusal) as caught:
        parse_command(tree, Encoding.JSON, dialect)
    return caught.value


@pytest.mark.req("LANG-11", "LANG-12", "LANG-14", "LANG-15", "LANG-19", "LANG-34")
def test_all_members_of_a_command_are_read():
    command = parse(
        args={"start_time": 5, "duration": 500, "response_requested": "ack", "slpf": {"a": 1}},
        actuator={"slpf": {"asset_id": "30"}},
        command_id="c-1",
    )
    assert command == OpenC2Command(
        action=Action.DENY,
        target=Target("ipv4_net", command.target.value),
        args=Args(5, None, 500, ResponseType.ACK, {"slpf": {"a": 1}}),
        actuator=Specified("slpf", {"asset_id": "30"}),
        command_id="c-1",
    )
    assert str(command.target.value) == "10.0.0.0/8"


@pytest.mark.req("LANG-79")
def test_the_order_of_members_does_not_matter():
    members = {**BASE, "args": {"duration": 1, "start_time": 2}, "command_id": "x"}
    shuffled = dict(reversed(members.items()))
    assert parse_command(members, Encoding.JSON) == parse_command(shuffled, Encoding.JSON)


@pytest.mark.req("LANG-12")
@pytest.mark.parametrize("action", list(Action))
def test_every_action_is_read(action):
    assert parse(action=action.value).action is action


@pytest.mark.req("LANG-11", "LANG-12", "LANG-14", "LANG-17", "LANG-18", "LANG-43")
@pytest.mark.parametrize(
    ("tree", "path", "words"),
    [
        (None, ROOT, "object"),
        ([], ROOT, "object"),
        ({}, ROOT, "missing action"),
        ({"action": "deny"}, ROOT, "missing target"),
        ({"target": {"features": []}}, ROOT, "missing action"),
        ({**BASE, "arg": {}}, ROOT, "did you mean 'args'"),
        ({**BASE, "action": ["deny"]}, f"{ROOT}.action", "one name"),
        ({**BASE, "action": None}, f"{ROOT}.action", "one name"),
        ({**BASE, "action": "block"}, f"{ROOT}.action", "no action 'block'"),
        ({**BASE, "action": "Deny"}, f"{ROOT}.action", "did you mean 'deny'"),
        ({**BASE, "action": "x-foo"}, f"{ROOT}.action", "no action"),
        ({**BASE, "target": {}}, f"{ROOT}.target", "exactly one"),
        ({**BASE, "target": None}, f"{ROOT}.target", "exactly one"),
        ({**BASE, "target": "ipv4_net"}, f"{ROOT}.target", "exactly one"),
        ({**BASE, "target": {"uri": "a:b", "iri": "a:b"}}, f"{ROOT}.target", "exactly one"),
        ({**BASE, "target": {"ip_conection": {}}}, f"{ROOT}.target", "_connection'?"),
        ({**BASE, "target": {"": 1}}, f"{ROOT}.target", "no target"),
        ({**BASE, "target": {":x": 1}}, f"{ROOT}.target", "<nsid>:<name>"),
        ({**BASE, "target": {"slpf:": 1}}, f"{ROOT}.target", "<nsid>:<name>"),
        ({**BASE, "target": {"a:b:c": 1}}, f"{ROOT}.target", "<nsid>:<name>"),
        ({**BASE, "target": {"slpf": 1}}, f"{ROOT}.target", "no target"),
        ({**BASE, "target": {"slpf": {"a": 1, "b": 2}}}, f"{ROOT}.target", "no target"),
        ({**BASE, "target": {"uri": None}}, f"{ROOT}.target.uri", "null"),
        (
            {**BASE, "target": {"ipv4_connection": {"dst_port": None}}},
            f"{ROOT}.target.ipv4_connection.dst_port",
            "null",
        ),
    ],
)
def test_a_broken_structure_is_refused_with_its_place(tree, path, words):
    refused = refusal(tree)
    assert refused.status == 400
    assert refused.path == path
    assert words in refused.text


@pytest.mark.req("LANG-43", "LANG-84")
@pytest.mark.parametrize("name", ["slpf:rule_number", "x-acme:container", "acme:thing", "pf:x-1"])
def test_targets_of_any_namespace_have_a_right_structure(name):
    assert parse(target={name: {"any": [1]}}).target == Target(name, {"any": [1]})


@pytest.mark.req("AMB-29")
def test_a_nested_target_is_the_same_as_one_with_a_colon():
    nested = parse(target={"slpf": {"rule_number": 1}})
    assert nested == parse(target={"slpf:rule_number": 1})
    assert command_tree(nested, Encoding.JSON)["target"] == {"slpf:rule_number": 1}


@pytest.mark.req("LANG-16", "AMB-26", "LANG-85")
def test_args_hold_at_least_one_member_of_any_kind():
    assert parse(args={"slpf": {"direction": "both"}}).args.profiles == {
        "slpf": {"direction": "both"}
    }
    malformed = {"action": "deny", "target": {"ipv4_connection": {"protocol": "gre"}}, "args": {}}
    assert refusal(malformed).status == 400
    for args in ({}, None, [], "x"):
        assert refusal({**BASE, "args": args}).path == f"{ROOT}.args"


@pytest.mark.req("AMB-22", "LANG-85")
def test_arguments_of_profiles_and_unknown_ones_are_told_apart():
    args = parse(args={"x-acme": {}, "comment": "hi", "acme": {"a": 1}, "SLPF": {}}).args
    assert dict(args.profiles) == {"x-acme": {}}
    assert args.unknown == ("comment", "acme", "SLPF")
    for value in (None, 1, "x", [{}], True):
        assert refusal({**BASE, "args": {"slpf": value}}).path == f"{ROOT}.args.slpf"


@pytest.mark.req("LANG-7", "LANG-18", "LANG-19", "AMB-19")
@pytest.mark.parametrize("name", ["start_time", "stop_time", "duration"])
def test_times_are_milliseconds_and_never_guessed(name):
    for value in (0, 1, 1545257700, 2**53 - 1):
        assert getattr(parse(args={name: value}).args, name) == value
    for value in (True, False, -1, 1.0, "1", None, [1], {}):
        assert refusal({**BASE, "args": {name: value}}).path == f"{ROOT}.args.{name}"


@pytest.mark.req("LANG-24", "LANG-25", "LANG-26")
def test_two_of_the_three_times_are_allowed_and_they_are_in_order():
    for args in (
        {"start_time": 5, "stop_time": 5},
        {"start_time": 5, "duration": 0},
        {"stop_time": 5, "duration": 9},
    ):
        assert parse(args=args).args is not None
    assert refusal({**BASE, "args": {"start_time": 5, "stop_time": 4}}).status == 400
    agreeing = {"start_time": 5, "stop_time": 7, "duration": 2}
    assert refusal({**BASE, "args": agreeing}).status == 400


@pytest.mark.req("LANG-33")
def test_response_requested_is_one_of_four():
    for kind in ResponseType:
        assert parse(args={"response_requested": kind.value}).args.response_requested is kind
    for value in ("all", "NONE", "", None, 3, ["ack"], {}):
        refused = refusal({**BASE, "args": {"response_requested": value}})
        assert refused.path == f"{ROOT}.args.response_requested"


@pytest.mark.req("LANG-15", "AMB-28", "LANG-86")
@pytest.mark.parametrize(
    "actuator",
    [{}, {"slpf": {}, "pf": {}}, None, [], "slpf", {"slpf": None}, {"slpf": []}, {"": {}}],
)
def test_there_is_exactly_one_actuator_or_none(actuator):
    assert parse().actuator is None
    assert refusal({**BASE, "actuator": actuator}).path == f"{ROOT}.actuator"


@pytest.mark.req("AMB-30", "AMB-44")
def test_profile_is_taken_for_actuator_unless_switched_off():
    assert parse(profile="slpf").actuator == Specified("slpf", {})
    assert parse(profile={"slpf": {"a": 1}}).actuator == Specified("slpf", {"a": 1})
    assert parse(actuator={"iot-front-door-lock": {}}).actuator.nsid == "iot-front-door-lock"
    both = {**BASE, "profile": "slpf", "actuator": {"slpf": {}}}
    assert "exclude" in refusal(both).text
    assert (
        "no member 'profile'"
        in refusal({**BASE, "profile": "slpf"}, Dialect(profile_field=False)).text
    )
    assert command_tree(parse(profile="slpf"), Encoding.JSON)["actuator"] == {"slpf": {}}


@pytest.mark.req("LANG-6")
def test_a_command_id_is_short_and_without_white_space():
    for value in ("", "x" * 36, "ü"):
        assert parse(command_id=value).command_id == value
    for value in ("x" * 37, "a b", "a\n", "\u2003", None, 5, ["a"]):
        assert refusal({**BASE, "command_id": value}).path == f"{ROOT}.command_id"


@pytest.mark.req("AMB-31")
def test_host_bits_are_masked_and_said_or_refused():
    command = parse(target={"ipv4_net": "10.1.2.3/8"})
    assert command.notes == ("target ipv4_net 10.1.2.3/8 taken as 10.0.0.0/8",)
    assert command_tree(command, Encoding.JSON)["target"] == {"ipv4_net": "10.0.0.0/8"}
    tuple_ = {"ipv6_connection": {"src_addr": "2001:db8::1/32", "dst_addr": "::1"}}
    assert parse(target=tuple_).notes == (
        "target ipv6_connection 2001:db8::1/32 taken as 2001:db8::/32",
    )
    assert parse().notes == ()
    strict = Dialect(strict_cidr=True)
    assert refusal({**BASE, "target": {"ipv4_net": "10.1.2.3/8"}}, strict).status == 400
    assert parse(dialect=strict).notes == ()


@pytest.mark.req("LANG-44")
def test_a_refusal_stays_short_and_printable_whatever_the_names():
    name = "\n\x1b" + "x" * 50_000
    for tree in (
        {**BASE, name: 1},
        {**BASE, "action": name},
        {**BASE, "target": {name: 1}},
        {**BASE, "target": {name + ":": 1}},
        {**BASE, "target": {"file": {"hashes": {name: 1}}}},
        {**BASE, "target": {"file": {name: None}}},
        {**BASE, "args": {"response_requested": name}},
        {**BASE, "command_id": name},
        {**BASE, "target": {"features": [name]}},
    ):
        text = refusal(tree).text
        assert len(text) < 600
        assert text.isprintable()


def test_commands_are_frozen():
    command = parse()
    with pytest.raises(AttributeError):
        command.action = Action.ALLOW
    with pytest.raises(AttributeError):
        command.target.value.network = None
    with pytest.raises(TypeError):
        parse(args={"slpf": {}}).args.profiles["slpf"] = 1


class Own(msgspec.Struct, frozen=True):
    number: Annotated[int, msgspec.Meta(ge=1)] | None = None
    source: IPv4Net | None = None
    protocol: L4Protocol | None = None
    flags: tuple[str, ...] = ()


@pytest.mark.req("LANG-84", "LANG-85", "LANG-86", "LANG-17", "LANG-18")
def test_a_profiles_structure_is_read_strictly():
    own = decode_extension(
        {"number": 5, "source": "10.0.0.0/8", "protocol": "udp", "flags": ["a"]},
        Own,
        Encoding.JSON,
        path="$.x",
    )
    assert own.protocol is L4Protocol.UDP
    assert own.flags == ("a",)
    for tree, path in (
        ({"number": True}, "$.x.number"),
        ({"number": 1.0}, "$.x.number"),
        ({"number": 0}, "$.x.number"),
        ({"source": "10.0.0.0/33"}, "$.x.source"),
        ({"flags": ["a", 1]}, "$.x.flags[1]"),
        ({"other": 1}, "$.x"),
        ([], "$.x"),
    ):
        with pytest.raises(BadRequest) as caught:
            decode_extension(tree, Own, Encoding.JSON, path="$.x")
        assert caught.value.path == path
    assert decode_extension(7, Annotated[int, msgspec.Meta(ge=1)], Encoding.JSON, path="$") == 7
    with pytest.raises(BadRequest):
        decode_extension(True, int, Encoding.JSON, path="$")


@pytest.mark.req("AMB-33")
def test_a_profiles_protocols_are_the_four_too():
    with pytest.raises(NotSupported):
        decode_extension({"protocol": "gre"}, Own, Encoding.JSON, path="$")
    assert (
        decode_extension({"protocol": 6}, Own, Encoding.CBOR, path="$").protocol is L4Protocol.TCP
    )
    with pytest.raises(BadRequest):
        decode_extension({"protocol": 6}, Own, Encoding.JSON, path="$")


@pytest.mark.req("LANG-39", "LANG-87")
def test_a_profiles_structure_is_written_without_null():
    own = Own(number=5, flags=("a",))
    assert extension_tree(own, Encoding.JSON) == {"number": 5, "flags": ["a"]}
    own = Own(source=decode_extension("10.0.0.0/8", IPv4Net, Encoding.JSON, path="$"))
    assert extension_tree(own, Encoding.CBOR)["source"] == [b"\x0a\0\0\0", 8]


@pytest.mark.req("AMB-21")
def test_the_fingerprint_sees_the_command_and_not_its_spelling():
    def digest(tree, encoding=Encoding.JSON):
        tree = decode(encode(tree, encoding), encoding, InputLimits())
        return fingerprint(tree, parse_command(tree, encoding))

    target = {"ipv6_net": "2001:db8:0:0::/32"}
    one = {"action": "deny", "target": target, "args": {"duration": 1, "slpf": {"a": [1, "x"]}}}
    same = {
        "args": {"slpf": {"a": [1, "x"]}, "duration": 1},
        "target": {"ipv6_net": "2001:DB8::/32"},
        "action": "deny",
    }
    binary = {**one, "target": {"ipv6_net": [b"\x20\x01\x0d\xb8" + b"\0" * 12, 32]}}
    assert len(digest(one)) == 16
    assert (
        digest(one) == digest(same) == digest(one, Encoding.CBOR) == digest(binary, Encoding.CBOR)
    )
    for change in (
        {"action": "allow"},
        {"target": {"ipv6_net": "2001:db8::/33"}},
        {"args": {"duration": 2, "slpf": {"a": [1, "x"]}}},
        {"args": {"duration": 1, "slpf": {"a": ["x", 1]}}},
        {"args": {**one["args"], "other": 1}},
        {"args": {**one["args"], "other": 2}},
        {"command_id": "c"},
        {"actuator": {"slpf": {}}},
    ):
        assert digest({**one, **change}) != digest(one)
    others = [digest({**one, "args": {**one["args"], "other": n}}) for n in (1, 2)]
    assert others[0] != others[1]


@pytest.mark.req("AMB-21", "AMB-52")
def test_the_fingerprint_of_octets_is_that_of_their_text():
    json = {"action": "set", "target": {"x-a:b": "AAH_"}, "actuator": {"x-a": {"k": "_w"}}}
    cbor = {
        "action": "set",
        "target": {"x-a:b": b"\x00\x01\xff"},
        "actuator": {"x-a": {"k": b"\xff"}},
    }
    digests = {
        fingerprint(tree, parse_command(tree, encoding))
        for tree, encoding in ((json, Encoding.JSON), (cbor, Encoding.CBOR))
    }
    assert len(digests) == 1
    assert fingerprint(json, None) == fingerprint(cbor, None)


@pytest.mark.req("AMB-21")
def test_a_request_that_did_not_parse_has_a_fingerprint_too():
    assert fingerprint({"a": 1, "b": [2]}, None) == fingerprint({"b": [2], "a": 1}, None)
    assert fingerprint({"a": 1}, None) != fingerprint({"a": 2}, None)
    assert fingerprint(None, None) != fingerprint("", None)


@pytest.mark.req("LANG-56", "LANG-57")
def test_features_named_twice_count_once():
    command = parse(target={"features": ["versions", "pairs", "versions"]})
    assert isinstance(command.target.value, Features)
    assert command_tree(command, Encoding.JSON)["target"] == {"features": ["versions", "pairs"]}


def test_what_nothing_is_read_as_is_made_anew_where_somebody_could_see_the_difference():
    def read(type_):
        return decode_extension({}, type_, Encoding.JSON, path="$")

    class Plain(msgspec.Struct, frozen=True):
        number: int = 1

    class Listed(msgspec.Struct, frozen=True, eq=False):
        names: list[str] = msgspec.field(default_factory=list)

    class Counted(msgspec.Struct, frozen=True):
        number: int = msgspec.field(default_factory=itertools.count().__next__)

    class Checked(msgspec.Struct, frozen=True):
        number: int = 1

        def __post_init__(self):
            if next(turns):
                raise ValueError("not twice")

    turns = itertools.count()
    assert read(Plain) is read(Plain)
    read(Listed).names.append("mine")
    assert read(Listed).names == []
    assert read(Counted) != read(Counted)
    read(Checked)
    with pytest.raises(BadRequest, match="not twice"):
        read(Checked)
