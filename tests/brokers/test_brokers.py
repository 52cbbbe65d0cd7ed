"""The same for every make of broker, with the configuration that the operator's guide gives.

What a broker cannot do is an attribute of its class in daemons.py.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.brokers.daemons import ACCOUNTS, RabbitMQ
from tests.consumer import delete, deny, query
from tests.waiting import wait_until

# The Producer here is paho's: when a broker that goes away resets its handshake, Python's
# SSLSocket is lost unclosed.
pytestmark = pytest.mark.filterwarnings(
    "ignore:Exception ignored in. <ssl.SSLSocket:pytest.PytestUnraisableExceptionWarning"
)

TOPICS = ("oc2/cmd/all", "oc2/cmd/ap/slpf", "oc2/cmd/device/fw-7")


@pytest.fixture(autouse=True)
def no_rules_left(fw7, soc):
    """Tests share the Consumer."""
    yield
    for number in fw7.rules():
        assert soc.ask(delete(number)).status == 200


@pytest.mark.req("MQTT-17", "MQTT-18", "MQTT-19", "MQTT-29", "MQTT-30", "MQTT-57", "MQTT-67")
def test_commands_on_each_topic_are_answered_in_the_right_form(broker_daemon, prefix, soc):
    more = {"CorrelationData": b"\0\xff", "ResponseTopic": f"{prefix}oc2/rsp/elsewhere"}
    for topic in TOPICS:
        reply = soc.ask(query("profiles"), f"{prefix}{topic}", **more)
        assert reply.response == {"status": 200, "results": {"profiles": ["slpf"]}}
        assert reply.headers["from"] == "fw-7"
        assert (reply.topic, reply.qos, reply.retain) == (f"{prefix}oc2/rsp", 1, False)
        if broker_daemon.protocol == "5":
            assert reply.user == [("msgType", "rsp"), ("encoding", "json")]
            assert reply.properties == {
                "ContentType": "application/openc2",
                "PayloadFormatIndicator": 1,
                "CorrelationData": b"\0\xff",
                "UserProperty": reply.user,
            }


@pytest.mark.req("AMB-14", "AMB-52", "MQTT-34")
@pytest.mark.parametrize("encoding", ["json", "cbor", "cbor-concise"])
def test_every_encoding_goes_both_ways(soc, encoding):
    reply = soc.ask(deny("10.1.0.0/16"), encoding=encoding)
    assert reply.status == 200
    assert reply.payload[0] == {"json": ord("{"), "cbor": 0xA2, "cbor-concise": 0x82}[encoding]


@pytest.mark.req("AMB-5", "AMB-60", "MQTT-47", "MQTT-49")
def test_the_broker_grants_what_it_can_and_says_its_limits(broker_daemon, prefix, fw7):
    link = fw7.told()["link"]
    topics = [f"{prefix}{topic}" for topic in TOPICS]
    assert link["subscriptions"] == dict.fromkeys(topics, broker_daemon.most_qos)


@pytest.mark.req("AMB-21", "MQTT-49", "MQTT-50")
def test_one_request_on_three_topics_at_two_qualities_takes_effect_once(prefix, fw7, soc):
    soc.ask(deny("10.2.0.0/16"), request_id="thrice", qos=2)
    for topic in TOPICS:
        for qos in (1, 2):
            soc.send(deny("10.2.0.0/16"), f"{prefix}{topic}", request_id="thrice", qos=qos)
    replies = soc.wait("thrice", 1 + 2 * len(TOPICS))
    assert len({reply.number for reply in replies}) == 1
    assert len(fw7.rules()) == 1


@pytest.mark.req("AMB-3", "MQTT-29")
def test_responses_at_qos_2_on_both_topics(broker_daemon, prefix, fw7, soc):
    plain = dict(fw7.tables["broker"])
    fw7.tables["broker"].update(qos=2, response_topic="both")
    fw7.restart()
    replies = soc.wait(soc.send(deny("10.3.0.0/16")), 2)
    assert {reply.topic for reply in replies} == {f"{prefix}oc2/rsp", f"{prefix}oc2/rsp/soc"}
    assert {reply.qos for reply in replies} == {broker_daemon.most_qos}
    wait_until(lambda: fw7.told()["link"]["in_flight"] == 0, what="the exchange is complete")
    fw7.tables["broker"] = plain
    fw7.restart()
    soc.fence()
    assert len(soc.of(replies[0].headers["request_id"])) == 2


@pytest.mark.req("MQTT-7", "MQTT-9", "MQTT-54", "SLPF-7")
def test_commands_sent_while_the_daemon_was_away_take_effect_once_and_in_order(fw7, soc):
    assert fw7.stop() == 0
    asked = [soc.send(deny(f"10.4.{i}.0/24")) for i in range(20)]
    fw7.start()
    numbers = [soc.wait(one)[0].number for one in asked]
    assert numbers == sorted(numbers, reverse=True)
    assert len(fw7.rules()) == 20
    assert fw7.told()["link"]["session_present"] is True
    soc.fence()
    assert [len(soc.of(one)) for one in asked] == [1] * 20


@pytest.mark.req("MQTT-50", "MQTT-54")
def test_what_a_dead_daemon_had_not_acknowledged_comes_again(fw7, soc):
    fw7.signal(signal.SIGSTOP)
    asked = [soc.send(deny(f"10.5.{i}.0/24")) for i in range(20)]
    time.sleep(0.2)  # into the buffers of its socket
    fw7.kill()
    fw7.start()
    assert {soc.wait(one)[0].status for one in asked} == {200}
    assert len(fw7.rules()) == 20


@pytest.mark.req("MQTT-51")
def test_a_retained_command_is_not_carried_out_at_each_start(broker_daemon, fw7, soc):
    live = soc.send(deny("10.6.0.0/16"), retain=True)
    soc.fence()
    # MQTT 3.1.1 marks only what was there before the subscription
    assert len(soc.of(live)) == (0 if broker_daemon.protocol == "5" else 1)
    for rule in fw7.rules():
        assert soc.ask(delete(rule)).status == 200
    fw7.restart()
    wait_until(lambda: "retained" in fw7.log.read_text(), what="the drop is logged")
    soc.fence()
    assert fw7.rules() == {}
    soc.publish(b"", retain=True).wait_for_publish(5)


@pytest.mark.req("LANG-77", "MQTT-12")
def test_the_largest_message_passes(soc):
    payload = json.dumps(
        {"headers": {"request_id": "large"}, "body": {"openc2": {"request": query()}}}
    ).ljust(262144)
    soc.publish(payload.encode())
    assert soc.wait("large")[0].status == 200


@pytest.mark.req("LANG-77", "MQTT-54")
def test_a_message_beyond_all_bounds_does_not_end_the_link(fw7, soc):
    before = fw7.told()["link"]["reconnects"]
    soc.publish(b"x" * (2 << 20)).wait_for_publish(10)
    assert soc.ask(query("profiles")).status == 200
    assert fw7.told()["link"]["reconnects"] == before


@pytest.mark.req("MQTT-67")
def test_a_wrong_password_is_refused_and_told(make_consumer):
    stranger = make_consumer(password="wrong").launch()
    wait_until(lambda: stranger.told().get("link", {}).get("last_error"))
    assert "refused" in stranger.told()["link"]["last_error"]
    assert stranger.stop() == 0


@pytest.mark.req("MQTT-26")
def test_a_topic_that_the_account_may_not_read(broker_daemon, prefix, make_consumer, soc):
    other = make_consumer(**{"actuators.x-log": {}}).launch()
    denied = f"{prefix}oc2/cmd/ap/x-log"
    link = {}

    def told():
        link.update(other.told().get("link", {}))
        return link.get("subscriptions") or link.get("last_error")

    wait_until(told)
    if broker_daemon.denies == "ends the connection":
        assert "may not let us read one of our topics" in link["last_error"]
    else:
        others = {f"{prefix}{topic}": broker_daemon.most_qos for topic in TOPICS}
        silently = broker_daemon.denies == "silently"
        answer = str(broker_daemon.most_qos) if silently else broker_daemon.denies
        assert answer in str(link["subscriptions"].pop(denied))
        assert link["subscriptions"] == others
        assert link["healthy"] is silently
        soc.send(query(), denied, request_id="denied")
        soc.wait(soc.send(query()), 2)  # both daemons of this name
        assert soc.of("denied") == []
    other.kill()


@pytest.mark.req("AMB-14")
@pytest.mark.parametrize("broker_daemon", [RabbitMQ], indirect=True)
def test_a_device_with_a_dot_is_directed_at_though_the_broker_turns_it_into_a_slash(
    make_consumer, prefix, soc
):
    site = make_consumer("fw-7.site").start()
    unknown = {"action": "deny", "target": {"ipv4_net": "10.0.0.0/8"}, "actuator": {"x-door": {}}}
    assert soc.ask(query(), f"{prefix}oc2/cmd/device/fw-7.site").headers["from"] == "fw-7.site"
    assert soc.ask(unknown, f"{prefix}oc2/cmd/device/fw-7.site").status == 404
    assert "oc2/cmd/device/fw-7/site" in site.log.read_text()
    assert site.stop() == 0


@pytest.fixture
def oc2ctl(fw7, tmp_path):
    """Run oc2ctl with the account soc."""
    link = {key: fw7.tables["broker"][key] for key in ("host", "port", "ca_file", "protocol")}
    (tmp_path / "password").write_text(ACCOUNTS["soc"])
    link |= {"username": "soc", "password_file": str(tmp_path / "password")}
    top = {"from": "soc", **fw7.tables[""]}
    lines = [f"{key} = {json.dumps(top[key])}" for key in ("from", "namespace") if key in top]
    lines += ["[broker]", *(f"{key} = {json.dumps(value)}" for key, value in link.items())]
    config = tmp_path / "oc2ctl.toml"
    config.write_text("\n".join(lines))

    def oc2ctl(*words):
        program = Path(sys.executable).with_name("oc2ctl")
        command = [program, *words, "--config", config, "--timeout", "3"]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    return oc2ctl


@pytest.mark.req("MQTT-21", "MQTT-22", "MQTT-37")
def test_oc2ctl_works_over_it(oc2ctl):
    done = oc2ctl(*["query", "features", "versions", "--device", "fw-7", "--expect", "1", "--json"])
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)["results"] == {"versions": ["1.0"]}


@pytest.mark.req("MQTT-22", "AMB-14")
def test_a_topic_that_the_account_may_not_write(broker_daemon, prefix, oc2ctl):
    done = oc2ctl("query", "features", "--topic", f"{prefix}oc2/rsp")
    assert done.returncode == 1
    if broker_daemon.protocol == "5":
        assert "the broker refused the message" in done.stderr
    else:
        assert "let us publish there" in done.stderr


@pytest.mark.req("MQTT-9", "MQTT-14", "AMB-51")
def test_over_a_restart_of_the_broker(broker_daemon, fw7, soc):
    assert fw7.stop() == 0
    asked = soc.send(deny("10.7.0.0/16"))
    wait_until(lambda: not soc._client._out_messages, what="the broker has it")
    broker_daemon.stop()
    fw7.launch()
    wait_until(lambda: fw7.told().get("link", {}).get("last_error"))
    broker_daemon.launch().wait()
    fw7.tables["broker"]["keep_alive"] = 299
    fw7.write_config()
    fw7.signal(signal.SIGHUP)  # in place of the rest of the back-off
    # the link may have come back by itself just before it is made anew
    there = broker_daemon.keeps_sessions
    wait_until(lambda: fw7.told().get("link", {}).get("session_present") is there)
    fw7.until_subscribed()
    assert soc.ask(deny("10.8.0.0/16")).status == 200
    if broker_daemon.keeps_sessions:
        assert soc.wait(asked)[0].status == 200
    # told once more if the link was made anew between the answer and its acknowledgement
    assert bool(soc.of(asked)) == broker_daemon.keeps_sessions
