"""Mutated and generated payloads, topics and properties against the running daemon.

0 exits, 0 hangs, memory flat, every response valid.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cbor2
from paho.mqtt.properties import Properties

from oc2d.language.codec import Encoding, encode
from tests.consumer import Consumer, allow, command, delete, deny, query
from tests.faults.scenario import Run
from tests.producer import Producer, properties, request

__all__ = ["CORPUS", "Mutator", "run"]

_ROUND = 2000
_GROWTH = 24 << 20  # bytes of memory beyond what it had after the first rounds
_TOPICS = ("oc2/cmd/all", "oc2/cmd/ap/slpf", "oc2/cmd/device/zulu", "wild/x", "wild/y/z")
#: Inputs that between them take every way through the codecs that was ever found (`codecs`).
CORPUS = Path(__file__).with_name("corpus")


def _seeds() -> list[bytes]:
    """Messages that are right, to begin with."""
    now = 1_700_000_000_000
    commands = [
        query("versions", "profiles", "pairs", "rate_limit"),
        deny("10.0.0.0/24", insert_rule=7, direction="ingress", drop_process="reject"),
        allow("2001:db8::/32"),
        delete(7),
        command("deny", {"ipv4_connection": {"protocol": "tcp", "dst_port": 22}}, duration=500),
        command(
            "allow", {"ipv6_connection": {"src_addr": "::1"}}, start_time=now, stop_time=now + 1
        ),
        {**deny("10.0.0.1"), "actuator": {"slpf": {"asset_id": "1"}}, "command_id": "c-1"},
        command("update", {"file": {"name": "x", "path": "/y", "hashes": {"sha256": "aa"}}}),
        {**query(), "args": {"response_requested": "ack"}},
    ]
    headers = {"request_id": "r", "from": "soc", "to": ["zulu"], "created": now}
    return [encode(request(one, headers), form) for one in commands for form in Encoding]


class Mutator:
    """Makes one message out of another; the same seed makes the same messages."""

    def __init__(self, rnd: random.Random) -> None:
        self.rnd = rnd
        self.corpus = _seeds() + [path.read_bytes() for path in sorted(CORPUS.iterdir())]
        self.words = [
            b'"action"',
            b"null",
            b"1e999",
            b"\\ud800",
            b"[" * 40,
            b"\xff",
            b"\x9f",
            b"\xbf",
        ]
        self.words += [b"\xd8\x1c", b"\xc2\x5b" + bytes(8), b"\x7b" + b"\xff" * 8, b"9" * 400]
        self.words += [b"\0", "\u202e".encode(), b'{"' + b"a" * 300, b"-0", b"true", b'"slpf:"']
        self.makers: tuple[Callable[[bytes], bytes], ...] = (
            self._flip,
            self._flip,
            self._cut,
            self._insert,
            self._splice,
            self._repeat,
            self._tree,
            self._tree,
            self._random,
        )

    def make(self) -> bytes:
        made = self.rnd.choice(self.corpus)
        for _ in range(self.rnd.choice((1, 1, 2, 4))):
            made = self.rnd.choice(self.makers)(made)
        return made[: 1 << 18]

    def _flip(self, data: bytes) -> bytes:
        changed = bytearray(data or b"x")
        for _ in range(self.rnd.randrange(1, 5)):
            changed[self.rnd.randrange(len(changed))] = self.rnd.randrange(256)
        return bytes(changed)

    def _cut(self, data: bytes) -> bytes:
        return data[: self.rnd.randrange(len(data) + 1)]

    def _insert(self, data: bytes) -> bytes:
        at = self.rnd.randrange(len(data) + 1)
        return data[:at] + self.rnd.choice(self.words) + data[at:]

    def _splice(self, data: bytes) -> bytes:
        other = self.rnd.choice(self.corpus)
        at = self.rnd.randrange(len(data) + 1)
        return data[:at] + other[self.rnd.randrange(len(other)) :]

    def _repeat(self, data: bytes) -> bytes:
        at = self.rnd.randrange(len(data) + 1)
        piece = data[at : at + self.rnd.randrange(1, 20)]
        return data[:at] + piece * self.rnd.choice((2, 50, 2000)) + data[at:]

    def _random(self, data: bytes) -> bytes:
        del data
        return self.rnd.randbytes(self.rnd.randrange(200))

    def _tree(self, data: bytes) -> bytes:
        """Change a value inside, and write it in any form."""
        try:
            tree = json.loads(data) if data[:1] == b"{" else cbor2.loads(data)
            path: list[tuple[Any, Any]] = []
            self._places(tree, path, 0)
            holder, key = self.rnd.choice(path)
            holder[key] = self._value(0)
            if self.rnd.random() < 0.5:
                return json.dumps(tree).encode("utf-8", "surrogatepass")
            return bytes(cbor2.dumps(tree))
        except Exception:  # noqa: BLE001 - what cannot be changed is not
            return data

    def _places(self, tree: Any, path: list[tuple[Any, Any]], depth: int) -> None:
        if depth > 20 or not isinstance(tree, (dict, list)):
            return
        for key in list(tree) if isinstance(tree, dict) else range(len(tree)):
            path.append((tree, key))
            self._places(tree[key], path, depth + 1)

    def _value(self, depth: int) -> Any:
        rnd = self.rnd
        simple = (None, True, 0, -1, 2**31, 2**63, 2**64, 1e300, "", "x", "\ud800", "a" * 5000)
        named = ("10.0.0.0/33", "::/0", "0.0.0.0/0", "slpf", "deny", "\0", "../..", "{{7*7}}")
        kind = rnd.random()
        if kind < 0.5 or depth > 3:
            return rnd.choice(simple)
        if kind < 0.7:
            return rnd.choice(named)
        if kind < 0.85:
            return [self._value(depth + 1) for _ in range(rnd.randrange(4))]
        return {str(rnd.choice(named)): self._value(depth + 1) for _ in range(rnd.randrange(4))}

    def properties(self) -> Properties | None:
        rnd = self.rnd
        if rnd.random() < 0.1:
            return None
        plain = rnd.random() < 0.6
        return properties(
            "req" if plain else rnd.choice((None, "req", "rsp", "", "x" * 300)),
            rnd.choice(("json", "cbor", "cbor", "json", None, "xml")),
            content_type="application/openc2" if plain else rnd.choice((None, "text/plain", "")),
            user=[("x", "y")] * rnd.choice((0, 0, 0, 30)),
            **({"CorrelationData": rnd.randbytes(9)} if rnd.random() < 0.2 else {}),
            **({"ResponseTopic": "wild/evil"} if rnd.random() < 0.1 else {}),
        )


def run(this: Run) -> None:
    """Rounds of messages; after each the daemon answers, and has not grown."""
    rounds = -(-this.many(4000, 1_000_000) // _ROUND)
    host = this.host("max_inflight_messages 200", isolated=False)
    zulu = host.consumer(
        broker={"extra_subscriptions": ["wild/#"]},
        limits={"remember": 5},
        actuators_slpf={"backend": "dry-run"},
    )
    zulu.start(**this.environment())
    soc = host.producer()
    mutator = Mutator(this.rnd)
    resident: list[int] = []
    for number in range(rounds):
        for _ in range(_ROUND):
            topic, qos = this.rnd.choice(_TOPICS), this.rnd.choice((0, 1, 1, 1, 2))
            soc.publish(mutator.make(), topic, properties=mutator.properties(), qos=qos)
        this.figures["messages"] += _ROUND
        _still_well(zulu, soc, number)
        resident.append(zulu.resident())
        if number % 10 == 9:
            this.tell()
        _valid(this, soc)
    assert zulu.process is not None
    assert zulu.process.poll() is None
    settled = resident[min(2, len(resident) - 1)]
    this.figures["MB at the third round"] = settled >> 20
    this.figures["MB at the end"] = resident[-1] >> 20
    assert resident[-1] - settled < _GROWTH, [one >> 20 for one in resident]
    faults = {entry["event"] for entry in zulu.entries() if entry["level"] == "error"}
    assert not faults, faults
    assert not host.producer().refused
    assert zulu.stop() == 0


def _still_well(zulu: Consumer, soc: Producer, number: int) -> None:
    """A command of each kind is carried out in time."""
    begun = time.monotonic()
    asked = [soc.send(query(), qos=1), soc.send(deny(f"10.255.0.{number % 250 + 1}"), qos=1)]
    for one in asked:
        assert soc.wait(one, timeout=60)[0].status == 200
    assert zulu.process is not None
    assert zulu.process.poll() is None
    assert time.monotonic() - begun < 60


def _valid(this: Run, soc: Producer) -> None:
    """What was answered is OpenC2, on the topic of responses, and tells nothing of the inside."""
    replies, soc.replies = soc.replies, []
    for reply in replies:
        if reply.topic != "oc2/rsp":
            assert reply.topic.startswith("wild/"), reply.topic  # what we published ourselves
            continue
        assert 100 <= reply.status <= 599
        assert not any(word in reply.text for word in ("Traceback", ".py", "/tmp/", "oc2d."))
        assert reply.user[0] == ("msgType", "rsp")
        this.figures[f"answered {reply.status}"] += 1
