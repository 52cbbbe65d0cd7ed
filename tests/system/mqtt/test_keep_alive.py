"""Keep-alive over a scripted peer: when we ping, whom we leave, how little the loop turns."""

from __future__ import annotations

import time

import pytest

from tests.peer import PINGRESP, connack, packet, publish, short
from tests.waiting import wait_until

SERVER_KEEP_ALIVE = 0x13


@pytest.mark.req("MQTT-52")
def test_pingreq_goes_out_at_95_percent_of_the_keep_alive(peer, start):
    start(peer.port, keep_alive=2)
    conn = peer.welcome()
    begin = time.monotonic()
    conn.send(PINGRESP)  # something comes in, nothing goes out
    first = conn.expect("PINGREQ")
    conn.send(PINGRESP)
    second = conn.expect("PINGREQ")
    assert 1.5 < first.at - begin <= 1.9
    assert 1.5 < second.at - first.at <= 1.9


@pytest.mark.req("MQTT-52")
def test_another_packet_puts_the_ping_off(peer, start):
    start(peer.port, keep_alive=2)
    conn = peer.welcome()
    time.sleep(1)
    conn.send(publish("oc2/cmd/all", b"x"))
    other = conn.expect("PUBACK")
    assert 1.5 < conn.expect("PINGREQ").at - other.at <= 1.9


@pytest.mark.req("MQTT-12", "MQTT-5", "MQTT-52")
def test_server_keep_alive_replaces_ours_for_this_connection_only(peer, start):
    session, _ = start(peer.port, keep_alive=300)
    conn = peer.welcome(properties=bytes([SERVER_KEEP_ALIVE]) + short(2))
    begin = time.monotonic()
    assert 1.5 < conn.expect("PINGREQ").at - begin <= 1.9
    assert session.status().limits.keep_alive == 2
    conn.close()
    assert peer.accept().expect("CONNECT").keep_alive == 300


@pytest.mark.req("MQTT-5", "MQTT-12", "MQTT-52")
def test_a_server_keep_alive_above_ours_does_not_make_us_wait_longer(peer, start):
    """Else a broker that says 65535 and then vanishes is missed for 18 hours."""
    session, _ = start(peer.port, keep_alive=2)
    conn = peer.welcome(properties=bytes([SERVER_KEEP_ALIVE]) + short(65535))
    begin = time.monotonic()
    assert 1.5 < conn.expect("PINGREQ").at - begin <= 1.9
    assert session.status().limits.keep_alive == 2


@pytest.mark.req("MQTT-14", "MQTT-53")
@pytest.mark.parametrize("stage", ["CONNACK", "SUBACK", "PINGRESP"])
def test_a_broker_that_owes_an_answer_is_left(peer, start, stage):
    session, _ = start(peer.port, keep_alive=1, answer_timeout=0.3)
    conn = peer.accept()
    conn.expect("CONNECT")
    if stage != "CONNACK":
        conn.send(connack())
        if stage != "SUBACK":
            peer.grant(conn)
    assert conn.at_end()
    peer.accept().expect("CONNECT")
    assert stage in session.status().last_error


@pytest.mark.req("MQTT-14", "MQTT-53")
def test_a_broker_that_answers_pings_still_owes_its_suback(peer, start):
    session, _ = start(peer.port, keep_alive=1, answer_timeout=1.2)
    conn = peer.accept()
    conn.expect("CONNECT")
    conn.send(connack())
    conn.expect("SUBSCRIBE")
    conn.expect("PINGREQ")
    conn.send(PINGRESP)
    with pytest.raises((EOFError, ConnectionResetError)):
        conn.read(5.0)  # ahead of the next PINGREQ
    peer.accept().expect("CONNECT")
    assert "SUBACK" in session.status().last_error


@pytest.mark.req("MQTT-14", "MQTT-54")
def test_an_answer_may_be_late_behind_what_a_slow_link_still_brings(peer, start):
    """Else a large command that waits for us would begin anew on each connection, for ever."""
    session, engine = start(peer.port, answer_timeout=0.3)
    conn = peer.welcome(session_present=True, codes=b"")
    subscribe = conn.expect("SUBSCRIBE")
    data = publish("oc2/cmd/all", b"x" * 7000)
    for at in range(0, len(data), 1000):
        conn.send(data[at : at + 1000])
        time.sleep(0.1)
    conn.send(packet(0x90, short(subscribe.packet_id) + b"\0\1"))
    assert conn.expect("PUBACK").packet_id == 1
    wait_until(lambda: session.status().healthy)
    assert len(engine.got) == 1


def test_an_idle_loop_takes_turns_only_when_pinged(peer, start):
    session, _ = start(peer.port)
    peer.welcome()
    wait_until(lambda: session.status().healthy)
    time.sleep(0.1)
    before = session.progress()
    time.sleep(0.3)
    assert session.progress() == before
    session.ping()
    wait_until(lambda: session.progress() > before, 1)


@pytest.mark.req("MQTT-14")
def test_after_a_suspension_the_broker_is_asked_at_the_next_turn(peer, start, monkeypatch):
    session, _ = start(peer.port)
    conn = peer.welcome()
    wait_until(lambda: session.status().healthy)
    session.ping()
    conn.silent(0.2)
    monkeypatch.setattr("oc2d.mqtt.session._asleep", lambda: 1e9)
    session.ping()
    conn.expect("PINGREQ")
    conn.send(packet(0xD0))
    session.ping()
    conn.silent(0.2)
    assert session.status().healthy
