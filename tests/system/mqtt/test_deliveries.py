"""What the broker delivers, and how it is acknowledged."""

from __future__ import annotations

import time

import pytest

from oc2d.engine.ports import Channel, Token
from tests.peer import ack, make_settings, publish, response, string
from tests.waiting import wait_until


def user(name: str, value: str) -> bytes:
    return b"\x26" + string(name) + string(value)


@pytest.mark.req("MQTT-54")
def test_nothing_is_acknowledged_before_the_engine_says_so(peer, start):
    _, engine = start(peer.port, decide=False)
    conn = peer.welcome()
    conn.send(publish("oc2/cmd/all", b"one", packet_id=5))
    wait_until(lambda: engine.got)
    conn.silent(0.1)
    engine.acknowledge(engine.got[0].token)
    seen = conn.expect("PUBACK")
    assert seen.packet_id == 5
    assert seen.code == 0


@pytest.mark.req("MQTT-54", "MQTT-55")
def test_acknowledgements_leave_in_order_of_arrival_each_once(peer, start):
    _, engine = start(peer.port, decide=False)
    conn = peer.welcome()
    for number in (3, 1, 2):
        conn.send(publish("oc2/cmd/all", b"x", packet_id=number, qos=1 + (number == 1)))
    wait_until(lambda: len(engine.got) == 3)
    first, second, third = (message.token for message in engine.got)
    engine.acknowledge(third, second, third)
    conn.silent(0.1)
    engine.acknowledge(first)
    engine.acknowledge(first, second, third, Token(first.connection, 99, 1))
    seen = [conn.read() for _ in range(3)]
    assert [(one.name, one.packet_id) for one in seen] == [
        ("PUBACK", 3),
        ("PUBREC", 1),
        ("PUBACK", 2),
    ]
    conn.silent(0.1)


@pytest.mark.req("MQTT-54")
def test_a_token_of_an_earlier_connection_acknowledges_nothing(peer, start):
    _, engine = start(peer.port, decide=False)
    conn = peer.welcome()
    conn.send(publish("oc2/cmd/all", b"old", packet_id=50))
    wait_until(lambda: engine.got)
    conn.close()
    conn = peer.welcome()
    conn.send(publish("oc2/cmd/all", b"new", packet_id=50))
    wait_until(lambda: len(engine.got) == 2)
    engine.acknowledge(engine.got[0].token)
    conn.silent(0.1)
    engine.acknowledge(engine.got[1].token)
    assert conn.expect("PUBACK").packet_id == 50


@pytest.mark.req("MQTT-49", "MQTT-54")
def test_qos_2_is_handed_on_at_publish_and_pubrec_waits_for_the_engine(peer, start):
    _, engine = start(peer.port, decide=False)
    conn = peer.welcome(codes=b"\x02")
    conn.send(publish("oc2/cmd/all", b"two", qos=2, packet_id=9))
    wait_until(lambda: engine.got)
    assert engine.got[0].token.qos == 2
    conn.silent(0.1)
    engine.acknowledge(engine.got[0].token)
    assert conn.expect("PUBREC").packet_id == 9
    conn.send(ack("PUBREL", 9))
    seen = conn.expect("PUBCOMP")
    assert (seen.packet_id, seen.code) == (9, 0)
    assert len(engine.got) == 1


@pytest.mark.req("MQTT-49", "MQTT-53")
def test_pubrel_is_answered_after_a_reconnect_and_for_an_unknown_identifier(peer, start):
    start(peer.port)
    conn = peer.welcome()
    conn.send(publish("oc2/cmd/all", b"two", qos=2, packet_id=9))
    conn.expect("PUBREC")
    conn.close()
    conn = peer.welcome(session_present=True)
    conn.send(ack("PUBREL", 9) + ack("PUBREL", 10))
    known, unknown = conn.expect("PUBCOMP"), conn.expect("PUBCOMP")
    assert (known.packet_id, known.code) == (9, 0)
    assert (unknown.packet_id, unknown.code) == (10, 0x92)


@pytest.mark.req("MQTT-50")
def test_a_redelivery_is_marked_and_a_repeat_of_an_undecided_one_is_not_handed_on(peer, start):
    _, engine = start(peer.port, decide=False)
    conn = peer.welcome()
    conn.send(publish("oc2/cmd/all", b"x", packet_id=4, dup=True))
    conn.send(publish("oc2/cmd/all", b"x", packet_id=4, dup=True))
    conn.send(publish("oc2/cmd/all", b"y", packet_id=5))
    wait_until(lambda: len(engine.got) == 2)
    assert [message.redelivered for message in engine.got] == [True, False]


def test_qos_0_is_handed_on_and_its_acknowledgement_is_nothing(peer, start):
    _, engine = start(peer.port)
    conn = peer.welcome()
    conn.send(publish("oc2/cmd/all", b"zero", qos=0))
    wait_until(lambda: engine.got)
    assert engine.got[0].token.qos == 0
    conn.silent(0.1)


@pytest.mark.req("MQTT-38", "MQTT-41", "MQTT-51", "AMB-2", "AMB-10", "AMB-15")
def test_topic_and_properties_are_handed_on_as_they_came(peer, start):
    _, engine = start(peer.port, namespace="vpf", subscriptions=("vpf/oc2/#", "oc2/cmd/all"))
    conn = peer.welcome(codes=b"\x01\x01")
    properties = (
        user("other", "x")
        + user("encoding", "json")
        + b"\x08"
        + string("x/y")
        + b"\x01\x01\x03"
        + string("application/openc2")
        + user("msgType", "req")
        + b"\x09\x00\x02\x00\xff"
        + b"\x02\x00\x00\x00\x3c"
        + b"\x0b\x81\x01"
    )
    conn.send(publish("vpf/oc2/cmd/device/fw-7", b"{}", properties=properties, retain=True))
    conn.send(publish("vpf/oc2/cmd/ap/Slpf", b"", packet_id=2))
    conn.send(publish("oc2/cmd/all", b"", packet_id=3))
    wait_until(lambda: len(engine.got) == 3)
    full, bare, foreign = engine.got
    assert (full.channel, full.profile, full.topic) == (
        Channel.DEVICE,
        None,
        "vpf/oc2/cmd/device/fw-7",
    )
    assert full.retained
    assert full.message_type == "req"
    assert full.encoding == "json"
    assert full.content_type == "application/openc2"
    assert full.payload_is_text is True
    assert full.correlation == b"\x00\xff"
    assert full.response_topic == "x/y"
    assert full.properties
    assert (bare.channel, bare.profile) == (Channel.PROFILE, "Slpf")
    assert bare.message_type is bare.encoding is bare.content_type is bare.correlation is None
    assert bare.payload_is_text is None
    assert (foreign.channel, foreign.profile) == (Channel.OTHER, None)


def test_what_came_in_one_wake_up_is_handed_on_in_one_call(peer, start):
    _, engine = start(peer.port)
    conn = peer.welcome()
    time.sleep(0.1)
    conn.send(b"".join(publish("oc2/cmd/all", b"x", packet_id=n) for n in range(1, 101)))
    wait_until(lambda: len(engine.got) == 100)
    assert len(engine.batches) <= 3
    assert [conn.expect("PUBACK").packet_id for _ in range(100)] == list(range(1, 101))


def test_one_call_hands_on_a_bounded_number_and_nothing_is_left_behind(peer, start):
    _, engine = start(peer.port)
    conn = peer.welcome()
    conn.send(b"".join(publish("oc2/cmd/all", b"", packet_id=n) for n in range(1, 1501)))
    wait_until(lambda: len(engine.got) == 1500)
    assert max(engine.batches) <= 256


@pytest.mark.req("MQTT-10", "MQTT-12")
def test_reading_pauses_while_more_than_receive_maximum_are_undecided(peer, start):
    session, engine = start(peer.port, decide=False, receive_maximum=10, keep_alive=1)
    conn = peer.accept()
    assert b"\x21\x00\x0a" in conn.expect("CONNECT").body
    conn.send(b"\x20\x03\x00\x00\x00")
    peer.grant(conn)
    wait_until(lambda: session.status().healthy)
    for number in range(1, 31):
        conn.send(publish("oc2/cmd/all", b"x", packet_id=number))
        time.sleep(0.002)  # so that they do not all come in one piece
    for _ in range(2):  # keep-alive holds, though no answer is read
        conn.expect("PINGREQ")
    assert session.status().connected
    assert session.status().reconnects == 0
    stuck = len(engine.got)
    assert 11 <= stuck < 30
    session.send([response(1)])
    conn.expect("PUBLISH")
    while len(engine.got) < 30:
        engine.acknowledge(*(message.token for message in engine.got))
        time.sleep(0.01)
    engine.acknowledge(*(message.token for message in engine.got))
    wait_until(lambda: session.status().undecided == 0)


def test_a_flood_at_qos_0_is_not_read_into_memory(peer, start):
    session, engine = start(peer.port, decide=False, receive_maximum=10, keep_alive=1)
    conn = peer.welcome()
    for _ in range(5000):
        conn.send(publish("oc2/cmd/all", b"x", qos=0))
    conn.expect("PINGREQ")
    assert 11 <= len(engine.got) < 5000
    done = 0
    while len(engine.got) < 5000:
        news = engine.got[done:]
        done += len(news)
        engine.acknowledge(*(message.token for message in news))
        time.sleep(0.001)
    engine.acknowledge(*(message.token for message in engine.got[done:]))
    wait_until(lambda: session.status().undecided == 0)


def test_a_packet_in_small_pieces_is_put_together(peer, start):
    _, engine = start(peer.port)
    conn = peer.welcome()
    data = publish("oc2/cmd/all", b"x" * 300, packet_id=1)
    for at in range(0, len(data), 7):
        conn.send(data[at : at + 7])
        time.sleep(0.001)
    conn.expect("PUBACK")
    assert engine.got[0].payload == b"x" * 300


def test_a_large_message_passes(peer, start):
    _, engine = start(peer.port)
    conn = peer.welcome()
    conn.send(publish("oc2/cmd/all", b"y" * 1_000_000, packet_id=1))
    conn.expect("PUBACK")
    assert len(engine.got[0].payload) == 1_000_000


@pytest.mark.req("MQTT-14", "MQTT-54")
def test_a_link_that_broke_while_reading_was_paused_is_made_anew(peer, start):
    session, engine = start(peer.port, decide=False, receive_maximum=3)
    conn = peer.welcome()
    for number in range(1, 6):
        conn.send(publish("oc2/cmd/all", b"x", packet_id=number))
    wait_until(lambda: session.status().undecided > 3)
    session.reconfigure(make_settings(peer.port, receive_maximum=3))
    conn.expect("DISCONNECT")
    conn.close()
    conn = peer.welcome()
    engine.acknowledge(*(message.token for message in engine.got))  # until then it holds them
    conn.send(publish("oc2/cmd/all", b"new", packet_id=1))
    wait_until(lambda: engine.got[-1].payload == b"new")
    engine.acknowledge(engine.got[0].token, engine.got[-1].token)
    assert conn.expect("PUBACK").packet_id == 1
    conn.silent(0.1)
