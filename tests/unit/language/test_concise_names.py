"""The tables of concise CBOR: the ids of the language, of slpf and of any profile."""

from __future__ import annotations

from enum import Enum
from typing import get_args

import cbor2
import msgspec
import pytest

from oc2d.language.codec import Encoding, decode, encode
from oc2d.language.ids import SLPF, Names, ProfileIds, message_names
from oc2d.language.message import Headers, wrap_request, wrap_response
from oc2d.language.targets import TARGET_TYPES
from oc2d.language.vocabulary import Action, Feature, L4Protocol, ResponseType
from tests.unit.language.concise import ACTIONS, LIMITS, NET4, message, parsed, received


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


@pytest.mark.req("AMB-52", "AMB-30")
def test_a_record_with_a_member_that_has_no_place_stays_a_map():
    tree = {"action": "query", "target": {"features": []}, "profile": {"slpf": {}}}
    payload = encode(wrap_request(tree, Headers()), Encoding.CONCISE)
    assert cbor2.loads(payload) == message({1: 3, 2: {9: []}, "profile": {"slpf": {}}})
    assert received(payload).content == tree


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
