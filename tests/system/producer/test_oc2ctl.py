"""oc2ctl with a real broker and a scripted Consumer: responses and exit statuses."""

from __future__ import annotations

import io
import json
import threading
import time
from typing import Any

import pytest

from oc2d.engine.ports import Outgoing
from oc2d.language.codec import Encoding
from tests.system.producer.conftest import BAD, DENY, OK, RSP, WAIT, answering
from tests.waiting import wait_until


@pytest.mark.req("LANG-88", "LANG-41", "MQTT-28")
def test_a_response_is_printed_and_ends_the_run(broker, consumer, run) -> None:
    fake = consumer(broker.port, answering(OK))
    began = time.monotonic()
    assert run(f"{DENY} --from soc --to fw-7") == (0, "fw-7  200  rule_number=999\n", "")
    assert time.monotonic() - began < 3
    (request,) = fake.requests
    assert fake.got[0].topic == "oc2/cmd/device/fw-7"
    assert request["headers"]["from"] == "soc"
    assert request["headers"]["to"] == ["fw-7"]
    assert request["body"]["openc2"]["request"] == {
        "action": "deny",
        "target": {"ipv4_net": "203.0.113.0/24"},
        "args": {"response_requested": "complete"},
    }


@pytest.mark.parametrize(
    ("responses", "options", "code", "out", "err"),
    [
        ((BAD,), "", 1, "fw-7  501  Option not supported\n", ""),
        ((WAIT, OK), "", 0, "fw-7  102\nfw-7  200  rule_number=999\n", ""),
        ((WAIT, OK), "--response ack", 0, "fw-7  102\n", ""),
        ((WAIT, OK), "--response status", 0, "fw-7  102\nfw-7  200  rule_number=999\n", ""),
        ((BAD,), "--response ack", 1, "fw-7  501  Option not supported\n", ""),
        ((WAIT,), "--timeout 0.3", 1, "fw-7  102\n", "accepted, not finished within 0.3 s"),
        ((), "--timeout 0.3", 1, "", "no response within 0.3 s"),
        ((OK,), "--timeout 0.3 --expect 2", 1, "fw-7  200  rule_number=999\n", "1 of 2"),
        ((), "--response none", 0, "", ""),
        (({"status": 200, "results": "x"},), "", 0, "fw-7  200  x\n", "results are no object"),
        (({"status": "200"},), "", 1, "fw-7  no status\n", "integer status"),
    ],
)
@pytest.mark.req("LANG-41", "LANG-42", "AMB-16", "AMB-18", "AMB-25")
def test_the_exit_status_comes_from_the_responses(
    broker, consumer, run, responses, options, code, out, err
) -> None:
    consumer(broker.port, answering(*responses))
    got = run(f"{DENY} {options}")
    assert got[:2] == (code, out.replace("  x\n", '  "x"\n'))
    assert err in got[2]
    assert bool(err) == bool(got[2])


@pytest.mark.req("MQTT-20", "MQTT-21", "AMB-3")
def test_a_response_on_both_topics_counts_once(broker, consumer, run) -> None:
    consumer(broker.port, answering(OK, topics=(RSP, "oc2/rsp/soc")))
    code, out, _ = run("query features --all --from soc --timeout 0.5")
    assert (code, out.count("fw-7")) == (0, 1)


@pytest.mark.req("LANG-41", "MQTT-40")
@pytest.mark.parametrize(("expect", "code"), [(2, 1), (1, 0)])
def test_one_consumer_that_answers_twice_is_not_two(broker, consumer, run, expect, code) -> None:
    """As after a redelivery: the response is repeated, with another `created`."""
    again = {**OK, "status_text": "again"}
    consumer(broker.port, answering(OK, again))
    got, _, err = run(f"query features --all --timeout 0.5 --expect {expect}")
    assert got == code
    assert ("1 of 2 responses" in err) is (code == 1)


@pytest.mark.req("MQTT-21")
def test_a_response_on_the_topic_of_the_producer_is_heard(broker, consumer, run) -> None:
    consumer(broker.port, answering(OK, topics=("oc2/rsp/soc",)))
    assert run(f"{DENY} --from soc")[0] == 0


def test_responses_of_several_consumers_are_shown_and_one_failure_is_a_failure(
    broker, consumer, run
) -> None:
    consumer(broker.port, answering(OK, sender="a"), client_id="a")
    consumer(broker.port, answering(BAD, sender="b"), client_id="b")
    code, out, _ = run("query features --all --expect 2")
    assert code == 1
    assert sorted(out.splitlines()) == [
        "a  200  rule_number=999",
        "b  501  Option not supported",
    ]


@pytest.mark.req("LANG-2")
def test_responses_to_other_requests_and_noise_are_ignored(broker, consumer, run) -> None:
    def answer(request: dict[str, Any]):
        yield RSP, b"\xff"
        yield RSP, b"{}"
        yield RSP, request
        stranger = {"headers": {"request_id": "other", "from": "x"}}
        yield RSP, {**stranger, "body": {"openc2": {"response": BAD}}}
        yield from answering(OK)(request)

    consumer(broker.port, answer)
    assert run(DENY)[:2] == (0, "fw-7  200  rule_number=999\n")


@pytest.mark.req("AMB-14", "LANG-42")
def test_a_consumer_on_mqtt_3_is_understood_with_a_warning(broker, consumer, run) -> None:
    consumer(broker.port, answering(OK), protocol="3.1.1")
    code, out, err = run(DENY)
    assert (code, out) == (0, "fw-7  200  rule_number=999\n")
    assert "msgType is missing" in err


def test_json_output_is_one_object_a_response(broker, consumer, run) -> None:
    consumer(broker.port, answering(WAIT, OK))
    code, out, _ = run(f"{DENY} --json")
    first, second = map(json.loads, out.splitlines())
    assert code == 0
    assert (first["status"], second["status"]) == (102, 200)
    assert second["results"] == {"slpf": {"rule_number": 999}}
    assert second["topic"] == RSP


@pytest.mark.req("MQTT-22")
def test_namespace_and_forced_topics_are_used(broker, consumer, run) -> None:
    fake = consumer(broker.port, answering(OK, topics=("vpf/oc2/rsp",)), topic="#")
    assert run("query features --namespace vpf --profile slpf --expect 1")[0] == 0
    assert run("query features --namespace vpf --topic oc2/cmd --expect 1")[0] == 0
    topics = [message.topic for message in fake.got]
    assert [topic for topic in topics if "cmd" in topic] == ["vpf/oc2/cmd/ap/slpf", "oc2/cmd"]


@pytest.mark.req("MQTT-29", "MQTT-49")
def test_requests_go_out_at_qos_2_when_the_file_says_so(broker, consumer, run, tmp_path) -> None:
    fake = consumer(broker.port, answering(OK), qos=2)
    file = tmp_path / "oc2ctl.toml"
    file.write_text("[broker]\nqos = 2\n")
    assert run(f"{DENY} --config {file}")[0] == 0
    assert [message.token.qos for message in fake.got] == [2]


def test_a_broker_that_restarts_while_we_wait_loses_no_later_response(
    broker, consumer, run
) -> None:
    fake = consumer(broker.port, lambda _: ())

    def restart() -> None:
        wait_until(lambda: fake.got, what="the request has arrived")
        broker.stop()
        broker.start()
        again = "oc2/rsp/soc (QoS 2)"
        wait_until(lambda: broker.log.read_text().count(again) == 2, what="subscribed again")
        wait_until(lambda: fake.session.status().subscriptions, what="the Consumer is back")
        ((topic, message),) = answering(OK)(fake.requests[0])
        fake.session.send([Outgoing(1, topic, json.dumps(message).encode(), Encoding.JSON)])

    thread = threading.Thread(target=restart)
    thread.start()
    assert run(f"{DENY} --from soc --timeout 30")[0] == 0
    thread.join()


def test_a_response_of_some_megabytes_is_shown(broker, consumer, run) -> None:
    """As of a Consumer that tells its software."""
    large = {"status": 200, "results": {"x-sbom": {"content": "x" * (3 << 20)}}}
    consumer(broker.port, answering(large))
    code, out, _ = run(f"{DENY} --from soc --timeout 10")
    assert code == 0
    assert len(out) > 3 << 20


def test_a_file_is_sent_as_a_message_or_as_it_is(broker, consumer, run, tmp_path, monkeypatch):
    fake = consumer(broker.port, answering(OK, topics=("oc2/rsp/orch",)))
    file = tmp_path / "c.json"
    body = {"openc2": {"request": {"action": "query", "target": {"features": []}}}}
    message = {"headers": {"request_id": "uuid_1", "from": "orch"}, "body": body}
    file.write_text(json.dumps(message, indent=1))
    assert run(f"send {file} --device fw-7")[0] == 0
    assert run(f"send --raw {file} --device fw-7")[0] == 0
    assert fake.requests[0]["body"] == body
    assert fake.requests[0]["headers"]["created"]
    assert fake.got[1].payload == file.read_bytes()
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b'{"action": "dny"}')))
    code, _, err = run("send - --device fw-7")
    assert code == 2
    assert "missing target" in err
    assert run(f"send {tmp_path}/none --all")[0] == 2
