"""A broker that says what it is told to: every reason to refuse or to close that there is."""

from __future__ import annotations

import itertools
import random
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager

from oc2d.language.codec import Encoding, encode
from tests.consumer import Consumer
from tests.faults.broker_scene import BACK
from tests.faults.plugins import effects, start
from tests.faults.scenario import Run
from tests.peer import Conn, Peer, Seen, ack, connack, packet, publish, short, string
from tests.producer import request
from tests.waiting import wait_until

__all__ = ["disconnects", "refuses_connections", "refuses_subscriptions"]

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


@contextmanager
def _scripted(this: Run) -> Iterator[tuple[Peer, Consumer]]:
    host = this.host(isolated=False)
    zulu = host.consumer(**{"actuators_x-count": {}})
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


def refuses_connections(this: Run, rounds: int, rnd: random.Random) -> None:
    del rnd
    with _scripted(this) as (peer, zulu):
        for code in _CONNACK * rounds:
            for _ in range(2):
                conn = peer.accept(BACK)
                conn.expect("CONNECT")
                conn.send(connack(code=code))
                assert conn.at_end()
            _told(zulu, code, where=lambda: zulu.told()["link"]["last_error"])
            _served(peer, zulu, f"after refusal {code:#04x} {next(_ids)}")
            this.figures["CONNACK refusals"] += 1


def _served(peer: Peer, zulu: Consumer, mark: str) -> None:
    """Accept the next connection and give it a command; then drop it."""
    conn, packet_id = peer.welcome(session_present=True, codes=_GRANTED, timeout=BACK), next(_ids)
    conn.send(_command(mark, packet_id))
    _carried_out(conn, zulu, mark, packet_id)
    conn.close()


def refuses_subscriptions(this: Run, rounds: int, rnd: random.Random) -> None:
    """Told, the others work, and the refused one is asked for again until it is granted."""
    with _scripted(this) as (peer, zulu):
        for code in _SUBACK * rounds:
            codes = bytearray(_GRANTED)
            codes[rnd.randrange(2)] = code
            conn = peer.welcome(session_present=True, codes=bytes(codes), timeout=BACK)
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


def disconnects(this: Run, rounds: int, rnd: random.Random) -> None:
    """With every reason there is, before the command is acknowledged or while it is answered."""
    with _scripted(this) as (peer, zulu):
        for code in _DISCONNECT * rounds:
            conn = peer.welcome(session_present=True, codes=_GRANTED, timeout=BACK)
            mark, packet_id = f"disconnect {code:#04x} {next(_ids)}", next(_ids)
            conn.send(_command(mark, packet_id))
            if rnd.random() < 0.5:
                conn.read()
            conn.send(packet(0xE0, bytes([code])))
            assert conn.at_end()
            _told(zulu, code, where=lambda: zulu.told()["link"]["last_error"])
            begun = time.monotonic()
            conn = peer.welcome(session_present=True, codes=_GRANTED, timeout=BACK)
            conn.send(_command(mark, packet_id, dup=True))
            _carried_out(conn, zulu, mark, packet_id)
            assert time.monotonic() - begun < 10
            this.figures["DISCONNECT codes"] += 1
            conn.close()
