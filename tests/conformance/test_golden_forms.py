"""The golden exchange 25, and what holds for every exchange, in each form of a message."""

from __future__ import annotations

import time

import pytest

from tests.conformance.conftest import CONNECTION, check_form
from tests.consumer import command, deny, query
from tests.producer import properties, request

pytestmark = pytest.mark.root


@pytest.mark.req("AMB-15", "AMB-52")
def test_exchange_25_an_unknown_encoding(producer):
    from oc2d.language.codec import Encoding, encode  # noqa: PLC0415 - only here

    payload = encode(request(query(), {"request_id": "r25"}), Encoding.JSON)
    for encoding in ("xml", "cbor-concise"):
        before = len(producer.replies)
        producer.publish(payload, properties=properties(encoding=encoding, text=True))
        reply = producer.until(lambda at=before: producer.replies[at:], "an answer")[0]
        check_form(reply)
        assert reply.status == 400


@pytest.mark.req("AMB-52", "MQTT-34", "MQTT-35", "LANG-78", "LANG-79")
@pytest.mark.parametrize(("announced", "name"), [("cbor", "61"), (None, "62")])
def test_exchange_25_concise_cbor_to_the_last_byte(producer, zulu, announced, name, clean):
    del clean
    # deny ipv4_net 10.25.0.0/16, insert_rule 25: the arrays of message, command and range
    sent = bytes.fromhex(
        f"82 a2 01 61 {name} 03 63 73 6f 63 a1 01 a1 01"
        "83 06 a1 0d 82 44 0a 19 00 00 10 a1 19 04 00 a1 19 04 03 18 19"
    )
    before = len(producer.replies)
    producer.publish(sent, properties=properties(encoding=announced))
    reply = producer.until(lambda: producer.replies[before:], "an answer")[0]
    assert list(zulu.rules()) == [25]
    # after request_id and created: from, to, status 200, and in the results of slpf 25
    head, created, tail = reply.payload[:6], reply.payload[6:15], reply.payload[15:]
    assert head == bytes.fromhex(f"82 a4 01 61 {name} 02")
    assert created[0] == 0x1B
    assert tail == bytes.fromhex(
        "03 64 7a 75 6c 75 04 81 63 73 6f 63"
        "a1 01 a1 02 a2 01 18 c8 03 a1 19 04 00 a1 19 04 00 18 19"
    )


@pytest.mark.req("AMB-52", "LANG-44")
def test_exchange_25_what_is_wrong_is_answered_in_the_form_it_came_in(producer):
    for sent, text in (
        ("82 a1 01 63 72 32 35 a1 01 a1 01 82 18 63 a1 09 80", "no action '99'"),
        ("82 a1 01 63 72 32 35", "CBOR"),
        ("84 00 00 00 00", "headers"),
        ("9f ff", "body"),
    ):
        before = len(producer.replies)
        packed = properties(encoding="cbor")
        producer.publish(bytes.fromhex(sent), properties=packed)
        reply = producer.until(lambda at=before: producer.replies[at:], "an answer")[0]
        check_form(reply, "cbor-concise")
        assert reply.status == 400
        assert text in reply.text


@pytest.mark.req("AMB-52")
def test_exchange_25_the_form_outlives_a_restart(producer, zulu, clean):
    del clean
    start = int(time.time() * 1000) + 1000
    sent = command("deny", {"ipv4_net": "10.25.0.0/16"}, start_time=start)
    request_id = producer.send(sent, encoding="cbor-concise")
    (interim,) = producer.wait(request_id)
    assert zulu.stop() == 0
    zulu.start()
    final = producer.wait(request_id, 2)[-1]
    check_form(final, "cbor-concise")
    assert (final.status, final.number) == (200, interim.number)


@pytest.mark.req("AMB-52", "AMB-21", "MQTT-50")
def test_exchange_25_a_duplicate_in_another_form_is_the_same_request(producer, zulu, clean):
    del clean
    forms = ("json", "cbor", "cbor-concise", "json")
    replies = []
    for number, form in enumerate(forms, 1):
        producer.send(deny("10.25.0.0/16"), request_id="r25-forms", encoding=form)
        replies.append(producer.wait("r25-forms", number)[-1])
        check_form(replies[-1], form)
    assert len(zulu.rules()) == 1
    assert all(reply.response == replies[0].response for reply in replies)


@pytest.mark.req("AMB-52", "LANG-65")
@pytest.mark.parametrize("address", [[b"\x0a\x19\0\0", 16], [b"\x0a\x19\0\0"], b"\x0a\x19\0\0"])
def test_exchange_25_addresses_in_cbor_may_be_octets(producer, zulu, host, clean, address):
    del clean
    sent = command("deny", {"ipv4_net": address})
    reply = producer.ask(sent, encoding="cbor")
    check_form(reply, "cbor")
    assert list(zulu.rules()) == [reply.number]
    assert host.elements() == ["10.25.0.0"]


@pytest.mark.req("SLPF-5", "SLPF-2")
@pytest.mark.parametrize("asked", ["none", "ack", "status", "complete"])
def test_response_requested_is_valid_with_every_command(producer, zulu, clean, asked):
    del clean
    statuses = {"none": [], "ack": [102]}.get(asked, [200])

    def check(sent):
        request_id = producer.send(sent)
        producer.assert_silent(request_id, len(statuses))
        assert [reply.status for reply in producer.of(request_id)] == statuses

    for number, target in enumerate(
        (
            {"ipv4_net": "10.5.0.0/16"},
            {"ipv6_net": "2001:db8::/32"},
            {"ipv4_connection": CONNECTION},
            {"ipv6_connection": {"protocol": "udp", "dst_port": 53}},
        ),
        1,
    ):
        for action in ("allow", "deny"):
            insert = {"insert_rule": 2 * number + (action == "deny")}
            check(command(action, target, response_requested=asked, slpf=insert))
    assert len(zulu.rules()) == 8
    for number in list(zulu.rules()):
        check(command("delete", {"slpf:rule_number": number}, response_requested=asked))
    assert zulu.rules() == {}


@pytest.mark.req("SLPF-6", "LANG-17", "SLPF-10", "SLPF-11")
@pytest.mark.parametrize(
    ("status", "change"),
    [
        (400, {"target": {"ipv4_connection": {"dst_port": 80, "dst_prot": 80}}}),
        (400, {"comment": "x"}),
        (400, {"actuator": {"slpf": {"asset": "30"}}}),
        (501, {"args": {"slpf": {"log": True}}}),
        (501, {"args": {"priority": 1}}),
    ],
)
def test_a_member_outside_the_property_tables_is_refused(soc, zulu, status, change):
    assert soc.ask({**command("deny", {"ipv4_net": "10.6.0.0/16"}), **change}).status == status
    assert zulu.rules() == {}
