"""What a broker may do to our memory and patience: sizes, floods, leftovers of its session."""

from __future__ import annotations

import socket
import threading

import pytest
from structlog.testing import capture_logs

from oc2d.mqtt import conversation, events
from oc2d.mqtt.dial import Dial
from tests.peer import ack, make_settings, packet, publish, response, short, string
from tests.waiting import wait_until

MEGABYTE = 1 << 20


def publish_311(payload: bytes, packet_id: int) -> bytes:
    return packet(0x32, string("oc2/cmd/all") + short(packet_id) + payload)


@pytest.mark.req("AMB-14", "MQTT-15", "LANG-77")
def test_under_3_1_1_a_message_beyond_all_bounds_is_passed_over_and_acknowledged(peer, start):
    session, engine = start(peer.port, protocol="3.1.1")
    conn = peer.accept()
    conn.expect("CONNECT")
    conn.send(packet(0x20, b"\0\0"))
    conn.send(packet(0x90, short(conn.expect("SUBSCRIBE").packet_id) + b"\x01"))
    for packet_id, size in ((1, 1), (2, 5 * MEGABYTE), (3, MEGABYTE), (4, 9 * MEGABYTE), (5, 2)):
        sender = threading.Thread(target=conn.send, args=(publish_311(b"x" * size, packet_id),))
        sender.start()
        assert conn.expect("PUBACK").packet_id == packet_id
        sender.join()
    assert session.status().reconnects == 0
    sizes = [len(message.payload) for message in engine.got]
    assert sizes[0] == 1
    assert sizes[4] == 2
    assert all(MEGABYTE <= size < 2 * MEGABYTE for size in sizes[1:4]), sizes


@pytest.mark.req("MQTT-54", "LANG-77")
@pytest.mark.parametrize("properties", [b"", 70_000 * b"\x26\0\x05other\0\x09something"])
def test_a_message_beyond_what_we_asked_of_the_broker_is_passed_over_as_well(
    peer, start, properties
):
    """ejabberd delivers it all the same, and would do so again on each connection."""
    session, engine = start(peer.port)
    conn = peer.welcome()
    large = publish("oc2/cmd/all", b"x" * 2 * MEGABYTE, packet_id=1, properties=properties)
    sender = threading.Thread(target=conn.send, args=(large,))
    sender.start()
    assert conn.expect("PUBACK").packet_id == 1
    sender.join()
    conn.send(publish("oc2/cmd/all", b"small", packet_id=2))
    assert conn.expect("PUBACK").packet_id == 2
    assert [len(message.payload) > MEGABYTE - 100 for message in engine.got] == [True, False]
    assert session.status().reconnects == 0


@pytest.mark.req("MQTT-54")
def test_reading_pauses_while_the_undecided_are_too_many_bytes(peer, start, monkeypatch):
    monkeypatch.setattr(conversation, "_MOST_HELD", 100_000)
    session, engine = start(peer.port, decide=False)
    conn = peer.welcome()
    for packet_id in range(1, 13):
        conn.send(publish("oc2/cmd/all", b"x" * 9000, packet_id=packet_id))
    wait_until(lambda: session.status().undecided == 12)
    for packet_id in range(13, 40):
        conn.send(publish("oc2/cmd/all", b"x" * 9000, packet_id=packet_id))
    conn.silent(0.1)
    assert len(engine.got) == 12
    wait_until(lambda: engine.acknowledge(*(m.token for m in engine.got)) or len(engine.got) == 39)
    wait_until(lambda: session.status().undecided == 0)


@pytest.mark.req("MQTT-14", "MQTT-54")
def test_a_link_that_flaps_while_nothing_is_decided_brings_no_more_than_we_can_hold(peer, start):
    session, engine = start(peer.port, decide=False, receive_maximum=10)
    for _ in range(5):
        conn = peer.welcome(session_present=True, codes=b"")
        for packet_id in range(1, 31):
            conn.send(publish("oc2/cmd/all", b"x", packet_id=packet_id, dup=True))
        wait_until(lambda: session.status().connected)
        wait_until(lambda: session.status().undecided > 10)
        session.reconfigure(make_settings(peer.port, receive_maximum=10))
        conn.at_end()
        conn.close()
    assert len(engine.got) <= 30  # what came before the first pause
    conn = peer.welcome(session_present=True, codes=b"")
    wait_until(lambda: session.status().connected)
    engine.acknowledge(*(message.token for message in engine.got))
    peer.grant(conn)
    conn.send(publish("oc2/cmd/all", b"new", packet_id=7))
    wait_until(lambda: engine.got[-1].payload == b"new")
    assert session.status().undecided == 1


@pytest.mark.req("MQTT-14", "MQTT-54")
def test_acknowledgements_are_read_though_there_is_no_room_for_what_comes_before_them(peer, start):
    """The engine may wait for exactly these before it decides anything."""
    session, engine = start(peer.port, decide=False, receive_maximum=2, answer_timeout=0.3)
    session.send([response(1)])
    conn = peer.welcome(session_present=True)
    assert conn.expect("PUBLISH").packet_id == 1
    for packet_id in (11, 12):
        conn.send(publish("oc2/cmd/all", b"x", packet_id=packet_id))
    wait_until(lambda: session.status().undecided == 2)
    conn.close()
    conn = peer.accept()
    conn.expect("CONNECT")
    conn.send(packet(0x20, b"\1\0\0"))
    for packet_id in (11, 12):
        conn.send(publish("oc2/cmd/all", b"x", packet_id=packet_id, dup=True))
    wait_until(lambda: session.status().undecided > 2)
    peer.grant(conn)
    again = conn.expect("PUBLISH")
    assert (again.packet_id, again.dup) == (1, True)
    conn.send(publish("oc2/cmd/all", b"y", packet_id=13) + ack("PUBACK", 1))
    wait_until(lambda: engine.sent_handles == [1])
    assert b"y" not in [message.payload for message in engine.got]
    engine.acknowledge(*(message.token for message in engine.got))
    assert conn.at_end()
    conn = peer.welcome(session_present=True)
    conn.send(publish("oc2/cmd/all", b"y", packet_id=13, dup=True))
    wait_until(lambda: engine.got[-1].payload == b"y")


@pytest.mark.req("MQTT-14", "MQTT-54")
def test_what_came_before_a_broken_packet_is_decided_and_keeps_no_room(peer, start):
    session, engine = start(peer.port)
    for _ in range(3):
        conn = peer.welcome(session_present=True)
        one, two = (publish("oc2/cmd/all", b"x", packet_id=number) for number in (1, 2))
        conn.send(one + two + packet(0x20, b"\1\0\0"))  # a second CONNACK
        assert conn.at_end()
    wait_until(lambda: len(engine.got) == 6)
    wait_until(lambda: session.status().undecided == 0)


@pytest.mark.req("MQTT-53", "MQTT-54")
def test_what_came_before_the_broker_disconnected_counts(peer, start):
    session, engine = start(peer.port)
    conn = peer.welcome()
    session.send([response(1)])
    conn.expect("PUBLISH")
    command = publish("oc2/cmd/all", b"x", packet_id=7)
    conn.send(ack("PUBACK", 1) + command + packet(0xE0, b"\x8b"))  # the broker shuts down
    assert conn.at_end()
    peer.welcome(session_present=True).silent(0.1)
    assert engine.sent_handles == [1]
    assert [message.payload for message in engine.got] == [b"x"]


@pytest.mark.req("MQTT-27", "AMB-2")
def test_what_comes_by_a_filter_of_an_older_configuration_is_acknowledged_and_dropped(peer, start):
    _, engine = start(peer.port)
    conn = peer.welcome(session_present=True)
    conn.send(publish("old/topic", b"no", packet_id=1))
    conn.send(publish("oc2/cmd/all", b"yes", packet_id=2))
    assert conn.expect("PUBACK").packet_id == 1
    assert conn.expect("PUBACK").packet_id == 2
    assert [message.payload for message in engine.got] == [b"yes"]


@pytest.mark.req("MQTT-9", "MQTT-12")
@pytest.mark.parametrize(("granted", "warned"), [(60, True), (86400, False), (None, False)])
def test_a_broker_that_keeps_the_session_for_less_is_told_of(peer, start, granted, warned):
    given = b"" if granted is None else b"\x11" + granted.to_bytes(4, "big")
    with capture_logs() as logs:
        session, _ = start(peer.port)
        peer.welcome(properties=given)
        wait_until(lambda: session.status().healthy)
    found = [log for log in logs if log["event"] == events.SESSION_SHORTENED]
    assert bool(found) is warned
    if warned:
        assert (found[0]["asked"], found[0]["granted"]) == (86400, 60)


def test_a_dial_that_was_given_up_tells_nobody_where_it_would_have_gone():
    told, done = [], threading.Event()
    dial = Dial(make_settings(1), lambda: None, told.append, lambda _: done.set())
    dial.abandon()
    dial.start()
    assert done.wait(10)
    dial.join()
    assert told == []


def test_of_many_addresses_only_some_are_tried(monkeypatch):
    """Whoever answers for the broker's name would keep us from it for a day."""
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
        found = [
            (socket.AF_INET, socket.SOCK_STREAM, 6, "", (f"127.0.{n // 250}.{n % 250 + 1}", port))
            for n in range(3000)
        ]
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
        told, done = [], threading.Event()
        dial = Dial(make_settings(port), lambda: None, told.append, lambda _: done.set())
        dial.start()
        assert done.wait(5)
        dial.join()
    assert len(told[0]) == 16
    assert len(dial.error) < 5000


def test_an_address_of_a_family_that_this_host_has_not_keeps_nobody_from_the_others(
    peer, start, monkeypatch
):
    """IPv6, where the kernel was started without it or the unit forbids it."""
    found = [
        (family, socket.SOCK_STREAM, 6, "", (host, peer.port))
        for family, host in ((200, "::1"), (socket.AF_INET, "127.0.0.1"))
    ]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
    start(peer.port)
    peer.welcome()
