from __future__ import annotations

import time
from types import SimpleNamespace

import pytest

from oc2d.language.codec import Encoding, InputLimits, decode, recognise
from tests.consumer import delete
from tests.peer import short, string
from tests.recorder import Recorder

ALL, PROFILE, DEVICE = "oc2/cmd/all", "oc2/cmd/ap/slpf", "oc2/cmd/device/zulu"
CONNECTION = {
    "protocol": "tcp",
    "src_addr": "1.2.3.4",
    "src_port": 10996,
    "dst_addr": "198.2.3.4",
    "dst_port": 80,
}
#: The first byte of a response: an object, a map of two, an array of two.
FIRST = {"json": b"{", "cbor": b"\xa2", "cbor-concise": b"\x82"}


@pytest.fixture
def record():
    """A function that puts a Recorder in front of a broker; arguments as the class has them."""
    made = []

    def start(*arguments):
        made.append(Recorder(*arguments))
        return made[-1]

    yield start
    for recorder in made:
        recorder.close()


@pytest.fixture(scope="module")
def host(make_broker_host):
    return make_broker_host()


@pytest.fixture(scope="module")
def zulu(host):
    made = host.consumer(
        actuators_slpf={"asset_id": "30", "named_groups": ["perimeter"]},
        limits={"rate_per_minute": 100_000},
    )
    return made.start()


@pytest.fixture(scope="module")
def producer(host, zulu):
    del zulu
    return host.producer()


@pytest.fixture
def clean(zulu, producer):
    """Nothing is left of a test."""
    yield
    for number in zulu.rules():
        assert producer.ask(delete(number)).status == 200


@pytest.fixture(params=["json", "cbor", "cbor-concise"])
def soc(request, producer, clean):
    """A Producer that speaks one of the forms."""
    del clean
    form = request.param

    def ask(sent, topic=DEVICE, **more):
        reply = producer.ask(sent, topic, encoding=form, **more)
        check_form(reply, form)
        return reply

    def silent(sent, topic=DEVICE, **more):
        producer.assert_silent(producer.send(sent, topic, encoding=form, **more))

    return SimpleNamespace(
        form=form,
        ask=ask,
        silent=silent,
        send=lambda sent, topic=DEVICE, **more: producer.send(sent, topic, encoding=form, **more),
        wait=producer.wait,
        producer=producer,
    )


def check_form(reply, form="json"):
    """Show that a response is what MQTT 3.2 and the wrapper want, to the last member."""
    assert reply.topic == "oc2/rsp"
    assert (reply.qos, reply.retain) == (1, False)
    assert reply.properties == {
        "PayloadFormatIndicator": int(form == "json"),
        "ContentType": "application/openc2",
        "UserProperty": [("msgType", "rsp"), ("encoding", form.partition("-")[0])],
    }
    assert FIRST[form] == reply.payload[:1]
    assert reply.message.keys() == {"headers", "body"}
    assert reply.message["body"].keys() == {"openc2"}
    assert reply.message["body"]["openc2"].keys() == {"response"}
    assert reply.headers.keys() <= {"request_id", "created", "from", "to"}
    assert reply.headers["from"] == "zulu"
    assert abs(reply.headers["created"] - time.time() * 1000) < 60_000
    assert reply.response.keys() <= {"status", "status_text", "results"}
    assert type(reply.status) is int
    assert "Traceback" not in reply.text
    assert ".py" not in reply.text


def message_of(publish, topic, kind, form, qos, more=b""):
    """Show that a PUBLISH has these fields and no others; return its message, which is new."""
    announced = "json" if form == "json" else "cbor"
    fields = (
        bytes([1, form == "json"])
        + b"\x03" + string("application/openc2")
        + b"\x26" + string("msgType") + string(kind)
        + b"\x26" + string("encoding") + string(announced)
        + more
    )  # fmt: skip
    head = string(topic) + short(publish.packet_id) + bytes([len(fields)]) + fields
    assert publish.flags == qos << 1  # neither DUP nor RETAIN
    assert publish.body.startswith(head)
    payload = publish.body.removeprefix(head)
    assert recognise(announced, payload) is Encoding(form)
    message = decode(payload, Encoding(form), InputLimits())
    created = message["headers"].pop("created")
    assert type(created) is int
    assert 0 <= time.time() * 1000 - created < 60_000
    return message
