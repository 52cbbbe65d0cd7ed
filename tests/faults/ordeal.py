"""A Consumer that dies again and again under a stream of commands, and is compared with a model.

0 lost, 0 twice: the kernel's rules, the effects of an actuator that is not idempotent and the
responses are compared with a model. `outcome unknown` is right only for a command that was running
at a death (not idempotent), or at two (idempotent): the journal is read after each death to know.
"""

from __future__ import annotations

import shutil
import sqlite3
import time
from collections import Counter
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

import msgspec

from oc2d.engine.records import Origin
from tests.consumer import Consumer, Host
from tests.faults.scenario import Run
from tests.faults.stream import Model, Sent, make_model
from tests.producer import Producer

__all__ = ["Ordeal", "make_consumer"]

_INTERIM = 102
_SETTLE = 60  # seconds without any news
_MOST_OPEN = 400  # unanswered commands; beyond it the next lives only work


@dataclass
class Deaths:
    """How often each request was running at a death, as the journal of the dead says."""

    consumer: Consumer
    running: Counter[str] = field(default_factory=Counter)

    def note(self) -> None:
        """Read the journal of the dead process; its recovery is left to the next one."""
        state, copy = self.consumer.directory / "state", self.consumer.directory / "copy"
        if not (state / "journal.db").exists():
            return
        shutil.rmtree(copy, ignore_errors=True)
        copy.mkdir()
        for name in ("journal.db", "journal.db-wal"):
            if (state / name).exists():
                shutil.copy(state / name, copy / name)
        with closing(sqlite3.connect(copy / "journal.db")) as database:
            try:
                rows = database.execute(
                    "SELECT origin, attempts FROM requests WHERE phase = 1 AND origin IS NOT NULL"
                ).fetchall()
            except sqlite3.OperationalError:  # it died before there were tables
                return
        blamed = 0
        for blob, attempts in rows:
            origin = msgspec.msgpack.decode(blob, type=Origin)
            request_id = origin.request_id or (origin.correlation or b"").decode()
            blamed += attempts > 1 and self.running[request_id] < attempts
            self.running[request_id] = attempts
        assert blamed <= 1, f"{blamed} commands are blamed for one death"


def make_consumer(this: Run) -> Consumer:
    return this.host().consumer(
        broker={"qos": 2},
        actuators_slpf={},
        **{"actuators_x-count": {}},
    )


class Ordeal:
    """Four Producers that ask, one that hears all responses, and how often it died of what."""

    def __init__(self, this: Run, zulu: Consumer, environment: dict[str, str]) -> None:
        self._run = this
        self._zulu = zulu
        self._environment = environment
        this.start(zulu, **environment)
        self._watcher = zulu.host.producer("watcher@example.com")
        self._models = [make_model(this, zulu.host, index) for index in range(4)]
        self.deaths = Deaths(zulu)
        zulu.kill()

    def ask(self) -> None:
        """Send some more commands, unless too many are unanswered."""
        sent = sum(len(model.sent) for model in self._models)
        if sent - len(_final_responses(self._watcher)) < _MOST_OPEN:
            self._send(self._run.rnd.randrange(0, 4))

    def _send(self, count: int) -> None:
        for _ in range(count):
            for model in self._models:
                model.go_on()

    def one_life(self, point: str) -> None:
        """Until it dies at `point`, but no longer than it takes to start and as long again.

        Without one at any time in twice what a start takes.
        """
        this, zulu = self._run, self._zulu
        assert zulu.process is not None
        begun, up = time.monotonic(), not point
        end = begun + (10 if point else 2 * this.rnd.random()) * this.patience
        while (now := time.monotonic()) < end and zulu.process.poll() is None:
            if now - begun > 0.2 and this.rnd.random() * max(1, 2 * this.patience) < 0.3:
                self._send(1)
            time.sleep(0.03)
            if not up and zulu.told().get("link", {}).get("healthy"):
                up, end = True, time.monotonic() + this.patience
        met = zulu.process.poll() is not None
        if met:
            assert zulu.process.returncode == -9, zulu.log.read_text()[-3000:]
            this.figures["kills at a transition"] += 1
        else:
            zulu.kill()
            this.figures["kills at random"] += 1

    def compare(self) -> None:
        """Start it once more, and see that everything is as the model has it."""
        self._run.start(self._zulu, **self._environment)
        self._compare()
        self._zulu.kill()
        self.deaths.note()

    def sum_up(self) -> None:
        figures = self._run.figures
        figures["commands"] = sum(len(model.sent) for model in self._models)
        figures["lost"] = figures["twice"] = 0  # or we were not here

    def _compare(self) -> None:
        zulu, watcher = self._zulu, self._watcher
        asked = [one for model in self._models for one in model.sent]
        owed = {one.request_id for one in asked if one.allowed}

        def settled() -> bool:
            if not owed <= _final_responses(watcher).keys():
                return False
            told = zulu.told()
            return bool(told) and told["engine"]["queue"] == 0 and told["engine"]["unsent"] == 0

        deadline, seen = time.monotonic() + _SETTLE, 0
        while not settled():
            if len(watcher.replies) > seen:
                deadline, seen = time.monotonic() + _SETTLE, len(watcher.replies)
            lost = owed - _final_responses(watcher).keys()
            engine = zulu.told().get("engine", {})
            state = {name: engine.get(name) for name in ("queue", "unsent", "journal_error")}
            assert time.monotonic() < deadline, f"{len(lost)} lost: {sorted(lost)[:9]}, {state}"
            time.sleep(0.1)
        finals = _final_responses(watcher)
        doubtful, unknown = set(), Counter[str]()
        for one in asked:
            final = finals.get(one.request_id)
            if one.allowed is None:
                assert final is None, f"{one} was answered {final}"
                if self.deaths.running[one.request_id] > 1:
                    doubtful.add(one.tainted)
                continue
            assert final is not None
            if final.get("status_text") == "outcome unknown":
                counted = one.content["action"] == "start"
                enough = 1 if counted else 2
                assert self.deaths.running[one.request_id] >= enough, f"unknown without need: {one}"
                unknown["not idempotent" if counted else "died twice"] += 1
                doubtful.add(one.tainted)
        _statuses(asked, finals, doubtful)
        _effects(zulu, asked, finals)
        _rules(zulu.host, zulu, self._models, doubtful)
        self._run.figures |= {f"outcome unknown, {why}": count for why, count in unknown.items()}
        self._run.figures["comparisons"] += 1
        self._run.tell()


def _final_responses(watcher: Producer) -> dict[str, dict[str, Any]]:
    """Request id → its one final response; fails when one has two."""
    found: dict[str, dict[str, Any]] = {}
    for reply in list(watcher.replies):
        if reply.status == _INTERIM:
            continue
        mark = reply.properties.get("CorrelationData", b"").decode()
        request_id = reply.headers.get("request_id") or mark
        before = found.setdefault(request_id, reply.response)
        assert before == reply.response, f"two outcomes of {request_id}: {before} {reply.response}"
    return found


def _statuses(asked: list[Sent], finals: dict[str, Any], doubtful: set[object]) -> None:
    wrong = [
        (one, finals[one.request_id])
        for one in asked
        if one.allowed
        and finals[one.request_id]["status"] not in one.allowed
        and one.tainted not in doubtful
    ]
    assert not wrong, f"{len(wrong)} statuses: {wrong[:5]}"


def _effects(zulu: Consumer, asked: list[Sent], finals: dict[str, Any]) -> None:
    lines = (zulu.directory / "state/x-count.effects").read_text().split()
    effects = Counter(lines)
    twice = {item: count for item, count in effects.items() if count > 1}
    assert not twice, f"twice: {twice}"
    for one in asked:
        if one.content["action"] == "start":
            final = finals[one.request_id]
            if final["status"] == 200:
                assert effects[str(one.tainted)] == 1, f"200 without effect: {one}"


def _rules(host: Host, zulu: Consumer, models: list[Model], doubtful: set[object]) -> None:
    """What the kernel holds, and as many numbers as `oc2d status` shows."""
    numbers: dict[int, str] = {}
    addresses: set[str] = set()
    unclear = {one for one in doubtful if isinstance(one, str)}
    for model in models:
        numbers |= {n: address for n, address in model.numbers.items() if n not in doubtful}
        addresses |= model.addresses - unclear
        for one in model.sent:  # whatever was to stand under a number in doubt
            if one.tainted in doubtful and one.content["action"] != "delete":
                unclear |= set(one.content["target"].values())
    wanted = sorted([*numbers.values(), *addresses])

    def as_it_must_be() -> str:
        kernel = sorted(address for address in host.elements() if address not in unclear)
        if kernel != wanted:
            more, less = Counter(kernel) - Counter(wanted), Counter(wanted) - Counter(kernel)
            return f"the kernel has too much: {[*more][:9]}; too little: {[*less][:9]}"
        for number, rule in zulu.rules().items():
            address = rule["match"].split()[1][:-3]
            if number in numbers and numbers[number] != address:
                return f"{number} is {address}, not {numbers[number]}"
        return ""

    deadline = time.monotonic() + 60
    while wrong := as_it_must_be():  # windows that are still open
        assert time.monotonic() < deadline, wrong
        time.sleep(0.3)
