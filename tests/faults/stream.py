"""What one Producer asks of a Consumer that may die at any time, and what must come of it."""

from __future__ import annotations

import time
import uuid
from dataclasses import dataclass, field
from typing import Any

from oc2d.language.codec import Encoding, encode
from tests.consumer import Host, allow, command, delete, deny, query
from tests.faults.scenario import Run
from tests.producer import Producer, properties, request

__all__ = ["Model", "Sent", "make_model"]

_TOPICS = ("oc2/cmd/device/zulu", "oc2/cmd/ap/{}", "oc2/cmd/all")
_ENCODINGS = ("json", "cbor", "cbor-concise")


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
        topics = [topic.format(nsid) for topic in _TOPICS]
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
        form = Encoding(self.run.rnd.choice(_ENCODINGS))
        one = self._count(mark)
        self.sent.append(one)
        content = {**one.content, "actuator": {"x-count": {}}}
        payload = encode(request(content, {"from": f"soc{self.index}@example.com"}), form)
        packed = properties("req", form.announced, CorrelationData=mark.encode())
        qos = self.run.rnd.choice((1, 2))  # x-count keeps no order
        self.producer.publish(payload, _TOPICS[0], properties=packed, qos=qos)
        return one

    def _publish(self, request_id: str, content: object, topic: str) -> None:
        self.run.figures["messages"] += 1
        self.producer.send(
            content,
            topic,
            request_id=request_id,
            headers={"from": f"soc{self.index}@example.com"},
            encoding=self.run.rnd.choice(_ENCODINGS),
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


def make_model(this: Run, host: Host, index: int) -> Model:
    """A Producer with a link of its own, on which it hears nothing: that is the watcher's."""
    return Model(index, this, host.producer(f"soc{index}@example.com", filters=("oc2/none",)))
