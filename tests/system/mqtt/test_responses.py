"""What is published: the bytes, the window, and what a reconnect does to messages under way."""

from __future__ import annotations

import pytest
from msgspec.structs import replace
from structlog.testing import capture_logs

from oc2d.language.codec import Encoding
from oc2d.mqtt import events
from tests.peer import ack, publish, response, short, string
from tests.waiting import wait_until

RECEIVE_MAXIMUM = 0x21
MAXIMUM_PACKET_SIZE = 0x27
MAXIMUM_QOS = 0x24


def user(name: str, value: str) -> bytes:
    return b"\x26" + string(name) + string(value)


@pytest.mark.req(
    "MQTT-28", "MQTT-29", "MQTT-30", "MQTT-31", "MQTT-32", "MQTT-33", "MQTT-34", "MQTT-37",
    "MQTT-39", "MQTT-40", "LANG-1",
)  # fmt: skip
@pytest.mark.parametrize("kind", ["rsp", "req"])
@pytest.mark.parametrize(("encoding", "text"), [(Encoding.JSON, 1), (Encoding.CBOR, 0)])
def test_a_message_has_these_properties_and_no_others(peer, start, kind, encoding, text):
    session, _ = start(peer.port, message_type=kind)
    conn = peer.welcome()
    session.send([replace(response(300, b"payload"), encoding=encoding)])
    session.send([replace(response(301), encoding=encoding, correlation=b"\x00c")])
    common = (
        bytes([1, text, 3])
        + string("application/openc2")
        + user("msgType", kind)
        + user("encoding", encoding.value)
    )
    plain = conn.expect("PUBLISH")
    assert (plain.qos, plain.dup, plain.flags & 1) == (1, False, 0)
    assert plain.body == (
        string("oc2/rsp") + short(300) + bytes([len(common)]) + common + b"payload"
    )
    echo = common + b"\x09\x00\x02\x00c"
    assert conn.expect("PUBLISH").body == (
        string("oc2/rsp") + short(301) + bytes([len(echo)]) + echo + b"{}"
    )


@pytest.mark.req("MQTT-29", "MQTT-56")
def test_qos_1_is_sent_when_puback_came(peer, start):
    session, engine = start(peer.port)
    session.send([response(1), response(2)])  # before the link stands
    conn = peer.welcome()
    assert [conn.expect("PUBLISH").packet_id for _ in range(2)] == [1, 2]
    assert engine.sent_handles == []
    wait_until(lambda: session.status().in_flight == 2)
    conn.send(ack("PUBACK", 2) + ack("PUBACK", 1, 0x10) + ack("PUBACK", 1))
    wait_until(lambda: engine.sent_handles == [2, 1])
    assert session.status().published == 2


@pytest.mark.req("MQTT-29", "MQTT-53")
def test_qos_2_goes_on_only_after_release(peer, start):
    session, engine = start(peer.port, qos=2)
    engine.release = False
    conn = peer.welcome()
    session.send([response(8)])
    assert conn.expect("PUBLISH").qos == 2
    conn.send(ack("PUBREC", 8) + ack("PUBREC", 8))
    wait_until(lambda: engine.taken_handles == [8])
    conn.silent(0.1)
    session.release([8, 9])
    assert conn.expect("PUBREL").packet_id == 8
    conn.send(ack("PUBREC", 8))  # once more: PUBREL once more
    assert conn.expect("PUBREL").packet_id == 8
    conn.send(ack("PUBCOMP", 8))
    wait_until(lambda: engine.sent_handles == [8])
    conn.send(ack("PUBREC", 8))
    assert conn.expect("PUBREL").code == 0x92


@pytest.mark.req("MQTT-12", "MQTT-29")
def test_a_best_effort_answer_and_a_broker_with_maximum_qos_1_get_qos_1(peer, start):
    session, _ = start(peer.port, qos=2)
    conn = peer.welcome()
    session.send([response(1, durable=False), response(2)])
    assert [conn.expect("PUBLISH").qos for _ in range(2)] == [1, 2]
    conn.close()
    conn = peer.welcome(session_present=True, properties=bytes([MAXIMUM_QOS, 1]))
    assert [conn.expect("PUBLISH").qos for _ in range(2)] == [1, 1]


@pytest.mark.req("MQTT-12")
def test_the_brokers_receive_maximum_bounds_what_is_in_flight(peer, start):
    session, engine = start(peer.port)
    session.send([response(n) for n in range(1, 6)])
    conn = peer.welcome(properties=bytes([RECEIVE_MAXIMUM]) + short(2))
    assert [conn.expect("PUBLISH").packet_id for _ in range(2)] == [1, 2]
    conn.silent(0.1)
    assert session.status().queued == 3
    conn.send(ack("PUBACK", 1))
    assert conn.expect("PUBLISH").packet_id == 3
    conn.send(ack("PUBACK", 2, 0x80))  # an error frees the slot as well
    assert conn.expect("PUBLISH").packet_id == 4
    wait_until(lambda: engine.sent_handles == [1, 2])


@pytest.mark.req("MQTT-56", "MQTT-53")
def test_with_the_session_present_the_unfinished_go_on_under_their_ids(peer, start):
    session, engine = start(peer.port, qos=2)
    engine.release = False
    conn = peer.welcome()
    session.send([response(n) for n in (5, 4, 3, 2)])
    for _ in range(4):
        conn.expect("PUBLISH")
    conn.send(ack("PUBREC", 5) + ack("PUBREC", 4))
    wait_until(lambda: engine.taken_handles == [5, 4])
    session.release([5])
    conn.expect("PUBREL")
    conn.close()
    conn = peer.welcome(session_present=True, codes=b"")
    session.send([response(1)])
    assert conn.expect("PUBREL").packet_id == 5
    peer.grant(conn)
    seen = [conn.expect("PUBLISH") for _ in range(3)]
    assert [(one.packet_id, one.dup) for one in seen] == [(3, True), (2, True), (1, False)]
    session.release([4])
    assert conn.expect("PUBREL").packet_id == 4
    assert engine.lost == 1  # by the first connection only


@pytest.mark.req("MQTT-56")
def test_with_a_new_session_everything_is_published_anew(peer, start):
    session, engine = start(peer.port, qos=2)
    conn = peer.welcome()
    session.send([response(n) for n in (5, 4)])
    for _ in range(2):
        conn.expect("PUBLISH")
    conn.send(ack("PUBREC", 5))
    conn.expect("PUBREL")
    conn.close()
    conn = peer.welcome(session_present=False)
    seen = [conn.expect("PUBLISH") for _ in range(2)]
    assert [(one.packet_id, one.dup) for one in seen] == [(5, False), (4, False)]
    assert engine.lost == 2


@pytest.mark.req("MQTT-56")
@pytest.mark.parametrize("present", [True, False])
def test_a_new_process_goes_on_with_what_the_old_one_left(peer, start, present):
    before = (response(7, again=True, released=True), response(6, again=True), response(5))
    start(peer.port, qos=2, before=before)
    conn = peer.welcome(session_present=present, codes=b"")
    if present:
        assert conn.expect("PUBREL").packet_id == 7
    peer.grant(conn)
    seen = [conn.expect("PUBLISH") for _ in range(2 if present else 3)]
    expected = [(6, True), (5, False)] if present else [(7, False), (6, False), (5, False)]
    assert [(one.packet_id, one.dup) for one in seen] == expected


@pytest.mark.req("MQTT-53")
def test_a_refused_response_is_told_and_finished(peer, start):
    session, engine = start(peer.port)
    conn = peer.welcome()
    with capture_logs() as logs:
        session.send([response(1)])
        conn.expect("PUBLISH")
        conn.send(ack("PUBACK", 1, 0x87))
        wait_until(lambda: engine.sent_handles == [1])
    assert session.status().refused == 1
    (log,) = [one for one in logs if one["event"] == events.RESPONSE_REFUSED]
    assert "Not authorized" in log["reason"]


@pytest.mark.req("MQTT-53", "MQTT-56")
@pytest.mark.parametrize(("name", "qos"), [("PUBACK", 1), ("PUBREC", 2)])
def test_a_response_that_the_broker_has_no_room_for_is_tried_again(peer, start, name, qos):
    session, engine = start(peer.port, qos=qos, retry_after=0.2)
    conn = peer.welcome()
    session.send([response(1)])
    conn.expect("PUBLISH")
    conn.send(ack(name, 1, 0x97))
    conn.silent(0.1)
    assert engine.sent_handles == []
    again = conn.expect("PUBLISH")
    assert (again.packet_id, again.dup) == (1, False)


@pytest.mark.req("MQTT-12")
def test_a_response_larger_than_the_broker_takes_is_shortened(peer, start):
    asked: list[int] = []

    def shorten(message, room):
        asked.append(room)
        return None if message.handle == 2 else replace(message, payload=b"s" * room)

    session, engine = start(peer.port, shorten=shorten)
    conn = peer.welcome(properties=bytes([MAXIMUM_PACKET_SIZE, 0, 0, 0, 150]))
    session.send([response(1, b"x" * 200), response(2, b"x" * 200), response(3)])
    seen = conn.expect("PUBLISH")
    assert seen.packet_id == 1
    assert 140 <= len(seen.body) + 2 <= 150
    assert conn.expect("PUBLISH").packet_id == 3
    assert len(asked) == 2
    wait_until(lambda: engine.sent_handles == [2])
    assert session.status().refused == 1


@pytest.mark.req("MQTT-12")
def test_a_response_larger_than_a_packet_can_be_is_shortened(peer, start, monkeypatch):
    """A broker that names no limit closes the link on it, again and again."""
    monkeypatch.setattr("oc2d.mqtt.conversation._LARGEST", 150)
    session, _ = start(peer.port, shorten=lambda message, _: replace(message, payload=b"s"))
    conn = peer.welcome()
    session.send([response(1, b"x" * 200)])
    assert conn.expect("PUBLISH").body.endswith(b"s")


def test_a_handle_under_way_is_not_published_twice(peer, start):
    session, _ = start(peer.port)
    conn = peer.welcome()
    session.send([response(1)])
    session.send([response(1)])
    conn.expect("PUBLISH")
    conn.silent(0.1)


def test_more_than_the_socket_takes_goes_out_in_whole(peer, start):
    session, engine = start(peer.port)
    conn = peer.welcome()
    session.send([response(n, b"z" * 100_000) for n in range(1, 101)])
    for number in range(1, 101):
        seen = conn.expect("PUBLISH")
        assert seen.packet_id == number
        assert seen.body.endswith(b"z" * 100_000)
        conn.send(ack("PUBACK", number))
    wait_until(lambda: len(engine.sent_handles) == 100)


@pytest.mark.req("MQTT-29", "MQTT-53")
def test_what_the_broker_acknowledged_before_it_broke_the_protocol_counts(peer, start):
    session, engine = start(peer.port, qos=2, decide=False)
    conn = peer.welcome()
    session.send([response(7, durable=False), response(8)])
    assert [conn.expect("PUBLISH").qos for _ in range(2)] == [1, 2]
    twice = publish("oc2/cmd/all", b"x", packet_id=1)
    conn.send(ack("PUBACK", 7) + ack("PUBREC", 8) + twice + twice)
    conn.at_end()
    assert engine.sent_handles == [7]
    assert engine.taken_handles == [8]
    conn = peer.welcome(session_present=True, codes=b"")
    assert conn.expect("PUBREL").packet_id == 8
