"""A broker that dies, hangs, is stolen from, refuses, or is behind a bad link.

The daemon is back within the time that docs/faults.md names, log and status say what was wrong,
and what the broker kept is carried out once. Codes come from a scripted broker, all else from
mosquitto.
"""

from __future__ import annotations

import itertools
import random
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress

import paho.mqtt.client as paho
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from oc2d.language.codec import Encoding, encode
from tests.consumer import Consumer, Host, query
from tests.faults.plugins import effects, start
from tests.faults.scenario import Run
from tests.peer import Conn, Peer, Seen, ack, connack, packet, publish, short, string
from tests.producer import Producer, request
from tests.waiting import wait_until

__all__ = ["run"]

_BACK = 60 + 10 + 20  # seconds: the longest wait, a connect that hangs, an answer that lacks
_SILENCE = 20 + 10  # seconds until a broker that says nothing is left, at keep_alive = 1
_CONNACK = (
    *(0x80, 0x81, 0x82, 0x83, 0x84, 0x85, 0x86, 0x87, 0x88, 0x89, 0x8A, 0x8C, 0x90, 0x95, 0x97),
    *(0x99, 0x9A, 0x9B, 0x9C, 0x9D, 0x9F),
)
_SUBACK = (0x00, 0x80, 0x83, 0x87, 0x8F, 0x91, 0x97, 0x9E, 0xA1, 0xA2)
_DISCONNECT = (
    *(0x00, 0x80, 0x81, 0x82, 0x83, 0x87, 0x89, 0x8B, 0x8D, 0x8E, 0x8F, 0x90, 0x93, 0x94, 0x95),
    *(0x96, 0x97, 0x98, 0x99, 0x9A, 0x9B, 0x9C, 0x9D, 0x9E, 0x9F, 0xA0, 0xA1, 0xA2, 0xFE),
)
_GRANTED = b"\x01\x01\x01"
_TOPIC = "oc2/cmd/device/zulu"


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
        _link_is_slow,
        _link_breaks,
        _is_small,
        _refuses_connections,
        _refuses_subscriptions,
        _disconnects,
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


# -- mosquitto


@contextmanager
def _scene(
    this: Run, *options: str, isolated: bool = False, persistent: bool = True, keep_alive: int = 300
) -> Iterator[tuple[Host, Consumer, Producer]]:
    host = this.host(*options, isolated=isolated, persistent=persistent)
    zulu = this.consumer(host, broker={"keep_alive": keep_alive}, **{"actuators_x-count": {}})
    yield host, zulu.start(**this.environment()), host.producer()
    assert zulu.process is not None
    assert zulu.process.poll() == 0 or zulu.stop() == 0


def _ask(soc: Producer, mark: str, count: int = 20) -> list[str]:
    for number in range(count):
        soc.send(start("x-count", f"{mark}-{number}"), request_id=f"{mark}-{number}")
    return [f"{mark}-{number}" for number in range(count)]


def _all_done(zulu: Consumer, soc: Producer, asked: list[str]) -> None:
    """Each is answered 200 and took effect once."""
    assert {soc.wait(one, timeout=_BACK)[-1].status for one in asked} <= {200}
    done = effects(zulu, "x-count")
    assert [done[one] for one in asked] == [1] * len(asked)


def _back(this: Run, zulu: Consumer, begun: float, reason: str) -> None:
    """It is back in time, and has said what was wrong."""
    zulu.until_subscribed(_BACK)
    took = time.monotonic() - begun
    this.figures["slowest return, ms"] = max(this.figures["slowest return, ms"], round(1000 * took))
    told = [
        entry["reason"]
        for entry in zulu.entries()
        if entry["event"] in {"mqtt.disconnected", "mqtt.connect_failed"}
    ]
    assert any(reason in one for one in told), (reason, told)


def _gone(zulu: Consumer, reason: str, timeout: float = 15) -> None:
    """The status says that it is gone, and why."""
    wait_until(lambda: not zulu.told()["link"]["connected"], timeout)
    wait_until(lambda: reason in (zulu.told()["link"]["last_error"] or ""), timeout, reason)


def _dies(this: Run, rounds: int, rnd: random.Random) -> None:
    """kill -9: what it had written down comes again, nothing twice."""
    with _scene(this) as (host, zulu, soc):
        for turn in range(rounds):
            asked = _ask(soc, f"dies{turn}", 50)
            time.sleep(rnd.uniform(0, 0.2))
            host.broker.kill()
            _gone(zulu, "")
            begun = time.monotonic()
            host.start_broker()
            _back(this, zulu, begun, "")
            _all_done(zulu, soc, _ask(soc, f"alive{turn}"))
            done = effects(zulu, "x-count")
            assert max(done[one] for one in asked) <= 1
            for reply in [reply for one in asked for reply in soc.of(one)]:
                assert (reply.status, done[reply.headers["request_id"]]) == (200, 1)


def _restarts(this: Run, rounds: int, rnd: random.Random) -> None:
    """In order, keeping its sessions: nothing is lost."""
    with _scene(this) as (host, zulu, soc):
        for turn in range(rounds):
            zulu.signal(signal.SIGSTOP)
            asked = _ask(soc, f"kept{turn}")
            wait_until(lambda: not soc._client._out_messages, 15)
            zulu.signal(signal.SIGCONT)
            time.sleep(rnd.uniform(0, 0.05))
            host.broker.stop()
            _gone(zulu, "")
            begun = time.monotonic()
            host.start_broker()
            _back(this, zulu, begun, "")
            assert zulu.told()["link"]["session_present"] is True
            _all_done(zulu, soc, asked)


def _forgets(this: Run, rounds: int, rnd: random.Random) -> None:
    """Without its sessions: said, subscribed again, what was accepted is still answered."""
    with _scene(this, persistent=False) as (host, zulu, soc):
        for turn in range(rounds):
            asked = _ask(soc, f"forgotten{turn}")
            time.sleep(rnd.uniform(0, 0.1))
            host.broker.kill()
            _gone(zulu, "")
            begun = time.monotonic()
            host.start_broker()
            _back(this, zulu, begun, "")
            assert zulu.told()["link"]["session_present"] is False
            assert len(zulu.entries("mqtt.session_lost")) == turn + 1
            _all_done(zulu, soc, _ask(soc, f"known{turn}"))
            assert max(effects(zulu, "x-count")[one] for one in asked) <= 1


def _hangs(this: Run, rounds: int, rnd: random.Random) -> None:
    """SIGSTOP: left after keep-alive and the time for an answer."""
    del rnd
    with _scene(this, keep_alive=1) as (host, zulu, soc):
        for turn in range(rounds):
            host.broker.signal(signal.SIGSTOP)
            asked = _ask(soc, f"hangs{turn}", 5)
            _gone(zulu, "PINGRESP", _SILENCE)
            begun = time.monotonic()
            host.broker.signal(signal.SIGCONT)
            _back(this, zulu, begun, "the broker sent no PINGRESP in time")
            _all_done(zulu, soc, asked)


def _vanishes(this: Run, rounds: int, rnd: random.Random) -> None:
    """The kernel drops all packets of the link: no FIN, no RST, as when a cable is pulled."""
    del rnd
    with _scene(this, isolated=True, keep_alive=1) as (host, zulu, soc):
        assert zulu.stop() == 0
        with closing(_through(host, zulu, _Link)) as way:
            zulu.start(**this.environment())
            for turn in range(rounds):
                host.nft("-f", "-", text=_PULLED.format(port=way.port))
                asked = _ask(soc, f"vanishes{turn}")
                _gone(zulu, "PINGRESP", _SILENCE)
                begun = time.monotonic()
                host.nft("delete", "table", "inet", "pulled")
                _back(this, zulu, begun, "the broker sent no PINGRESP in time")
                _all_done(zulu, soc, asked)
            assert zulu.stop() == 0


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
    with _scene(this) as (host, zulu, soc):
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
            asked = _ask(soc, f"stolen{turn}")
            _back(this, zulu, begun, "")
            _all_done(zulu, soc, asked)
            thief.loop_stop()


def _is_small(this: Run, rounds: int, rnd: random.Random) -> None:
    """One message at a time, and no large ones."""
    del rnd
    small = ("max_inflight_messages 1", "max_packet_size 500")
    with _scene(this, *small) as (_, zulu, soc):
        limits = zulu.told()["link"]["limits"]
        assert limits["maximum_packet_size"] == 500
        for turn in range(rounds):
            _all_done(zulu, soc, _ask(soc, f"small{turn}", 30))
            reply = soc.ask(query("pairs", "profiles", "versions"))
            assert reply.status in {200, 500}, reply
        assert zulu.told()["link"]["reconnects"] == 0


# -- bad links


class _Link:
    """Passes everything on to a broker, in pieces of `size` bytes with `pause` between them."""

    size, pause = 1 << 16, 0.0

    def __init__(self, broker_port: int) -> None:
        self.budget = float("inf")  # bytes until it breaks
        self._broker_port = broker_port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(10)

    def _listen(self) -> None:
        threads = []
        with suppress(OSError):
            while True:
                ends = (self._listener.accept()[0], socket.create_connection(self._broker))
                for ways in (ends, ends[::-1]):
                    threads.append(threading.Thread(target=self._pass_on, args=ways, daemon=True))
                    threads[-1].start()
        for thread in threads:
            thread.join(10)

    @property
    def _broker(self) -> tuple[str, int]:
        return "127.0.0.1", self._broker_port

    def _pass_on(self, source: socket.socket, other: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(self.size):
                time.sleep(self.pause)
                piece = data[: int(min(self.budget, len(data)))]
                self.budget -= len(piece)
                other.sendall(piece)
                if len(piece) < len(data):
                    break
        for end in (source, other):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        source.close()


class _Slow(_Link):
    size, pause = 37, 0.005


def _through(host: Host, zulu: Consumer, kind: type[_Link]) -> _Link:
    way: _Link = host.run(kind, host.broker.port)
    zulu.tables["broker"]["port"] = way.port
    return way


def _link_is_slow(this: Run, rounds: int, rnd: random.Random) -> None:
    """Seven kilobytes a second in small pieces: late, but nothing is given up."""
    del rnd
    with _scene(this) as (host, zulu, soc):
        assert zulu.stop() == 0
        with closing(_through(host, zulu, _Slow)):
            zulu.start(**this.environment())
            for turn in range(rounds):
                _all_done(zulu, soc, _ask(soc, f"slow{turn}", 30))
            assert zulu.told()["link"]["reconnects"] == 0
            assert zulu.stop() == 0


def _link_breaks(this: Run, rounds: int, rnd: random.Random) -> None:
    """After so many bytes, in the middle of a packet, again and again."""
    with _scene(this) as (host, zulu, soc):
        assert zulu.stop() == 0
        with closing(_through(host, zulu, _Link)) as way:
            zulu.start(**this.environment())
            for turn in range(3 * rounds):
                before = zulu.told()["link"]["reconnects"]
                way.budget = rnd.randrange(1, 4000)
                asked = _ask(soc, f"breaks{turn}", 30)
                wait_until(lambda: way.budget <= 0, 15)
                begun, way.budget = time.monotonic(), float("inf")
                wait_until(lambda before=before: zulu.told()["link"]["reconnects"] > before, _BACK)
                _back(this, zulu, begun, "")
                _all_done(zulu, soc, asked)
            assert zulu.stop() == 0


# -- a broker that says what it is told to


@contextmanager
def _scripted(this: Run) -> Iterator[tuple[Peer, Consumer]]:
    host = this.host(isolated=False)
    zulu = this.consumer(host, **{"actuators_x-count": {}})
    with closing(Peer()) as peer:
        zulu.tables["broker"]["port"] = peer.port
        yield peer, zulu.launch(**this.environment(), OC2D_HASTE="1")
        zulu.kill()


_ids = itertools.cycle(range(1, 60_000))


def _command(mark: str, packet_id: int, *, dup: bool = False) -> bytes:
    payload = encode(request(start("x-count", mark), {"request_id": mark}), Encoding.JSON)
    user = b"".join(
        b"\x26" + string(name) + string(value)
        for name, value in (("msgType", "req"), ("encoding", "json"))
    )
    made = b"\x01\x01\x03" + string("application/openc2") + user
    return publish(_TOPIC, payload, packet_id=packet_id, dup=dup, properties=made)


def _carried_out(conn: Conn, zulu: Consumer, mark: str, packet_id: int) -> list[Seen]:
    """Delivery and response are acknowledged, the effect is there; returns what else came."""
    seen: set[str] = set()
    others = []
    while seen != {"PUBACK", "PUBLISH"}:
        one = conn.read(10)
        if one.name == "PUBLISH":
            conn.send(ack("PUBACK", one.packet_id))
            if b'"' + mark.encode() + b'"' not in one.body:
                continue  # of before
            assert b'"status":200' in one.body
        elif one.name == "PUBACK":
            assert one.packet_id == packet_id
        else:
            others.append(one)
            continue
        seen.add(one.name)
    assert effects(zulu, "x-count")[mark] == 1
    return others


def _told(zulu: Consumer, code: int, *, where: Callable[[], object]) -> None:
    wait_until(lambda: f"{code:#04x}" in str(where()), 10, f"{code:#04x} in {where()}")
    assert f"{code:#04x}" in zulu.log.read_text()


def _refuses_connections(this: Run, rounds: int, rnd: random.Random) -> None:
    del rnd
    with _scripted(this) as (peer, zulu):
        for code in _CONNACK * rounds:
            for _ in range(2):
                conn = peer.accept(_BACK)
                conn.expect("CONNECT")
                conn.send(connack(code=code))
                assert conn.at_end()
            _told(zulu, code, where=lambda: zulu.told()["link"]["last_error"])
            _served(peer, zulu, f"after refusal {code:#04x} {next(_ids)}")
            this.figures["CONNACK refusals"] += 1


def _served(peer: Peer, zulu: Consumer, mark: str) -> None:
    """Accept the next connection and give it a command; then drop it."""
    conn, packet_id = peer.welcome(session_present=True, codes=_GRANTED, timeout=_BACK), next(_ids)
    conn.send(_command(mark, packet_id))
    _carried_out(conn, zulu, mark, packet_id)
    conn.close()


def _refuses_subscriptions(this: Run, rounds: int, rnd: random.Random) -> None:
    """Told, the others work, and the refused one is asked for again until it is granted."""
    with _scripted(this) as (peer, zulu):
        for code in _SUBACK * rounds:
            codes = bytearray(_GRANTED)
            codes[rnd.randrange(2)] = code
            conn = peer.welcome(session_present=True, codes=bytes(codes), timeout=_BACK)
            mark, packet_id = f"beside refusal {code:#04x} {next(_ids)}", next(_ids)
            conn.send(_command(mark, packet_id))
            asked = _carried_out(conn, zulu, mark, packet_id)
            link = zulu.told()["link"]
            assert link["connected"]
            assert not link["healthy"]
            wrong = "QoS 0" if code == 0 else f"{code:#04x}"
            assert wrong in str(link["subscriptions"])
            assert wrong in zulu.log.read_text()
            for answer in (code, 1):
                again = asked.pop() if asked else conn.expect("SUBSCRIBE")
                conn.send(packet(0x90, short(again.packet_id) + bytes([0, answer])))
            wait_until(lambda: zulu.told()["link"]["healthy"])
            this.figures["SUBACK refusals"] += 1
            conn.close()


def _disconnects(this: Run, rounds: int, rnd: random.Random) -> None:
    """With every reason there is, before the command is acknowledged or while it is answered."""
    with _scripted(this) as (peer, zulu):
        for code in _DISCONNECT * rounds:
            conn = peer.welcome(session_present=True, codes=_GRANTED, timeout=_BACK)
            mark, packet_id = f"disconnect {code:#04x} {next(_ids)}", next(_ids)
            conn.send(_command(mark, packet_id))
            if rnd.random() < 0.5:
                conn.read()
            conn.send(packet(0xE0, bytes([code])))
            assert conn.at_end()
            _told(zulu, code, where=lambda: zulu.told()["link"]["last_error"])
            begun = time.monotonic()
            conn = peer.welcome(session_present=True, codes=_GRANTED, timeout=_BACK)
            conn.send(_command(mark, packet_id, dup=True))
            _carried_out(conn, zulu, mark, packet_id)
            assert time.monotonic() - begun < 10
            this.figures["DISCONNECT codes"] += 1
            conn.close()
