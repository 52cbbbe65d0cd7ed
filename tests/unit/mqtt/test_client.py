"""The private names of paho that `oc2d.mqtt.client` stands on, and what it makes of them."""

from __future__ import annotations

import inspect
import socket
import struct
import subprocess
import sys

import paho.mqtt.client as paho
import pytest
from paho.mqtt import _packet
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.reasoncodes import ReasonCode

from oc2d.mqtt import client
from oc2d.mqtt.client import Link, LinkLost
from oc2d.mqtt.packets import Ack, Connack, Disconnect, Kind, Suback, reason_text
from oc2d.mqtt.settings import LinkSettings

OVERRIDDEN = {
    "_sock_recv": ["self", "bufsize"],
    "_packet_handle": ["self"],
    "_packet_queue": ["self", "command", "packet", "mid", "qos", "info"],
    "_mid_generate": ["self"],
}
CALLED = {
    "_packet_read": ["self"],
    "_send_connect": ["self", "keepalive"],
    "_send_subscribe": ["self", "dup", "topics", "properties"],
}
ATTRIBUTES = ["_clean_start", "_last_mid", "_connect_properties", "_in_packet", "_protocol"]


@pytest.fixture
def pair():
    ours, theirs = socket.socketpair()
    yield ours, theirs
    ours.close()
    theirs.close()


def make(sock, **changes):
    return Link(LinkSettings(host="h", port=1, client_id="c", **changes), sock, None)


@pytest.mark.req("MQTT-1", "MQTT-53")
@pytest.mark.parametrize(("name", "parameters"), [*OVERRIDDEN.items(), *CALLED.items()])
def test_paho_has_the_methods_that_are_overridden_or_called(name, parameters):
    assert list(inspect.signature(getattr(paho.Client, name)).parameters) == parameters


@pytest.mark.parametrize("name", ATTRIBUTES)
def test_paho_has_the_attributes_that_are_used(name):
    client = paho.Client(paho.CallbackAPIVersion.VERSION2)
    assert hasattr(client, name)


def test_paho_has_none_of_our_own_names():
    ours = {name for name in vars(Link).keys() - OVERRIDDEN.keys() if not name.startswith("__")}
    ours |= {"v5", "settings", "keep_alive", "last_sent", "last_received", "awaiting_pong", "sock"}
    ours |= {"last_brought", "_buffer", "_at", "_outgoing", "_packets"}
    client = paho.Client(paho.CallbackAPIVersion.VERSION2)
    assert not {name for name in ours if hasattr(client, name)}


@pytest.mark.parametrize("name", ["decode_connack", "decode_suback"])
def test_paho_has_the_decoders(name):
    assert list(inspect.signature(getattr(_packet, name)).parameters) == [
        "header",
        "packet",
        "protocol",
    ]


@pytest.mark.req("MQTT-2")
def test_nothing_but_connect_is_queued_at_first(pair):
    link = make(pair[0])
    link.flush()
    data = pair[1].recv(1000)
    assert data[0] == 0x10
    assert data[1] == len(data) - 2
    assert data[9] == 0  # flags


def test_own_identifiers_stay_above_those_of_responses_and_wrap(pair):
    link = make(pair[0])
    assert link.subscribe_all(["a"]) == 60_001
    link._last_mid = 65_534
    assert [link.subscribe_all(["a"]) for _ in range(3)] == [65_535, 60_001, 60_002]


@pytest.mark.req("MQTT-53")
def test_packets_are_decoded_in_order_and_bounded(pair):
    link = make(pair[0])
    pair[1].send(
        b"\x20\x06\x01\x00\x03\x21\x00\x07"
        b"\x40\x02\x00\x01"
        b"\x50\x03\x00\x02\x97"
        b"\x62\x04\x00\x03\x92\x00"
        b"\x90\x05\xea\x61\x00\x02\x87"
        b"\xe0\x02\x8e\x00"
    )
    link.fill()
    first = link.packets(2)
    rest = link.packets(9)
    connack = first[0]
    assert isinstance(connack, Connack)
    assert connack.session_present
    assert connack.refusal is None
    assert connack.limits.receive_maximum == 7
    assert first[1:] == [Ack(Kind.PUBACK, 1, 0)]
    assert rest == [
        Ack(Kind.PUBREC, 2, 0x97),
        Ack(Kind.PUBREL, 3, 0x92),
        Suback(60_001, (2, 0x87)),
        Disconnect("Session taken over (0x8e)"),
    ]


@pytest.mark.req("MQTT-12", "MQTT-5")
def test_a_server_keep_alive_of_0_does_not_switch_the_mechanism_off(pair):
    link = make(pair[0], keep_alive=60)
    pair[1].send(b"\x20\x06\x00\x00\x03\x13\x00\x00")
    link.fill()
    link.packets(1)
    assert link.keep_alive == 60


@pytest.mark.req("MQTT-12")
@pytest.mark.parametrize("size", [1, 268_435_455, 268_435_461, 0xFFFF_FFFF])
def test_a_broker_may_take_packets_of_any_size(pair, size):
    """FlashMQ says 268435461, and EMQX 268435456 for 256 MB."""
    link = make(pair[0])
    pair[1].send(b"\x20\x08\x00\x00\x05\x27" + struct.pack("!I", size))
    link.fill()
    (connack,) = link.packets(1)
    assert connack.refusal is None
    assert connack.limits.maximum_packet_size == min(size, 268_435_455)


@pytest.mark.req("MQTT-53")
@pytest.mark.parametrize(
    "properties",
    [b"\x27\0\0\0\0", b"\x27\0\0", b"\x7e\0", b"\x24\1\x24\1", b"\x21\0\0", b"\x1f\0\1\xff"],
)
def test_a_connack_that_breaks_the_protocol_is_refused(pair, properties):
    link = make(pair[0])
    body = b"\0\0" + bytes([len(properties)]) + properties
    pair[1].send(bytes([0x20, len(body)]) + body)
    link.fill()
    with pytest.raises(LinkLost, match="malformed"):
        link.packets(1)


@pytest.mark.req("MQTT-52")
def test_the_ping_is_due_at_95_percent_of_285_seconds_before_300(pair):
    link = make(pair[0])
    assert 284.5 < link.ping_due() - link.last_sent <= 285


def test_the_end_of_the_socket_is_told_after_what_came_before(pair):
    link = make(pair[0])
    pair[1].send(b"\x40\x02\x00\x01")
    pair[1].close()
    link.fill()
    assert link.packets(9) == [Ack(Kind.PUBACK, 1, 0)]
    with pytest.raises(LinkLost):
        link.fill()


def test_reasons_have_a_name_or_at_least_a_number():
    assert reason_text(PacketTypes.PUBACK, 0x97) == "Quota exceeded (0x97)"
    assert reason_text(PacketTypes.PUBACK, 0x55) == "reason 0x55"
    assert ReasonCode(PacketTypes.SUBACK, identifier=0x87).value == 0x87
    assert struct.calcsize("!H") == 2


def test_a_broker_that_makes_us_answer_and_reads_nothing_takes_no_memory(pair, monkeypatch):
    monkeypatch.setattr(client, "_MOST_UNTAKEN", 10_000)
    pair[0].setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    link = make(pair[0])

    def answer_for_ever():
        while True:
            link.acknowledge(Kind.PUBCOMP, 7, 0x92)
            link.flush()

    with pytest.raises(LinkLost, match="takes nothing"):
        answer_for_ever()
    assert link.wants_write < 10_100


def test_dnspython_is_left_to_those_who_need_it():
    program = """
import sys
import oc2d.mqtt.client
assert "dns.resolver" not in sys.modules
import dns.resolver
assert dns.resolver.Resolver
"""
    subprocess.run([sys.executable, "-c", program], check=True)
