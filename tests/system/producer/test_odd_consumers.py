"""oc2ctl with Consumers as they are deployed, each as far as it departs from the texts.

What they do is described in docs/conformance.md's sources; here they are scripted anew, on a real
broker, with a client that lets them say anything.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import paho.mqtt.client as paho
import pytest
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from oc2d.producer.cli import main
from oc2d.producer.client import Producer
from tests.waiting import wait_until


class OddConsumer:
    """Answers each message on its topics with what `answer(message, payload)` says, as it says."""

    def __init__(self, port: int, answer: Callable[..., Any], topic: str, protocol: int) -> None:
        self.got: list[paho.MQTTMessage] = []
        self._answer = answer
        self._ready = False
        self._client = paho.Client(
            paho.CallbackAPIVersion.VERSION2, f"odd{uuid.uuid4().hex[:18]}", protocol=protocol
        )
        self._client.on_connect = lambda *_: self._client.subscribe(topic, 1)
        self._client.on_subscribe = lambda *_: setattr(self, "_ready", True)
        self._client.on_message = self._on_message
        self._client.connect("127.0.0.1", port)
        self._client.loop_start()
        wait_until(lambda: self._ready)

    def _on_message(self, _client: paho.Client, _data: object, got: paho.MQTTMessage) -> None:
        self.got.append(got)
        for said in self._answer(got, json.loads(got.payload)):
            self._client.publish(**{"topic": "oc2/rsp", "qos": 1, **said})

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()


@pytest.fixture
def odd(broker) -> Iterator[Callable[..., OddConsumer]]:
    made: list[OddConsumer] = []

    def start(answer: Any, topic: str = "oc2/cmd/#", protocol: int = paho.MQTTv5) -> OddConsumer:
        made.append(OddConsumer(broker.port, answer, topic, protocol))
        return made[-1]

    yield start
    for one in made:
        one.close()


@pytest.fixture
def oc2ctl(broker, capsys) -> Callable[[str], tuple[int, str, str]]:
    def run(line: str) -> tuple[int, str, str]:
        link = ["--broker", f"127.0.0.1:{broker.port}", "--no-tls", "--from", "soc"]
        code = main([*line.split(), *link])
        out, err = capsys.readouterr()
        told = [line for line in err.splitlines() if "no TLS" not in line]
        return code, out, "\n".join(told)

    return run


def wrapped(request: dict[str, Any], response: Any, **headers: Any) -> bytes:
    given = {"request_id": request["headers"]["request_id"], "from": "odd", **headers}
    return json.dumps({"headers": given, "body": {"openc2": {"response": response}}}).encode()


def fields(*user: tuple[str, str], **more: Any) -> Properties:
    made = Properties(PacketTypes.PUBLISH)
    made.UserProperty = list(user)
    for name, value in more.items():
        setattr(made, name, value)
    return made


def strict_about_properties(got: paho.MQTTMessage, request: dict[str, Any]) -> Iterator[Any]:
    """Compare the whole list of properties with its order, and take `profile` only."""
    command = request["body"]["openc2"]["request"]
    right = (
        got.properties.UserProperty == [("msgType", "req"), ("encoding", "json")]
        and got.properties.PayloadFormatIndicator == 1
        and got.properties.ContentType == "application/openc2"
        and command.keys() <= {"action", "target", "args", "profile", "command_id"}
        and request["headers"].keys() <= {"request_id", "created", "from", "to"}
    )
    yield {
        "payload": wrapped(request, {"status": 200 if right else 400}, to="soc"),
        "properties": fields(
            ("msgType", "rsp"), ("encoding", "json"), ContentType="application/openc2"
        ),
    }


@pytest.mark.req("MQTT-40", "AMB-30", "AMB-13", "AMB-2", "MQTT-22", "LANG-42")
def test_one_that_compares_every_property_and_knows_no_actuator(odd, oc2ctl) -> None:
    consumer = odd(strict_about_properties, "oc2/cmd")
    line = "deny ipv4_net 203.0.113.1 --actuator slpf hostname=fw --topic oc2/cmd --expect 1"
    code, out, _ = oc2ctl(line)
    assert (code, out) == (1, "odd  400\n")
    assert oc2ctl(f"{line} --profile-field") == (0, "odd  200\n", "")
    assert consumer.got[1].topic == "oc2/cmd"


@pytest.mark.req("LANG-41", "LANG-42")
@pytest.mark.parametrize(
    ("response", "code", "shown", "warned"),
    [
        ({"status": 200, "results": "done"}, 0, '"done"', "results are no object"),
        ({"status": 200, "results": None}, 0, "200", "results are no object"),
        ({"status": 200, "results": {}}, 0, "200", "results are no object"),
        ({"status": 201}, 0, "201", "status 201 is not in the language"),
        ({"status": 299, "status_text": "failed"}, 0, "299", "not in the language"),
        ({"status": 422, "status_text": "OK"}, 1, "422", "not in the language"),
        ({"status": 500, "status_text": "Traceback:\n  File"}, 1, "Traceback", ""),
        ({"status": 200, "status_text": ["x"]}, 0, "200", "status_text is no text"),
        ({"status": 200, "status_code": 200}, 0, "200", "unknown member 'status_code'"),
        ({"status": 200, "results": {"versions": ["2.0"], "x": {"y": 1}}}, 0, "2.0", ""),
        ({"status": "200"}, 1, "no status", "integer status"),
        ({"status": True}, 1, "no status", "integer status"),
        ("200", 1, "no status", "a response is an object"),
    ],
)
def test_one_whose_response_is_not_what_the_language_says(
    odd, oc2ctl, response, code, shown, warned
) -> None:
    ready = fields(("msgType", "rsp"), ("encoding", "json"), ContentType="application/openc2")

    def answer(_got: object, request: dict[str, Any]) -> Iterator[Any]:
        yield {"payload": wrapped(request, response), "properties": ready}

    odd(answer)
    got = oc2ctl("query features --all --expect 1")
    assert got[0] == code
    assert shown in got[1]
    assert got[1].count("\n") >= 1
    assert "\n  File" not in got[1]  # what a Consumer says stays on its line
    assert warned in got[2]
    assert bool(warned) == bool(got[2])


def test_a_refusal_is_not_blamed_on_a_link_that_broke(odd, oc2ctl, monkeypatch) -> None:
    def answer(_got: object, request: dict[str, Any]) -> Iterator[Any]:
        yield {"payload": wrapped(request, {"status": 500}), "qos": 0}

    odd(answer)
    monkeypatch.setattr(Producer, "last_loss", "it broke")
    code, out, err = oc2ctl("query features --all --expect 1")
    assert (code, out) == (1, "odd  500\n")
    assert "link" not in err


@pytest.mark.req("LANG-42", "MQTT-29", "AMB-15")
def test_one_that_publishes_at_qos_0_without_any_property(odd, oc2ctl) -> None:
    def answer(_got: object, request: dict[str, Any]) -> Iterator[Any]:
        yield {"payload": wrapped(request, {"status": 200}), "qos": 0}

    odd(answer)
    code, out, err = oc2ctl("query features --all --expect 1")
    assert (code, out) == (0, "odd  200\n")
    for warning in ("sent at QoS 0", "msgType is missing", "encoding is missing"):
        assert warning in err


@pytest.mark.req("LANG-42", "AMB-14", "AMB-15")
def test_one_of_mqtt_3_1_1_whose_headers_are_topics(odd, oc2ctl) -> None:
    def answer(_got: object, request: dict[str, Any]) -> Iterator[Any]:
        heads = {"from": "oc2/rsp", "to": "oc2/cmd/device/oif", "actuator_id": "x"}
        yield {"payload": wrapped(request, {"status": 200}, **heads)}

    odd(answer, protocol=paho.MQTTv311)
    code, out, _ = oc2ctl("query features --all --expect 1")
    assert (code, out) == (0, "oc2/rsp  200\n")


@pytest.mark.req("LANG-42", "AMB-22", "MQTT-36")
def test_one_with_members_of_its_own_and_without_a_name(odd, oc2ctl) -> None:
    def answer(_got: object, request: dict[str, Any]) -> Iterator[Any]:
        tree = json.loads(wrapped(request, {"status": 200}))
        del tree["headers"]["from"]
        tree |= {"content_type": "application/openc2", "status_code": 200}
        wrong = fields(("encoding", "json"), ("msgType", "response"), ContentType="text/plain")
        yield {"payload": json.dumps(tree).encode(), "properties": wrong}

    odd(answer)
    code, out, err = oc2ctl("query features --all --expect 1")
    assert (code, out) == (0, "?  200\n")
    for warning in ("headers.from is missing", "msgType is 'response'", "Content Type is"):
        assert warning in err


@pytest.mark.req("LANG-42", "MQTT-31", "AMB-52")
def test_one_that_answers_in_another_encoding_than_it_says(odd, oc2ctl) -> None:
    import cbor2  # noqa: PLC0415 - only here

    said = fields(("msgType", "rsp"), ("encoding", "cbor"), PayloadFormatIndicator=1)

    def answer(_got: object, request: dict[str, Any]) -> Iterator[Any]:
        tree = json.loads(wrapped(request, {"status": 200}))
        yield {"payload": cbor2.dumps(tree), "properties": said}

    odd(answer)
    code, out, err = oc2ctl("query features --all --expect 1")
    assert (code, out) == (0, "odd  200\n")
    assert "Content Type is missing" in err


@pytest.mark.req("LANG-42")
def test_one_that_answers_with_rubbish_first_and_twice_in_the_end(odd, oc2ctl) -> None:
    def answer(_got: object, request: dict[str, Any]) -> Iterator[Any]:
        yield {"payload": b"{'status': 200}"}
        yield {"payload": b"\xff" * 50}
        yield {"payload": wrapped(request, {"status": 102})}
        yield {"payload": wrapped(request, {"status": 200}), "retain": True}
        yield {"payload": b"", "retain": True}  # and take it away again

    odd(answer)
    code, out, err = oc2ctl("query features --all --expect 1")
    assert (code, out) == (0, "odd  102\nodd  200\n")
    assert "sent with RETAIN" in err
