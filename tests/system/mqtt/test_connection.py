"""Connections over a scripted peer: CONNECT, SUBSCRIBE, keep-alive, errors, the end."""

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
from tests.peer import PINGRESP, Peer, ack, connack, make_settings, packet, publish, response, short
from tests.waiting import wait_until

SERVER_KEEP_ALIVE = 0x13
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


@pytest.mark.req("MQTT-14", "MQTT-16", "MQTT-47", "MQTT-48", "AMB-5")
def test_subscriptions_are_made_anew_on_each_connack_with_options_0e(peer, start):
    start(peer.port, subscriptions=("oc2/cmd/all", "oc2/cmd/ap/slpf"))
    for present in (False, True):
        conn = peer.welcome(session_present=present, codes=b"")
        seen = peer.grant(conn, b"\x02\x01")
        conn.close()
        assert seen.packet_id > 60_000
        assert seen.body[2:] == b"\0\0\x0boc2/cmd/all\x0e\0\x0foc2/cmd/ap/slpf\x0e"


@pytest.mark.req("MQTT-26", "AMB-5", "AMB-60")
def test_a_denied_or_qos_0_subscription_is_an_error_in_log_and_status(peer, start):
    with capture_logs() as logs:
        session, _ = start(peer.port, subscriptions=("a", "b", "c"))
        peer.welcome(codes=b"\x87\x00\x01")
        wait_until(lambda: session.status().subscriptions)
    status = session.status()
    assert status.connected
    assert not status.healthy
    assert "Not authorized" in status.subscriptions["a"]
    assert "QoS 0" in status.subscriptions["b"]
    assert status.subscriptions["c"] == 1
    failed = [log["filter"] for log in logs if log["event"] == events.SUBSCRIPTION_FAILED]
    assert failed == ["a", "b"]


@pytest.mark.req("MQTT-26", "MQTT-14")
def test_a_refused_subscription_is_asked_for_again_until_it_is_granted(peer, start):
    granted = []
    observer = LinkObserver(subscribed=granted.append)
    with capture_logs() as logs:
        session, _ = start(
            peer.port, subscriptions=("a", "b"), resubscribe_after=0.05, observer=observer
        )
        conn = peer.welcome(codes=b"\x97\x02")
        for code in (b"\x97", b"\x80", b"\x01"):
            seen = peer.grant(conn, code)
            assert seen.body[2:] == b"\0\0\x01a\x0e"
        wait_until(lambda: session.status().healthy)
    assert session.status().subscriptions == {"a": 1, "b": 2}
    failed = [log["reason"] for log in logs if log["event"] == events.SUBSCRIPTION_FAILED]
    assert ["0x97" in failed[0], "0x80" in failed[1], len(failed)] == [True, True, 2]
    wait_until(lambda: granted[-1] == {"a": 1, "b": 2})
    conn.silent(0.2)


@pytest.mark.req("MQTT-14", "MQTT-53")
@pytest.mark.parametrize("code", [0x99, 0xFE])
def test_a_refusal_for_a_reason_of_which_the_codec_knows_nothing_is_a_refusal(peer, start, code):
    session, _ = start(peer.port)
    conn = peer.accept()
    conn.expect("CONNECT")
    conn.send(connack(code=code))
    assert conn.at_end()
    wait_until(lambda: session.status().last_error)
    assert f"refused us: reason {code:#04x}" in session.status().last_error


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
        (b"\x32\xff\xff\xff\x7f" + b"x" * 10, 0x95),  # larger than we said
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


@pytest.mark.req("MQTT-56")
def test_stop_publishes_what_is_queued_then_disconnects_cleanly(peer, start):
    session, engine = start(peer.port)
    conn = peer.welcome()
    wait_until(lambda: session.status().healthy)
    session.send([response(7)])
    stopper = threading.Thread(target=session.stop, args=(5,))
    stopper.start()
    assert conn.expect("PUBLISH").packet_id == 7
    conn.send(publish("oc2/cmd/all", b"too late", packet_id=3))
    time.sleep(0.1)
    conn.send(ack("PUBACK", 7))
    seen = conn.expect("DISCONNECT")
    assert seen.code == 0
    assert seen.body == b""  # no Session Expiry: the session stays
    assert conn.at_end()
    stopper.join(5)
    assert not stopper.is_alive()
    assert engine.sent_handles == [7]
    assert engine.got == []


@pytest.mark.req("MQTT-56")
def test_stop_waits_no_longer_than_told_and_the_disconnect_arrives_under_load(peer, start):
    session, _ = start(peer.port, decide=False)
    conn = peer.welcome()
    wait_until(lambda: session.status().healthy)
    session.send([response(1)])
    conn.expect("PUBLISH")
    done = threading.Event()

    def flood():
        number = 0
        while not done.is_set() and number < 5000:
            number += 1
            try:
                conn.send(publish("oc2/cmd/all", b"x" * 1000, packet_id=number))
            except OSError:
                return

    flooder = threading.Thread(target=flood)
    flooder.start()
    stopper = threading.Thread(target=session.stop, args=(0.2,))
    stopper.start()
    assert conn.expect("DISCONNECT").code == 0
    done.set()
    flooder.join(5)
    conn.close()
    stopper.join(5)
    assert not stopper.is_alive()


def test_stop_works_at_any_time(peer, start):
    session, _ = start(free_port())
    begin = time.monotonic()
    session.stop(0)
    session, _ = start(peer.port)
    peer.accept().expect("CONNECT")
    session.stop(5)
    assert time.monotonic() - begin < 4
    session.send([response(1)])  # after the end: nothing happens
    session.ping()


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


def test_stop_does_not_wait_for_the_next_attempt(peer, start):
    session, _ = start(peer.port, backoff=Backoff(first=500, most=500))
    conn = peer.welcome()
    session.send([response(1)])
    conn.expect("PUBLISH")
    stopper = threading.Thread(target=session.stop, args=(30,))
    stopper.start()
    time.sleep(0.1)
    conn.close()
    stopper.join(5)
    assert not stopper.is_alive()


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
