"""The structural parts of the golden exchanges (REQUIREMENTS part 8)."""

from __future__ import annotations

import pytest

from oc2d.errors import BadRequest, Refusal
from oc2d.language.codec import Encoding, InputLimits, decode, encode
from oc2d.language.command import fingerprint, parse_command
from oc2d.language.features import Capabilities, answer_features
from oc2d.language.message import Headers, open_envelope, salvage, wrap_request
from oc2d.language.response import response_tree

E4 = {
    "action": "deny",
    "target": {
        "ipv4_connection": {
            "protocol": "tcp",
            "src_addr": "1.2.3.4",
            "src_port": 10996,
            "dst_addr": "198.2.3.4",
            "dst_port": 80,
        }
    },
    "args": {
        "start_time": 1534775460000,
        "duration": 500,
        "response_requested": "ack",
        "slpf": {"drop_process": "none"},
    },
    "actuator": {"slpf": {"asset_id": "30"}},
}
HEADERS = Headers("d1ac0489-ed51-4345-9175-f3078f30afe5", 1534775460, "soc", ("zulu",))


def receive(payload: bytes, encoding: Encoding):
    envelope = open_envelope(decode(payload, encoding, InputLimits()))
    return parse_command(envelope.content, encoding)


def send(command, encoding=Encoding.JSON):
    return receive(encode(wrap_request(command, HEADERS), encoding), encoding)


def query(names, **args):
    tree = {"action": "query", "target": {"features": names}}
    return send({**tree, "args": args} if args else tree)


@pytest.mark.req("LANG-56", "LANG-60")
def test_exchanges_3_and_4_repeated_and_unknown_features():
    capabilities = Capabilities(("1.0",), ("slpf",), {})
    answer = answer_features(query(["versions", "versions"]), capabilities)
    assert response_tree(answer, Encoding.JSON) == {"status": 200, "results": {"versions": ["1.0"]}}
    with pytest.raises(BadRequest):
        query(["foo"])


@pytest.mark.req("LANG-54", "AMB-20")
@pytest.mark.parametrize("args", [{"response_requested": "ack"}, {"start_time": 1534775460000}])
def test_exchange_5_features_with_other_arguments(args):
    with pytest.raises(BadRequest):
        answer_features(query([], **args), Capabilities(("1.0",), (), {}))


@pytest.mark.req("AMB-6", "AMB-17")
def test_exchange_6_arguments_beside_the_request_are_malformed():
    inside = {name: E4[name] for name in ("action", "target")}
    openc2 = {"request": inside, "args": {**E4["args"], "response_requested": "none"}}
    tree = {"headers": {"request_id": "r"}, "body": {"openc2": openc2, "actuator": {"splf": {}}}}
    with pytest.raises(BadRequest):
        open_envelope(tree)
    assert (salvage(tree).request_id, salvage(tree).silent) == ("r", True)
    assert send(E4).args.duration == 500


@pytest.mark.req("LANG-17", "LANG-18", "LANG-62", "LANG-67")
@pytest.mark.parametrize(
    "connection", [{}, {"dst_port": 70000}, {"dst_port": True}, {"dst_port": 80, "icmp_type": 8}]
)
def test_exchange_15_broken_connections(connection):
    with pytest.raises(BadRequest):
        send({"action": "deny", "target": {"ipv4_connection": connection}})


@pytest.mark.req("LANG-12", "LANG-14", "LANG-16", "LANG-43")
@pytest.mark.parametrize(
    "change",
    [
        {"action": "block"},
        {"target": {"ip_conection": E4["target"]["ipv4_connection"]}},
        {"target": {**E4["target"], "uri": "a:b"}},
        {"args": {}},
    ],
)
def test_exchange_17_broken_commands(change):
    with pytest.raises(BadRequest):
        send({**E4, **change})


@pytest.mark.req("LANG-25", "LANG-26")
@pytest.mark.parametrize(
    "args",
    [{"start_time": 1, "stop_time": 2, "duration": 1}, {"start_time": 2, "stop_time": 1}],
)
def test_exchange_18_impossible_windows(args):
    with pytest.raises(BadRequest):
        send({**E4, "args": args})


@pytest.mark.req("LANG-74", "LANG-75", "LANG-76", "LANG-77")
@pytest.mark.parametrize(
    "payload", [b'{"body":{},"body":{}}', b'{"body":NaN}', b'{"body":"\xff"}', b"[" * 100_000]
)
def test_exchange_22_broken_payloads(payload):
    with pytest.raises(BadRequest):
        receive(payload, Encoding.JSON)


@pytest.mark.req("AMB-52")
@pytest.mark.parametrize("form", [Encoding.CBOR, Encoding.CONCISE])
def test_exchange_25_the_same_commands_in_cbor(form):
    for command in (E4, {"action": "query", "target": {"features": []}}):
        json, cbor = send(command), send(command, form)
        assert json == cbor
        assert fingerprint(command, json) == fingerprint(command, cbor)
    for bad in ({**E4, "action": "block"}, {**E4, "args": {}}):
        texts = set()
        for encoding in Encoding:
            with pytest.raises(Refusal) as caught:
                send(bad, encoding)
            texts.add(caught.value.text)
        assert len(texts) == 1
