"""The end of a link over a scripted peer: in order, in time, whatever goes on."""

from __future__ import annotations

import threading
import time

import pytest

from oc2d.mqtt.settings import Backoff
from tests.conftest import free_port
from tests.peer import ack, publish, response
from tests.waiting import wait_until


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
