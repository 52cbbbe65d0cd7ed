"""kill -9 at random instants and at every transition of the journal, under a stream of commands.

0 lost, 0 twice: the kernel's rules, the effects of an actuator that is not idempotent and the
responses are compared with a model. `outcome unknown` is right only for a command that was running
at a death (not idempotent), or at two (idempotent): the journal is read after each death to know.
"""

from __future__ import annotations

import shutil
import sqlite3
import time
import uuid
from collections import Counter
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

import msgspec

from oc2d.engine.records import Origin
from oc2d.language.codec import Encoding, encode
from tests.consumer import Consumer, Host, allow, command, delete, deny, query
from tests.faults.scenario import Run
from tests.producer import Producer, properties, request

__all__ = [
    "MOST_OPEN",
    "Deaths",
    "Model",
    "compare",
    "deadly_point",
    "final_responses",
    "make_model",
    "one_life",
    "run",
    "send_more",
]

TOPICS = ("oc2/cmd/device/zulu", "oc2/cmd/ap/{}", "oc2/cmd/all")
ENCODINGS = ("json", "cbor", "cbor-concise")
_JOURNAL = (
    *("begin", "commit", "add", "add_answered", "delivered", "started", "finish", "respond"),
    *("post", "sent", "released", "arm", "disarm", "reverting", "reoriginate", "expire"),
)
POINTS = (
    *(f"oc2d.engine.journal:Journal.{method}" for method in _JOURNAL),
    *(f"oc2d.mqtt.session:Session.{method}" for method in ("acknowledge", "send", "release")),
    "oc2d_faults:Count.effect",
    "oc2d_slpf.nftables:Nftables.apply",
    "oc2d_slpf.store:Store.remember",
)
_INTERIM = 102
_SETTLE = 60  # seconds without any news
MOST_OPEN = 400  # unanswered commands; beyond it the next lives only work


@dataclass
class Sent:
    """One request as it was first sent, and what may be answered; None: nothing is."""

    request_id: str
    content: dict[str, Any]
    allowed: set[int] | None
    tainted: object = None  # number or address that is in doubt when the outcome is unknown


@dataclass
class Model:
    """What one Producer's commands must come to, each carried out once and in order."""

    index: int
    run: Run
    producer: Producer
    sent: list[Sent] = field(default_factory=list)
    numbers: dict[int, str] = field(default_factory=dict)  # number → address
    addresses: set[str] = field(default_factory=set)  # under numbers that the Consumer chose
    step: int = 0

    @property
    def qos(self) -> int:
        """Only what shares a QoS is kept in order."""
        return 1 + self.index % 2

    def go_on(self) -> Sent:
        """Send one more command, once or more often."""
        rnd = self.run.rnd
        self.step += 1
        request_id = f"{self.index}-{self.step}-{uuid.UUID(int=rnd.getrandbits(128))}"
        if self.index == 0 and rnd.random() < 0.3:
            return self._nameless(request_id)
        one = self._count(request_id) if self.index == 0 else self._rule(request_id)
        self.sent.append(one)
        nsid = "x-count" if self.index == 0 else "slpf"
        content = one.content
        if content["action"] != "query":
            content = {**content, "actuator": {nsid: {}}}
        topics = [topic.format(nsid) for topic in TOPICS]
        copies = rnd.sample(topics, 2) if rnd.random() < 0.15 else topics[:1]
        for topic in copies:
            self._publish(one.request_id, content, topic)
        if rnd.random() < 0.1:  # a retry: new `created`, perhaps another form
            self._publish(request_id, content, topics[0])
            self.run.figures["retries"] += 1
        return one

    def _nameless(self, mark: str) -> Sent:
        """A command without a request id: only the packet id of its delivery makes it known."""
        self.run.figures["messages"] += 1
        self.run.figures["without a request id"] += 1
        form = Encoding(self.run.rnd.choice(ENCODINGS))
        one = self._count(mark)
        self.sent.append(one)
        content = {**one.content, "actuator": {"x-count": {}}}
        payload = encode(request(content, {"from": f"soc{self.index}@example.com"}), form)
        packed = properties("req", form.announced, CorrelationData=mark.encode())
        qos = self.run.rnd.choice((1, 2))  # x-count keeps no order
        self.producer.publish(payload, TOPICS[0], properties=packed, qos=qos)
        return one

    def _publish(self, request_id: str, content: object, topic: str) -> None:
        self.run.figures["messages"] += 1
        self.producer.send(
            content,
            topic,
            request_id=request_id,
            headers={"from": f"soc{self.index}@example.com"},
            encoding=self.run.rnd.choice(ENCODINGS),
            qos=self.qos,
        )

    def _count(self, request_id: str) -> Sent:
        item = {"x-count:item": request_id}
        return Sent(request_id, command("start", item), {200}, request_id)

    def _rule(self, request_id: str) -> Sent:
        rnd, step = self.run.rnd, self.step
        address = f"10.{self.index}.{step // 250}.{step % 250 + 1}"
        make = rnd.choice((deny, allow))
        kind = rnd.random()
        if kind < 0.25:
            number = self.index * 100_000 + rnd.randrange(1, 200)
            status = 501 if number in self.numbers else 200
            self.numbers.setdefault(number, address)
            return Sent(request_id, make(address, insert_rule=number), {status}, number)
        if kind < 0.45 and self.numbers:
            number = rnd.choice([*self.numbers, self.index * 100_000 + 999])
            status = 200 if self.numbers.pop(number, None) else 500
            return Sent(request_id, delete(number), {status}, number)
        if kind < 0.5:
            return Sent(request_id, query("versions"), {200})
        if kind < 0.53:
            return Sent(request_id, {"action": "deny", "target": {"ipv4_net": "x"}}, {400})
        return self._lasting(request_id, make(address), address)

    def _lasting(self, request_id: str, content: dict[str, Any], address: str) -> Sent:
        """A rule whose number the Consumer chooses: now, for a while, later, or unanswered."""
        rnd, kind = self.run.rnd, self.run.rnd.random()
        if kind < 0.2:  # its window may be over before it can be carried out
            args: dict[str, Any] = {"duration": rnd.randrange(300, 3000)}
            return Sent(request_id, {**content, "args": args}, {200, 500}, address)
        self.addresses.add(address)
        if kind < 0.4:
            args = {"start_time": int(time.time() * 1000) + rnd.randrange(-500, 3000)}
            return Sent(request_id, {**content, "args": args}, {200}, address)
        if kind < 0.5:
            args = {"response_requested": "none"}
            return Sent(request_id, {**content, "args": args}, None, address)
        if kind < 0.6:
            return Sent(request_id, {**content, "args": {"duration": 86_400_000}}, {200}, address)
        return Sent(request_id, content, {200}, address)


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


def run(this: Run) -> None:
    """Kill, restart, go on; every 50 kills and at the end compare with the model."""
    kills = this.many(8, 1000)
    host = this.host()
    zulu = this.consumer(
        host,
        broker={"qos": 2},
        actuators_slpf={},
        **{"actuators_x-count": {}},  # type: ignore[arg-type]
    )
    this.start(zulu)
    watcher = host.producer("watcher@example.com")
    models = [make_model(this, host, index) for index in range(4)]
    deaths = Deaths(zulu)
    zulu.kill()
    for number in range(kills):
        point = deadly_point(this, number)
        if sum(len(model.sent) for model in models) - len(final_responses(watcher)) < MOST_OPEN:
            send_more(models, this.rnd.randrange(0, 4))
        zulu.launch(**this.environment(point))
        one_life(this, zulu, models, point)
        deaths.note()
        if number % 50 == 49 or number == kills - 1:
            this.start(zulu)
            compare(this, host, zulu, watcher, models, deaths)
            zulu.kill()
            deaths.note()
    this.figures["commands"] = sum(len(model.sent) for model in models)
    this.figures["lost"] = this.figures["twice"] = 0  # or we were not here


def make_model(this: Run, host: Host, index: int) -> Model:
    """A Producer with a link of its own, on which it hears nothing: that is the watcher's."""
    return Model(index, this, host.producer(f"soc{index}@example.com", filters=("oc2/none",)))


def deadly_point(this: Run, number: int) -> str:
    """Every second death is at a transition, the others whenever it happens."""
    if number % 2:
        return ""
    where = POINTS[number // 2 % len(POINTS)] if number < 2 * len(POINTS) else ""
    where = where or this.rnd.choice(POINTS)
    often = this.rnd.choice((1, 1, 2, 3, 5, 8))
    return f"{where}:{this.rnd.choice(('before', 'after'))}:{often}"


def send_more(models: list[Model], count: int) -> None:
    for _ in range(count):
        for model in models:
            model.go_on()


def one_life(this: Run, zulu: Consumer, models: list[Model], point: str) -> None:
    """Until it dies at `point`, but no longer than it takes to start and as long again.

    Without one at any time in twice what a start takes.
    """
    assert zulu.process is not None
    begun, up = time.monotonic(), not point
    end = begun + (10 if point else 2 * this.rnd.random()) * this.patience
    while (now := time.monotonic()) < end and zulu.process.poll() is None:
        if now - begun > 0.2 and this.rnd.random() * max(1, 2 * this.patience) < 0.3:
            send_more(models, 1)
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


def final_responses(watcher: Producer) -> dict[str, dict[str, Any]]:
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


def compare(
    this: Run,
    host: Host,
    zulu: Consumer,
    watcher: Producer,
    models: list[Model],
    deaths: Deaths,
) -> None:
    asked = [one for model in models for one in model.sent]
    owed = {one.request_id for one in asked if one.allowed}

    def settled() -> bool:
        if not owed <= final_responses(watcher).keys():
            return False
        told = zulu.told()
        return bool(told) and told["engine"]["queue"] == 0 and told["engine"]["unsent"] == 0

    deadline, seen = time.monotonic() + _SETTLE, 0
    while not settled():
        if len(watcher.replies) > seen:
            deadline, seen = time.monotonic() + _SETTLE, len(watcher.replies)
        lost = owed - final_responses(watcher).keys()
        engine = zulu.told().get("engine", {})
        state = {name: engine.get(name) for name in ("queue", "unsent", "journal_error")}
        assert time.monotonic() < deadline, f"{len(lost)} lost: {sorted(lost)[:9]}, {state}"
        time.sleep(0.1)
    finals = final_responses(watcher)
    doubtful, unknown = set(), Counter[str]()
    for one in asked:
        final = finals.get(one.request_id)
        if one.allowed is None:
            assert final is None, f"{one} was answered {final}"
            if deaths.running[one.request_id] > 1:
                doubtful.add(one.tainted)
            continue
        assert final is not None
        if final.get("status_text") == "outcome unknown":
            counted = one.content["action"] == "start"
            enough = 1 if counted else 2
            assert deaths.running[one.request_id] >= enough, f"unknown without need: {one}"
            unknown["not idempotent" if counted else "died twice"] += 1
            doubtful.add(one.tainted)
    _statuses(asked, finals, doubtful)
    _effects(zulu, asked, finals)
    _rules(host, zulu, models, doubtful)
    this.figures |= {f"outcome unknown, {why}": count for why, count in unknown.items()}
    this.figures["comparisons"] += 1
    this.tell()


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
