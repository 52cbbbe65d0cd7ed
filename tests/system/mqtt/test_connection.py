"""Connections over a scripted peer: CONNECT, errors, what is tried again and when."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
import time

import pytest
from structlog.testing import capture_logs

from oc2d.mqtt import events
from oc2d.mqtt.dial import Dial
from oc2d.mqtt.settings import Backoff
from oc2d.mqtt.status import LinkObserver
from tests.conftest import free_port
from tests.peer import Peer, connack, make_settings, packet, publish, response, short
from tests.waiting import wait_until

MAXIMUM_QOS = 0x24


def connect_fields(body: bytes) -> dict[str, object]:
    assert body[:6] == b"\x00\x04MQTT"
    length = body[10]
    properties, rest = body[11 : 11 + length], body[11 + length :]
    size = struct.unpack_from("!H", rest)[0]
    return {
        "version": body[6],
        "flags": body[7],
        "keep_alive": struct.unpack_from("!H", body, 8)[0],
        "properties": properties,
        "client_id": rest[2 : 2 + size].decode(),
        "rest": rest[2 + size :],
    }


@pytest.mark.req("MQTT-1", "MQTT-2", "MQTT-3", "MQTT-4", "MQTT-5", "MQTT-6", "MQTT-9", "AMB-9")
def test_every_connect_is_mqtt5_without_clean_start_or_will_and_with_session_expiry(peer, start):
    start(peer.port, session_expiry=4711, client_id="Abc123")
    for _ in range(2):
        conn = peer.accept()
        fields = connect_fields(conn.expect("CONNECT").body)
        conn.close()
        assert fields["version"] == 5
        assert fields["flags"] == 0
        assert fields["keep_alive"] == 300
        assert fields["client_id"] == "Abc123"
        assert fields["rest"] == b""
        assert b"\x11" + struct.pack("!I", 4711) in fields["properties"]


@pytest.mark.req("MQTT-10", "MQTT-67")
def test_user_name_and_password_go_into_connect_and_the_password_is_read_each_time(peer, start):
    passwords = iter(["one", "two"])
    start(peer.port, username="fw", password=lambda: next(passwords))
    for word in ("one", "two"):
        conn = peer.accept()
        fields = connect_fields(conn.expect("CONNECT").body)
        conn.close()
        assert fields["flags"] == 0xC0
        assert fields["rest"] == b"\0\x02fw\0\x03" + word.encode()


@pytest.mark.req("MQTT-14")
def test_a_refusal_is_told_and_tried_again(peer, start):
    session, _ = start(peer.port)
    for _ in range(2):
        conn = peer.accept()
        conn.expect("CONNECT")
        conn.send(connack(code=0x87))
        assert conn.at_end()
    wait_until(lambda: "Not authorized" in (session.status().last_error or ""))
    assert not session.status().connected


@pytest.mark.req("MQTT-13")
def test_a_broker_with_qos_0_only_is_left_with_an_error(peer, start):
    session, _ = start(peer.port)
    conn = peer.accept()
    conn.expect("CONNECT")
    conn.send(connack(properties=bytes([MAXIMUM_QOS, 0])))
    assert conn.expect("DISCONNECT").code == 0x83
    conn.close()
    assert "QoS 0" in session.status().last_error
    peer.accept().expect("CONNECT")


@pytest.mark.req("MQTT-53")
@pytest.mark.parametrize(
    ("data", "code"),
    [
        (packet(0x30 | 6, b"\0\x01a\0\x01\0x"), 0x81),  # QoS 3
        (packet(0x32, b"\0\x01a\0\0\0x"), 0x81),  # packet identifier 0
        (packet(0x32, b"\0\x01a\0"), 0x81),  # too short
        (publish("a", b"x", properties=b"\x23\0\x01"), 0x81),  # a topic alias we did not allow
        (publish("a", b"x", properties=b"\x7f"), 0x81),  # no such property
        (b"\x32\xff\xff\xff\xff\x7f", 0x81),  # remaining length of five bytes
        (b"\x40\xff\xff\xff\x7f" + b"x" * 10, 0x95),  # larger than we said
        (packet(0xF0), 0x81),  # AUTH, which we did not begin
        (packet(0x10, b""), 0x81),  # not for a client
        (connack(), 0x82),  # twice
        (packet(0x90, b"\x00"), 0x81),
        (2 * publish("oc2/cmd/all", b"x", packet_id=9), 0x82),
    ],
)
def test_a_packet_that_breaks_the_protocol_ends_the_connection_not_the_thread(
    peer, start, data, code
):
    start(peer.port, decide=False)
    conn = peer.welcome()
    conn.send(data)
    assert conn.expect("DISCONNECT").code == code
    conn.close()
    peer.welcome().silent(0.05)


@pytest.mark.req("MQTT-53")
def test_the_first_packet_must_be_connack(peer, start):
    start(peer.port)
    conn = peer.accept()
    conn.expect("CONNECT")
    conn.send(publish("oc2/cmd/all", b"early"))
    assert conn.expect("DISCONNECT").code == 0x82


@pytest.mark.req("MQTT-53")
def test_the_reason_of_the_brokers_disconnect_is_told(peer, start):
    reasons: list[str] = []
    session, _ = start(peer.port, observer=LinkObserver(disconnected=reasons.append))
    peer.welcome().send(packet(0xE0, b"\x8e"))
    wait_until(lambda: reasons)
    assert "Session taken over" in reasons[0]
    peer.welcome()
    wait_until(lambda: session.status().reconnects == 1)


@pytest.mark.req("MQTT-14")
def test_connections_that_do_not_last_do_not_reset_the_back_off(peer, start):
    start(peer.port, backoff=Backoff(first=0.05, most=60, stable=60))
    deadline = time.monotonic() + 2
    connections = 0
    while (left := deadline - time.monotonic()) > 0:
        with contextlib.suppress(TimeoutError):
            conn = peer.accept(left)
            conn.expect("CONNECT")
            conn.send(connack() + packet(0xE0, b"\x8e"))
            connections += 1
    assert 2 <= connections <= 15


@pytest.mark.req("MQTT-14")
def test_a_stable_connection_resets_the_back_off(peer, start):
    session, _ = start(peer.port, backoff=Backoff(first=0.01, most=10, stable=0))
    for _ in range(15):  # without the reset the last waits would be seconds each
        peer.welcome().close()
    assert session.status().last_error is None or "closed" in session.status().last_error


@pytest.mark.req("MQTT-14")
def test_it_waits_for_a_broker_that_is_not_there_yet(start):
    port = free_port()
    session, _ = start(port)
    wait_until(lambda: "refused" in (session.status().last_error or "").lower())
    assert not session.status().connected
    peer = Peer()
    peer.close()
    listener = socket.create_server(("127.0.0.1", port))
    listener.settimeout(5)
    listener.accept()[0].close()
    listener.close()


@pytest.mark.req("MQTT-14")
def test_a_name_that_does_not_resolve_is_tried_again(start):
    with capture_logs() as logs:
        session, _ = start(1, host="broker.invalid")
        wait_until(lambda: sum(log["event"] == events.CONNECT_FAILED for log in logs) >= 2, 30)
    assert "resolve" in session.status().last_error
    assert session.status().next_attempt is not None or not session.status().connected


def test_listeners_hear_of_the_link_in_order_and_the_dial_waits_for_them(peer, start):
    heard: list[str] = []
    go = threading.Event()

    def changing(addresses):
        heard.append(f"changing {addresses[0]}")
        go.wait(5)

    def broken(_):
        heard.append("subscribed")
        raise RuntimeError("a listener of no use")

    session, _ = start(
        peer.port,
        observer=LinkObserver(
            link_resolving=lambda: heard.append("resolving"),
            link_changing=changing,
            link_changed=lambda addresses: heard.append(f"changed {addresses[0]}"),
            connected=lambda present: heard.append(f"connected {present}"),
            subscribed=broken,
            disconnected=lambda _: heard.append("disconnected"),
        ),
    )
    with pytest.raises(TimeoutError):
        peer.accept(0.2)
    go.set()
    conn = peer.welcome(session_present=True)
    wait_until(lambda: "subscribed" in heard)
    assert session.status().healthy
    conn.close()
    wait_until(lambda: "disconnected" in heard)
    address = f"127.0.0.1:{peer.port}"
    assert heard[:6] == [
        "resolving",
        f"changing {address}",
        f"changed {address}",
        "connected True",
        "subscribed",
        "disconnected",
    ]


def test_new_settings_are_used_at_once(peer, start):
    session, _ = start(peer.port, backoff=Backoff(first=50))
    conn = peer.welcome()
    wait_until(lambda: session.status().healthy)
    session.reconfigure(
        make_settings(peer.port, keep_alive=77, subscriptions=("oc2/cmd/device/x",))
    )
    assert conn.expect("DISCONNECT").code == 0
    conn.close()
    conn = peer.accept(1)
    assert conn.expect("CONNECT").keep_alive == 77
    conn.send(connack(session_present=True))
    assert b"device/x" in peer.grant(conn).body


def test_new_settings_end_a_wait_for_the_next_attempt(peer, start):
    session, _ = start(free_port(), backoff=Backoff(first=500, most=500))
    wait_until(lambda: session.status().last_error)
    session.reconfigure(make_settings(peer.port))
    peer.welcome()
    wait_until(lambda: session.status().healthy)


@pytest.mark.req("MQTT-14")
def test_an_exception_in_the_engine_costs_the_connection_not_the_thread(peer, start):
    session, engine = start(peer.port)
    conn = peer.welcome()
    engine.received, keep = None, engine.received
    conn.send(publish("oc2/cmd/all", b"x"))
    assert conn.at_end()
    engine.received = keep
    conn = peer.welcome(session_present=True)
    conn.send(publish("oc2/cmd/all", b"x", dup=True))
    conn.expect("PUBACK")
    assert session.status().healthy


@pytest.mark.req("MQTT-57", "MQTT-66")
def test_a_link_without_tls_is_warned_of_at_each_start(peer, start):
    with capture_logs() as logs:
        start(peer.port)
        peer.accept()
    assert {"event": events.NO_TLS, "log_level": "warning"}.items() <= logs[0].items()


@pytest.mark.req("MQTT-15", "AMB-14")
def test_mqtt_3_1_1_is_opt_in_and_announced(peer, start):
    with capture_logs() as logs:
        session, engine = start(peer.port, protocol="3.1.1")
        conn = peer.accept()
    body = conn.expect("CONNECT").body
    assert body == b"\x00\x04MQTT\x04\x00\x01\x2c\x00\x08consumer"
    conn.send(packet(0x20, b"\x01\x00"))
    seen = conn.expect("SUBSCRIBE")
    assert seen.body[2:] == b"\x00\x0boc2/cmd/all\x02"
    conn.send(packet(0x90, short(seen.packet_id) + b"\x01"))
    conn.send(packet(0x32, b"\x00\x0boc2/cmd/all\x00\x05{}"))
    assert conn.expect("PUBACK").body == b"\x00\x05"
    (message,) = engine.got
    assert not message.properties
    assert message.payload == b"{}"
    session.send([response(3)])
    assert conn.expect("PUBLISH").body == b"\x00\x07oc2/rsp\x00\x03{}"
    conn.send(packet(0x62, b"\x00\x63"))
    assert conn.expect("PUBCOMP").body == b"\x00\x63"
    assert any(log["event"] == events.NOT_CONFORMANT for log in logs)


@pytest.mark.req("AMB-14", "MQTT-26")
def test_a_3_1_1_broker_that_ends_the_link_at_a_forbidden_topic_is_guessed_at(peer, start):
    session, _ = start(peer.port, protocol="3.1.1")
    refusing = peer.accept()
    refusing.expect("CONNECT")
    refusing.send(packet(0x20, b"\x00\x00"))
    refusing.expect("SUBSCRIBE")
    refusing.close()
    wait_until(lambda: "let us read one of our topics" in (session.status().last_error or ""))
    refusing = peer.accept()
    refusing.expect("CONNECT")
    refusing.send(packet(0x20, b"\x00\x00"))
    seen = refusing.expect("SUBSCRIBE")
    refusing.send(packet(0x90, short(seen.packet_id) + b"\x01"))
    session.send([response(3)])
    refusing.expect("PUBLISH")
    refusing.close()
    wait_until(lambda: "let us publish there" in (session.status().last_error or ""))


@pytest.mark.req("MQTT-14")
def test_without_room_for_a_thread_the_link_is_made_all_the_same(peer, start, monkeypatch):
    def reluctant(_):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(Dial, "start", reluctant)
    session, _ = start(peer.port)
    peer.welcome().close()
    peer.welcome()
    wait_until(lambda: session.status().healthy)
    peer.close()
    wait_until(lambda: not session.status().connected)
    session.stop(1)
    assert not session._thread.is_alive()
