"""Subscriptions over a scripted peer: how they are asked for, refused and granted."""

from __future__ import annotations

import pytest
from structlog.testing import capture_logs

from oc2d.mqtt import events
from oc2d.mqtt.status import LinkObserver
from tests.peer import connack
from tests.waiting import wait_until


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
