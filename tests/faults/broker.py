"""A broker that dies, hangs, is stolen from, refuses, or is behind a bad link.

The daemon is back within the time that docs/faults.md names, log and status say what was wrong,
and what the broker kept is carried out once. Codes come from a scripted broker, all else from
mosquitto.
"""

from __future__ import annotations

import random
import signal
import time
from concurrent.futures import ThreadPoolExecutor

import paho.mqtt.client as paho
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from tests.consumer import Consumer, Host, query
from tests.faults.bad_link import Link, behind, link_breaks, link_is_slow
from tests.faults.broker_scene import SILENCE, all_done, ask, back, gone, scene
from tests.faults.plugins import effects
from tests.faults.scenario import Run
from tests.faults.scripted_broker import disconnects, refuses_connections, refuses_subscriptions
from tests.waiting import wait_until

__all__ = ["run"]


def run(this: Run) -> None:
    """Each fault with a broker and a Consumer of its own, all at a time: they mostly wait."""
    rounds = this.many(1, 5)
    faults = (
        _dies,
        _restarts,
        _forgets,
        _hangs,
        _vanishes,
        _is_taken_over,
        link_is_slow,
        link_breaks,
        _is_small,
        refuses_connections,
        refuses_subscriptions,
        disconnects,
    )
    seeds = [this.rnd.getrandbits(32) for _ in faults]
    with ThreadPoolExecutor(len(faults)) as pool:
        work = [
            (fault, pool.submit(fault, this, rounds, random.Random(seed)))
            for fault, seed in zip(faults, seeds, strict=True)
        ]
        for fault, done in work:
            done.result()
            this.figures[fault.__name__.strip("_").replace("_", " ")] += rounds


def _comes_again(this: Run, host: Host, zulu: Consumer) -> None:
    """Start a broker that has just ended: the Consumer noticed, and is back."""
    gone(zulu, "")
    begun = time.monotonic()
    host.start_broker()
    back(this, zulu, begun, "")


def _dies(this: Run, rounds: int, rnd: random.Random) -> None:
    """kill -9: what it had written down comes again, nothing twice."""
    with scene(this) as (host, zulu, soc):
        for turn in range(rounds):
            asked = ask(soc, f"dies{turn}", 50)
            time.sleep(rnd.uniform(0, 0.2))
            host.broker.kill()
            _comes_again(this, host, zulu)
            all_done(zulu, soc, ask(soc, f"alive{turn}"))
            done = effects(zulu, "x-count")
            assert max(done[one] for one in asked) <= 1
            for reply in [reply for one in asked for reply in soc.of(one)]:
                assert (reply.status, done[reply.headers["request_id"]]) == (200, 1)


def _restarts(this: Run, rounds: int, rnd: random.Random) -> None:
    """In order, keeping its sessions: nothing is lost."""
    with scene(this) as (host, zulu, soc):
        for turn in range(rounds):
            zulu.signal(signal.SIGSTOP)
            asked = ask(soc, f"kept{turn}")
            wait_until(lambda: not soc._client._out_messages, 15)
            zulu.signal(signal.SIGCONT)
            time.sleep(rnd.uniform(0, 0.05))
            host.broker.stop()
            _comes_again(this, host, zulu)
            assert zulu.told()["link"]["session_present"] is True
            all_done(zulu, soc, asked)


def _forgets(this: Run, rounds: int, rnd: random.Random) -> None:
    """Without its sessions: said, subscribed again, what was accepted is still answered."""
    with scene(this, persistent=False) as (host, zulu, soc):
        for turn in range(rounds):
            asked = ask(soc, f"forgotten{turn}")
            time.sleep(rnd.uniform(0, 0.1))
            host.broker.kill()
            _comes_again(this, host, zulu)
            assert zulu.told()["link"]["session_present"] is False
            assert len(zulu.entries("mqtt.session_lost")) == turn + 1
            all_done(zulu, soc, ask(soc, f"known{turn}"))
            assert max(effects(zulu, "x-count")[one] for one in asked) <= 1


def _hangs(this: Run, rounds: int, rnd: random.Random) -> None:
    """SIGSTOP: left after keep-alive and the time for an answer."""
    del rnd
    with scene(this, keep_alive=1) as (host, zulu, soc):
        for turn in range(rounds):
            host.broker.signal(signal.SIGSTOP)
            asked = ask(soc, f"hangs{turn}", 5)
            gone(zulu, "PINGRESP", SILENCE)
            begun = time.monotonic()
            host.broker.signal(signal.SIGCONT)
            back(this, zulu, begun, "the broker sent no PINGRESP in time")
            all_done(zulu, soc, asked)


def _vanishes(this: Run, rounds: int, rnd: random.Random) -> None:
    """The kernel drops all packets of the link: no FIN, no RST, as when a cable is pulled."""
    del rnd
    with (
        scene(this, isolated=True, keep_alive=1) as (host, zulu, soc),
        behind(this, host, zulu, Link) as way,
    ):
        for turn in range(rounds):
            host.nft("-f", "-", text=_PULLED.format(port=way.port))
            asked = ask(soc, f"vanishes{turn}")
            gone(zulu, "PINGRESP", SILENCE)
            begun = time.monotonic()
            host.nft("delete", "table", "inet", "pulled")
            back(this, zulu, begun, "the broker sent no PINGRESP in time")
            all_done(zulu, soc, asked)


_PULLED = """\
table inet pulled {{ chain input {{
  type filter hook input priority -500
  tcp dport {port} drop
  tcp sport {port} drop
}}
}}
"""


def _is_taken_over(this: Run, rounds: int, rnd: random.Random) -> None:
    """Another client with our id gets our session, and our commands, and keeps nothing of them."""
    del rnd
    with scene(this) as (host, zulu, soc):
        client_id = (zulu.directory / "state" / "client-id").read_text().strip()
        for turn in range(rounds):
            thief = paho.Client(
                paho.CallbackAPIVersion.VERSION2,
                client_id,
                protocol=paho.MQTTv5,
                reconnect_on_failure=False,
                manual_ack=True,
            )
            kept = Properties(PacketTypes.CONNECT)
            kept.SessionExpiryInterval = 3600
            thief.connect("127.0.0.1", host.broker.port, clean_start=False, properties=kept)
            thief.loop_start()
            begun = time.monotonic()
            wait_until(lambda: zulu.entries("mqtt.disconnected"), 15)
            asked = ask(soc, f"stolen{turn}")
            back(this, zulu, begun, "")
            all_done(zulu, soc, asked)
            thief.loop_stop()


def _is_small(this: Run, rounds: int, rnd: random.Random) -> None:
    """One message at a time, and no large ones."""
    del rnd
    small = ("max_inflight_messages 1", "max_packet_size 500")
    with scene(this, *small) as (_, zulu, soc):
        limits = zulu.told()["link"]["limits"]
        assert limits["maximum_packet_size"] == 500
        for turn in range(rounds):
            all_done(zulu, soc, ask(soc, f"small{turn}", 30))
            reply = soc.ask(query("pairs", "profiles", "versions"))
            assert reply.status in {200, 500}, reply
        assert zulu.told()["link"]["reconnects"] == 0
