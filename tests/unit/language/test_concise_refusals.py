"""Concise CBOR that is refused: where it is wrong, and what it may cost."""

from __future__ import annotations

import struct
import time

import cbor2
import pytest

from oc2d.errors import BadRequest, NotSupported
from oc2d.language.codec import Encoding, InputLimits, decode
from oc2d.language.command import parse_command
from oc2d.language.message import Headers, open_envelope, salvage
from oc2d.language.vocabulary import Action
from tests.unit.language.concise import LIMITS, NET4, message, parsed, received

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
