"""The switches that part 5 of the requirements decides on, each both ways over the wire.

| Requirement | Key | Default |
|---|---|---|
| AMB-2 | broker.extra_subscriptions | [] |
| AMB-3 | broker.response_topic | general |
| AMB-8 | compat.bare_command | false |
| AMB-16 | policy.report_after_ack | false |
| AMB-27 | policy.order | the order of the tables |
| AMB-30 | compat.profile_field | true |
| AMB-31 | compat.strict_cidr | false |
| AMB-51 | policy.max_age | none |
| MQTT-51 | broker.accept_retained | false |

Elsewhere: AMB-12 (policy.producers) in test_life.py, AMB-14 (broker.protocol) in tests/brokers;
of oc2ctl, AMB-30 (--profile-field) in unit/producer and MQTT-22 (--topic) in system/producer.
"""

from __future__ import annotations

import json
import time

import cbor2
import pytest

from tests.consumer import deny, query
from tests.producer import properties
from tests.system.conftest import DRY
from tests.waiting import wait_until

ZULU, YANKEE = "oc2/cmd/device/zulu", "oc2/cmd/device/yankee"
BARE = {"action": "query", "target": {"features": ["versions"]}}
FORMS = {
    "json": json.dumps(BARE).encode(),
    "cbor": cbor2.dumps(BARE),
    "cbor-concise": cbor2.dumps([3, {9: [1]}]),
}


@pytest.fixture(scope="module")
def host(make_broker_host):
    """`zulu` has the defaults, `yankee` the opposite."""
    host = make_broker_host(isolated=False)
    actuators = {"actuators_slpf": DRY, "actuators_x-log": {}}
    zulu = host.consumer("zulu", **actuators)
    yankee = host.consumer(
        "yankee",
        **actuators,
        broker={
            "extra_subscriptions": ["oc2/cmd", "oc2/cmd/slpf"],
            "response_topic": "producer",
            "accept_retained": True,
        },
        compat={"bare_command": True, "profile_field": False, "strict_cidr": True},
        policy={"report_after_ack": True, "order": ["x-log", "slpf"]},
    )
    for consumer in [zulu.launch(), yankee.launch()]:
        consumer.until_subscribed()
    return host


@pytest.fixture
def soc(host):
    made = host.producer("soc")
    yield made
    made.close()


def senders(replies):
    return sorted(reply.headers["from"] for reply in replies)


@pytest.mark.req("AMB-2", "MQTT-27")
@pytest.mark.parametrize("topic", ["oc2/cmd", "oc2/cmd/slpf"])
def test_further_topics_are_heard_where_they_are_named(soc, topic):
    asked = soc.send(query(), topic)
    soc.wait(soc.send(query(), "oc2/cmd/all"), 2)
    assert senders(soc.wait(asked)) == ["yankee"]


@pytest.mark.req("AMB-3", "AMB-4", "MQTT-23")
def test_the_response_topic_is_the_general_one_or_the_producers_own(soc):
    assert soc.ask(query(), ZULU).topic == "oc2/rsp"
    assert soc.ask(query(), YANKEE).topic == "oc2/rsp/soc"
    assert soc.ask(query(), YANKEE, headers={"from": "a/b"}).topic == "oc2/rsp"


@pytest.mark.req("AMB-8", "AMB-52")
@pytest.mark.parametrize("form", FORMS)
def test_a_bare_command_is_refused_or_carried_out(soc, form):
    given = properties("req", form[:4])

    def answer(topic, sender):
        before = len(soc.replies)
        soc.publish(FORMS[form], topic, properties=given)
        (reply,) = soc.until(
            lambda: [r for r in soc.replies[before:] if r.headers["from"] == sender], sender
        )
        assert (reply.topic, "request_id" in reply.headers) == ("oc2/rsp", False)
        return reply

    refused = answer(ZULU, "zulu")
    assert refused.status == 400
    assert "missing body" in refused.text
    done = answer(YANKEE, "yankee")
    assert done.response == {"status": 200, "results": {"versions": ["1.0"]}}
    assert done.payload[0] == {"json": ord("{"), "cbor": 0xA2, "cbor-concise": 0x82}[form]


@pytest.mark.req("AMB-8", "AMB-17")
@pytest.mark.parametrize(
    "payload",
    [
        json.dumps({**deny("10.0.0.1"), "args": {"response_requested": "none"}}).encode(),
        cbor2.dumps([6, {13: [b"\x0a\0\0\1", 32]}, {4: 0}]),
    ],
    ids=["json", "cbor-concise"],
)
def test_a_bare_command_that_wants_no_answer_gets_none_either_way(soc, payload):
    form = "json" if payload[0] == ord("{") else "cbor"
    for topic in (ZULU, YANKEE):
        soc.publish(payload, topic, properties=properties("req", form))
        soc.fence(topic)
    assert [reply for reply in soc.replies if reply.status != 500] == []


@pytest.mark.req("AMB-27")
def test_of_two_actuators_the_first_in_order_carries_out_a_command(soc):
    assert "slpf" in soc.ask(deny("10.2.0.0/16"), ZULU).response["results"]
    assert soc.ask(deny("10.2.0.0/16"), YANKEE).response == {"status": 200}  # x-log's


@pytest.mark.req("AMB-30")
@pytest.mark.parametrize("profile", ["slpf", {"slpf": {}}])
def test_profile_stands_for_actuator_or_is_an_unknown_member(soc, profile):
    command = {**deny("10.1.0.0/16"), "profile": profile}
    assert soc.ask(command, ZULU).status == 200
    assert soc.ask({**command, "actuator": {"slpf": {}}}, ZULU).status == 400
    assert soc.ask({**command, "profile": "pf"}, ZULU).status == 404
    assert soc.ask(command, YANKEE).status == 400


@pytest.mark.req("AMB-31")
def test_host_bits_are_masked_and_told_or_refused(soc):
    masked = soc.ask(deny_text("10.1.2.3/8"), ZULU)
    assert masked.status == 200
    assert "10.0.0.0/8" in masked.text
    assert soc.ask(deny_text("10.1.2.3/8"), YANKEE).status == 400
    assert soc.ask(deny_text("10.0.0.0/8"), YANKEE).status == 200


def deny_text(text):
    return {"action": "deny", "target": {"ipv4_net": text}}


@pytest.mark.req("AMB-16")
def test_a_failure_after_ack_is_kept_quiet_or_reported(soc):
    failing = {
        "action": "delete",
        "target": {"slpf:rule_number": 5},
        "args": {"response_requested": "ack"},
    }
    quiet, loud = soc.send(failing, ZULU), soc.send(failing, YANKEE)
    assert [reply.status for reply in soc.wait(loud, 2)] == [102, 500]
    soc.fence(ZULU)
    assert [reply.status for reply in soc.of(quiet)] == [102]


@pytest.mark.req("MQTT-51")
def test_a_retained_command_is_dropped_or_carried_out(soc):
    asked = soc.send(query(), "oc2/cmd/all", retain=True)
    soc.publish(b"", "oc2/cmd/all", retain=True)
    soc.wait(soc.send(query(), "oc2/cmd/all"), 2)
    assert senders(soc.of(asked)) == ["yankee"]


@pytest.mark.req("AMB-14", "MQTT-46")
def test_under_3_1_1_an_own_response_that_comes_back_is_no_request(host, soc):
    link = {"protocol": "3.1.1", "extra_subscriptions": ["oc2/rsp/#"]}
    echo = host.consumer("echo", actuators_slpf=DRY, broker=link).start()
    asked = soc.ask(query(), "oc2/cmd/device/echo")
    assert asked.status == 200
    refused = soc.ask({"action": "block"}, "oc2/cmd/device/echo")
    assert refused.status == 400
    soc.fence("oc2/cmd/device/echo")
    assert [len(soc.of(one.headers["request_id"])) for one in (asked, refused)] == [1, 1]

    def counted():
        link = echo.told()["link"]
        return link["published"], link["received"]

    wait_until(lambda: counted() == (3, 6), what="each came back, and ended there")


@pytest.mark.req("AMB-19", "AMB-51")
def test_commands_of_any_age_or_of_some_age_only(host, soc):
    host.consumer("xray", actuators_slpf=DRY, policy={"max_age": 60}).start()
    xray = "oc2/cmd/device/xray"
    now = int(time.time())
    for created, status in (
        (now * 1000, 200),
        (now, 200),  # in seconds, as the samples have it
        ((now - 3600) * 1000, 403),
        (now - 3600, 403),
    ):
        assert soc.ask(query(), xray, headers={"created": created}).status == status
        assert soc.ask(query(), ZULU, headers={"created": created}).status == 200
