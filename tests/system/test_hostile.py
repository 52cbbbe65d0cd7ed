"""No input stops the daemon: whatever arrives is answered 400 or passed over, and life goes on."""

from __future__ import annotations

import itertools
import json
import random
import re

import cbor2
import pytest

from oc2d.language.codec import Encoding, encode
from tests.consumer import command, delete, deny, query
from tests.producer import properties, request
from tests.waiting import wait_until

PAYLOAD = 262144
HEADERS = {"request_id": "h", "from": "soc@example.com"}


@pytest.fixture(scope="module")
def zulu(host):
    made = host.consumer(
        broker={"extra_subscriptions": ["wild/#"]}, actuators_slpf={"backend": "dry-run"}
    )
    return made.start()


@pytest.fixture
def soc(host, zulu):
    """A Producer; at the end the same process still carries out commands, and told no secrets."""
    assert zulu.process.poll() is None
    made = host.producer()
    yield made
    reply = made.ask(deny("10.0.0.1"), headers={"created": 1})
    assert reply.status == 200
    assert made.ask(delete(reply.number)).status == 200
    assert zulu.rules() == {}
    assert zulu.process.poll() is None
    made.close()
    assert all(reply.topic == "oc2/rsp" for reply in made.replies)
    for reply in made.replies:
        assert not re.search(
            r'Traceback|\.py\b|File "|line \d+, in|/tmp/|oc2d[._]|Error\b', reply.text
        )


def wrapped(content, **headers):
    return encode(request(content, {**HEADERS, **headers}), Encoding.JSON)


def nested(depth):
    return b'{"headers":{"request_id":"h"},"body":' + b'{"a":' * depth + b"1" + b"}" * depth + b"}"


MALFORMED_JSON = {
    "empty": b"",
    "blank": b" ",
    "null": b"null",
    "a number": b"42",
    "a text": b'"x"',
    "a list": b"[]",
    "an object": b"{}",
    "no JSON at all": b"str({'a': 1})",
    "single quotes": b"{'headers': {}, 'body': {}}",
    "UTF-16": '{"headers":{}}'.encode("utf-16"),
    "half a surrogate": rb'{"headers":{"request_id":"\ud800"},"body":{"openc2":{"request":{}}}}',
    "trailing": wrapped(query()) + b"x",
    "two messages": wrapped(query()) * 2,
    "infinite": b'{"headers":{"created":Infinity},"body":{}}',
    "a large number": b'{"headers":{"created":1' + b"0" * 400 + b'},"body":{}}',
    "an exponent": b'{"headers":{"created":1e999},"body":{}}',
    "many digits": b'{"headers":{"created":' + b"9" * 5000 + b'},"body":{}}',
    "deep objects": nested(10_000),
    "deep lists": b"[" * 200_000,
    "wide": b'{"headers":{},"body":[' + b"1," * 100_000 + b"1]}",
    "twice in the command": wrapped(query()).replace(b'"action"', b'"action":"deny","action"', 1),
    "twice by escape": b'{"headers":{},"body":{},"b\\u006fdy":{}}',
    "a NUL": b'{"headers":{"request_id":"a\0b"},"body":{}}',
    "a comment": b'/* */{"headers":{},"body":{}}',
    "only a body": b'{"body":{"openc2":{"request":null}}}',
    "two kinds": b'{"body":{"openc2":{"request":{},"response":{}}}}',
    "headers a list": b'{"headers":[],"body":{"openc2":{"request":{}}}}',
}


@pytest.mark.req("LANG-44", "LANG-74", "LANG-75", "LANG-76", "LANG-77", "AMB-7")
@pytest.mark.parametrize("payload", MALFORMED_JSON.values(), ids=MALFORMED_JSON)
def test_malformed_json_is_answered_400(soc, payload):
    soc.publish(payload, f"wild/{len(payload)}", properties=properties(text=False))
    reply = soc.until(lambda: soc.replies, "an answer")[0]
    assert reply.status == 400
    assert len(reply.payload) < 2000


MALFORMED_CBOR = {
    "empty": b"",
    "cut off": cbor2.dumps({"headers": {}})[:-1],
    "a break": b"\xff",
    "deep lists": b"\xa1\x61a" + b"\x81" * 50_000,
    "deep maps": b"\xa1\x61a" * 20_000,
    "endless": b"\xbf" + b"\x61a\x01" * 10,
    "a long list that is not there": b"\xa1\x61a\x9b" + b"\x7f" * 8,
    "a long string that is not there": b"\xa1\x61a\x5b" + b"\x7f" * 8,
    "a bignum": cbor2.dumps({"headers": {"created": 1 << 200}, "body": {}}),
    "a tag": b"\xa1\x61a\xc0\x61b",
    "a shared reference": b"\xa1\x61a\xd8\x1c\x81\xd8\x1d\x00",
    "not a number": b"\xa1\x61a\xf9\x7e\x00",
    "undefined": b"\xa1\x61a\xf7",
    "twice": b"\xa2\x61a\x01\x61a\x02",
    "a key that is a number": b"\xa1\x01\x02",
    "a key that is a list": b"\xa1\x80\x02",
    "no UTF-8": b"\xa1\x61\xff\x01",
    "JSON": b'{"headers":{},"body":{}}',
}


@pytest.mark.req("LANG-44", "LANG-77", "AMB-15", "AMB-52")
@pytest.mark.parametrize("payload", MALFORMED_CBOR.values(), ids=MALFORMED_CBOR)
def test_malformed_cbor_is_answered_400(soc, payload):
    soc.publish(payload, f"wild/cbor{len(payload)}", properties=properties(encoding="cbor"))
    reply = soc.until(lambda: soc.replies, "an answer")[0]
    assert reply.status == 400


@pytest.mark.req("LANG-77")
def test_the_largest_payload_is_taken_and_one_byte_more_is_refused(soc):
    def padded(request_id, size):
        plain = wrapped(query(), request_id=request_id, pad="")
        return plain.replace(b'"pad":""', b'"pad":"' + b"x" * (size - len(plain)) + b'"')

    most = padded("fits", PAYLOAD)
    assert len(most) == PAYLOAD
    soc.publish(most, properties=properties())
    assert soc.wait("fits")[0].response == {"status": 200}
    soc.publish(padded("over", PAYLOAD + 1), properties=properties())
    soc.until(lambda: len(soc.replies) == 2, "one more answer")
    assert soc.replies[1].status == 400
    soc.publish(b"x" * (1 << 24), properties=properties())  # the broker keeps this from us
    soc.fence()
    assert len(soc.replies) == 3


@pytest.mark.req("LANG-4", "AMB-62")
def test_odd_request_ids_come_back_and_harm_nothing(soc, zulu):
    long = "i" * 200_000
    assert soc.ask(query(), request_id=long).status == 200
    forged = 'x"}\n{"event":"forged","level":"info"}\r\n\x1b[31m\u2028\x07'
    assert soc.ask(query(), request_id=forged, headers={"from": f"{forged}/#"}).status == 200
    soc.publish(wrapped(query(), request_id=7), properties=properties())
    assert soc.wait("7")[0].status == 400
    entries = zulu.entries()  # every line of the log is one JSON object
    assert not [entry for entry in entries if entry["event"] == "forged"]
    assert [entry for entry in entries if entry.get("request_id") == forged]


@pytest.mark.req("MQTT-23", "AMB-4")
@pytest.mark.parametrize(
    "sender", ["a/b", "oc2/rsp", "oc2/rsp/x", "+", "#", "", "\0", "x" * 60_000, "$SYS/a", "zulu"]
)
def test_no_sender_steers_a_response(soc, sender):
    assert soc.ask(query(), headers={"from": sender}).status == 200


@pytest.mark.req("MQTT-41", "AMB-15")
def test_every_mixture_of_properties_is_answered_or_passed_over(soc):
    kinds = (None, "req", "rsp", "REQ", "")
    encodings = (None, "json", "cbor", "JSON", "")
    contents = (None, "application/openc2", "text/plain", "")
    mixtures = list(itertools.product(kinds, encodings, contents, (None, True, False)))
    for index, (kind, encoding, content, text) in enumerate(mixtures):
        packed = properties(
            kind,
            encoding,
            content_type=content,
            text=text,
            user=[("x", "y"), ("msgType", "ntf")] if index % 3 else (),
            CorrelationData=b"\0\xff" * (index % 5),
        )
        payload = wrapped(query(), request_id=f"mix-{index}")
        soc.publish(payload, properties=packed, qos=index % 3)
    soc.publish(wrapped(query(), request_id="none at all"))
    soc.fence()
    assert soc.wait("none at all")[0].status == 200
    for index, (kind, encoding, content, text) in enumerate(mixtures):
        plain = (kind, encoding, content) == ("req", "json", "application/openc2") and text
        statuses = [reply.status for reply in soc.of(f"mix-{index}")]
        if plain and index % 3:
            assert statuses == [200]
        assert statuses in ([], [200], [400])
        if kind not in (None, "req"):
            assert statuses == []


@pytest.mark.req("MQTT-46")
def test_responses_do_not_go_round(soc, zulu):
    def published():
        """How many responses the broker has; it takes each a moment after the Producer has it."""
        wait_until(lambda: not zulu.told()["link"]["in_flight"])
        return zulu.told()["link"]["published"]

    before = published()
    inner = {"headers": HEADERS, "body": {"openc2": {"response": {"status": 200}}}}
    for topic in ("oc2/cmd/all", "oc2/cmd/ap/slpf", "oc2/cmd/device/zulu", "wild/x", "oc2/rsp"):
        for kind in ("req", "rsp", "ntf", None):
            soc.publish(json.dumps(inner).encode(), topic, properties=properties(kind))
    soc.fence()
    assert published() == before + 1
    soc.replies.clear()


@pytest.mark.req("MQTT-27", "MQTT-38")
def test_long_topics_and_response_topics_of_an_extra_subscription(soc):
    for topic in ("wild/" + "t" * 65_000, "wild/" + "/" * 150, "wild/\u2028\u202e$x"):
        soc.send(query(), topic, request_id=topic[:40], ResponseTopic="wild/" + "r" * 60_000)
        assert soc.wait(topic[:40])[0].status == 200


@pytest.mark.req("MQTT-51")
def test_a_request_at_qos_0_or_retained_does_no_harm(soc, zulu):
    soc.send(deny("10.6.0.1"), qos=0, request_id="qos 0")
    assert soc.wait("qos 0")[0].status == 200
    assert soc.ask(delete(next(iter(zulu.rules())))).status == 200
    soc.send(deny("10.6.0.2"), retain=True, request_id="kept")
    soc.publish(b"", retain=True)
    soc.assert_silent("kept")


WRONG_VALUES = [
    *(
        {"ipv4_net": value}
        for value in (None, 1, True, [], {}, "", "x" * 10_000, "1.2.3.4/255.0.0.0")
    ),
    *(
        {"ipv6_net": value}
        for value in ("fe80::1%eth0", "::/129", "1.2.3.4", "::ffff:1.2.3.4/33/1")
    ),
    *({"slpf:rule_number": value} for value in ("abc", True, -1, 0, 1 << 31, 1.5, None, [1])),
    *({name: {}} for name in ("", "slpf:", ":", "slpf:nothing", "\0", "a" * 10_000)),
    {"ipv4_net": "10.0.0.0/8", "ipv6_net": "::/0"},
    [],
    "features",
]


@pytest.mark.req("LANG-14", "LANG-18", "LANG-65", "LANG-66", "SLPF-40", "AMB-41")
@pytest.mark.parametrize("encoding", ["json", "cbor"])
def test_wrong_targets_are_answered_400(soc, encoding):
    for target in WRONG_VALUES:
        action = "delete" if "slpf:rule_number" in target else "deny"
        reply = soc.ask({"action": action, "target": target}, encoding=encoding)
        assert reply.status == 400, (target, reply.response)


@pytest.mark.req("LANG-16", "LANG-33", "LANG-37", "LANG-6", "LANG-25", "SLPF-25")
def test_wrong_arguments_are_answered_400_or_501(soc):
    for args, status in (
        ({}, 400),
        ([], 400),
        ({"response_requested": "all"}, 400),
        ({"duration": -1}, 400),
        ({"duration": True}, 400),
        ({"start_time": 1.5}, 400),
        ({"start_time": "now"}, 400),
        ({"foo": 1}, 501),
        ({"pf": {}}, 501),
        ({"slpf": {"insert_rule": 0}}, 400),
        ({"slpf": {"insert_rule": True}}, 400),
        ({"slpf": {"persistent": "yes"}}, 400),
        ({"slpf": {"direction": "up"}}, 400),
        ({"slpf": []}, 400),
        ({"slpf": {"foo": 1}}, 501),
    ):
        reply = soc.ask({"action": "deny", "target": {"ipv4_net": "10.7.0.1"}, "args": args})
        assert reply.status == status, (args, reply.response)
    for wrong in ({"command_id": "x" * 37}, {"command_id": "a b"}, {"command_id": 1}):
        assert soc.ask({**query(), **wrong}).status == 400


@pytest.mark.req("LANG-44", "LANG-45")
def test_memory_stays_flat_over_thousands_of_hostile_messages(soc, zulu):
    rnd = random.Random(5)
    kinds = [*MALFORMED_JSON.values(), *MALFORMED_CBOR.values(), wrapped(command("deny", {}))]
    small = [payload for payload in kinds if len(payload) < 10_000]

    def flood(count):
        for _ in range(count):
            payload = bytearray(rnd.choice(small))
            if rnd.random() < 0.5:
                payload[rnd.randrange(len(payload) + 1) :] = rnd.randbytes(rnd.randrange(4))
            packed = properties(encoding=rnd.choice(("json", "cbor")))
            soc.publish(bytes(payload), f"wild/{rnd.randrange(1000)}", properties=packed)
        soc.fence()

    flood(1000)
    before = zulu.resident()
    flood(2000)
    assert zulu.resident() - before < 4_000_000
    counted = len(soc.replies)
    for _ in range(200):
        soc.publish(b"{", properties=properties())
    soc.fence()
    assert len(soc.replies) - counted < 100  # a flood on one topic is not answered in full
