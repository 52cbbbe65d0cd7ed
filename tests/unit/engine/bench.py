"""A real Consumer on a bench: its directory and threads, a clock to turn, a recording transfer."""

from __future__ import annotations

import itertools
import json
import shutil
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cbor2
import pluggy
from msgspec.structs import replace

from oc2d.actuator import Actuator
from oc2d.config import Broker, Compat, Config, Limits, Policy
from oc2d.engine.clock import Clock
from oc2d.engine.consumer import Consumer
from oc2d.engine.ports import Channel, Inbound, Outgoing, Token
from oc2d.engine.selection import Hosted
from oc2d.hookspecs import Hooks
from oc2d.mqtt import topics

DEVICE = "fw-7"
PATIENCE = 20.0
DAY = 86_400_000
_LIMITS, _POLICY, _COMPAT = Limits(), Policy(), Compat()


class TurnedClock:
    """Wall and boot in milliseconds, monotonic in seconds; moved by the test alone."""

    def __init__(self, wall: int = 1_700_000_000_000, boot: int = 5_000_000) -> None:
        self.wall, self.boot, self.monotonic = wall, boot, 1000.0

    def clock(self, boot_id: str) -> Clock:
        return Clock(boot_id, lambda: self.wall, lambda: self.boot, lambda: self.monotonic)


class Recorder:
    """The transfer: records everything; confirms what is sent at once, or on demand."""

    def __init__(self, *, confirm: bool = True) -> None:
        self.confirm = confirm
        self.acknowledged: list[Token] = []
        self.sent: list[Outgoing] = []
        self.released: list[int] = []
        self.order: list[str] = []
        self.consumer: Consumer | None = None
        self.on_acknowledge: Callable[[Sequence[Token]], None] = lambda _: None
        self.on_send: Callable[[Sequence[Outgoing]], None] = lambda _: None
        self.changed = threading.Condition()

    def acknowledge(self, tokens: Sequence[Token]) -> None:
        self.on_acknowledge(tokens)
        with self.changed:
            self.acknowledged.extend(tokens)
            self.changed.notify_all()

    def send(self, messages: Sequence[Outgoing]) -> None:
        self.on_send(messages)
        with self.changed:
            self.sent.extend(messages)
            self.changed.notify_all()
        if self.confirm and self.consumer:
            self.consumer.engine.sent([m.handle for m in messages])

    def release(self, handles: Sequence[int]) -> None:
        with self.changed:
            self.released.extend(handles)
            self.changed.notify_all()

    def wait(self, condition: Callable[[], bool], what: str = "") -> None:
        with self.changed:
            assert self.changed.wait_for(condition, PATIENCE), what or "not in time"


@dataclass(frozen=True)
class Reply:
    """A response as the Producer reads it."""

    message: dict[str, Any]
    outgoing: Outgoing

    @property
    def response(self) -> dict[str, Any]:
        return self.message["body"]["openc2"]["response"]

    @property
    def headers(self) -> dict[str, Any]:
        return self.message["headers"]

    @property
    def status(self) -> int:
        return self.response["status"]

    @property
    def text(self) -> str:
        return self.response.get("status_text", "")


def deny(address: str = "203.0.113.0/24", **args: Any) -> dict[str, Any]:
    command: dict[str, Any] = {"action": "deny", "target": {"ipv4_net": address}}
    return {**command, "args": args} if args else command


def features(*names: str, **args: Any) -> dict[str, Any]:
    command: dict[str, Any] = {"action": "query", "target": {"features": list(names)}}
    return {**command, "args": args} if args else command


class Bench:
    """`ask` a command, look at the `replies`; `restart` goes on with a copy of what is on disk."""

    def __init__(
        self,
        directory: Path,
        *actuators: Actuator,
        clock: TurnedClock | None = None,
        boot_id: str = "boot-1",
        timeout: float = 60.0,
        hooks: object = None,
        confirm: bool = True,
        order: Sequence[str] = (),
        namespace: str = "",
        response_topic: Any = "general",
        limits: Limits = _LIMITS,
        policy: Policy = _POLICY,
        compat: Compat = _COMPAT,
        accept_retained: bool = False,
        broker: Recorder | None = None,
    ) -> None:
        self.directory = directory
        self.actuators = actuators
        self.turned = clock or TurnedClock()
        self.boot_id = boot_id
        manager = pluggy.PluginManager("oc2d")
        manager.add_hookspecs(Hooks)
        if hooks is not None:
            manager.register(hooks)
        link = Broker(
            host="localhost",
            port=1883,
            response_topic=response_topic,
            accept_retained=accept_retained,
        )
        config = Config(
            device_id=DEVICE,
            sender=DEVICE,
            broker=link,
            limits=limits,
            policy=policy,
            compat=compat,
        )
        loaded = {one.profile: one for one in actuators}
        hosted = {
            nsid: Hosted(
                loaded[nsid],
                {(p.action, p.target): p for p in loaded[nsid].supported_pairs()},
                timeout,
            )
            for nsid in dict.fromkeys([*order, *loaded])
        }
        device_topic = topics.device_topic(namespace, DEVICE)
        directory.mkdir(parents=True, exist_ok=True)
        self.journal = directory / "journal.db"
        self.broker = broker or Recorder(confirm=confirm)
        self.consumer = Consumer(
            config,
            hosted,
            manager,
            self.turned.clock(boot_id),
            self.journal,
            subscribed=[
                "oc2/cmd/all",
                *(f"oc2/cmd/ap/{nsid}" for nsid in hosted),
                device_topic,
            ],
            device_topic=device_topic,
            reply_topics=lambda producer: topics.reply_topics(namespace, response_topic, producer),
        )
        self._packets = itertools.count(1)
        self.started = False

    # -- life

    def start(self) -> Bench:
        self.started = True
        self.broker.consumer = self.consumer
        self.consumer.start(self.broker, self.directory, self.directory)
        return self

    def stop(self) -> None:
        self.consumer.quiesce()
        self.consumer.close()

    def dead_copy(self, name: str) -> Path:
        """What a kill -9 would leave on the disk right now."""
        target = self.directory.parent / name
        target.mkdir()
        for file in self.directory.iterdir():
            shutil.copy(file, target / file.name)
        return target

    # -- time

    def advance(self, seconds: float, *, wall: bool = True) -> None:
        """Let time go by."""
        self.turned.boot += int(seconds * 1000)
        self.turned.monotonic += seconds
        if wall:
            self.turned.wall += int(seconds * 1000)
        self.poke()

    def set_wall(self, milliseconds: int) -> None:
        """Set the wall clock by so much, as an administrator does."""
        self.turned.wall += milliseconds
        self.poke()

    def poke(self) -> None:
        """Have everybody look at the clock."""
        scheduler = self.consumer._scheduler
        with scheduler._changed:  # what its thread does, but before we go on
            for function in scheduler._due():
                function()
        assert self.consumer.engine.settle(PATIENCE)

    # -- talking to it

    def message(
        self,
        command: Any,
        *,
        request_id: str | None = "r-1",
        sender: str | None = "soc",
        to: Any = None,
        created: Any = None,
        encoding: str = "json",
        headers: dict[str, Any] | None = None,
        **inbound: Any,
    ) -> Inbound:
        known = {"request_id": request_id, "from": sender, "to": to, "created": created}
        own = {name: value for name, value in known.items() if value is not None}
        tree = {
            "headers": {**own, **(headers or {})},
            "body": {"openc2": {"request": command}},
        }
        payload = json.dumps(tree).encode() if encoding == "json" else cbor2.dumps(tree)
        return self.raw(payload, encoding=encoding, **inbound)

    def raw(self, payload: bytes, **inbound: Any) -> Inbound:
        channel = inbound.pop("channel", Channel.ALL)
        profile = inbound.get("profile")
        topic = {
            Channel.ALL: "oc2/cmd/all",
            Channel.PROFILE: f"oc2/cmd/ap/{profile}",
            Channel.DEVICE: f"oc2/cmd/device/{DEVICE}",
            Channel.OTHER: "oc2/cmd",
        }[channel]
        defaults: dict[str, Any] = {
            "message_type": "req",
            "encoding": "json",
            "content_type": "application/openc2",
            "profile": None,
            "topic": topic,
        }
        packet_id = inbound.pop("packet_id", None) or next(self._packets)
        return Inbound(
            token=Token(1, packet_id, 1), payload=payload, channel=channel, **(defaults | inbound)
        )

    def deliver(self, *messages: Inbound) -> None:
        self.consumer.engine.received(messages)

    def ask(self, command: Any, **options: Any) -> Inbound:
        """Deliver a command."""
        message = self.message(command, **options)
        self.deliver(message)
        return message

    def answered(self, command: Any, **options: Any) -> Reply:
        """Deliver a command and wait for the next reply."""
        before = len(self.broker.sent)
        self.ask(command, **options)
        return self.reply(before + 1)

    def reply(self, number: int) -> Reply:
        """Wait until so many replies were sent; the last of them."""
        self.broker.wait(
            lambda: len(self.broker.sent) >= number,
            f"{len(self.broker.sent)} of {number} replies",
        )
        return self.replies[number - 1]

    @property
    def replies(self) -> list[Reply]:
        return [
            Reply(
                (json.loads if out.encoding.value == "json" else cbor2.loads)(out.payload),
                out,
            )
            for out in list(self.broker.sent)
        ]

    @property
    def statuses(self) -> list[int]:
        return [reply.status for reply in self.replies]

    def settle(self) -> None:
        """Wait until everything that can happen by itself has happened."""
        for _ in range(2):
            assert self.consumer.engine.settle(PATIENCE)
            for worker in self.consumer._workers.values():
                worker.call(lambda: None, PATIENCE)
        assert self.consumer.engine.settle(PATIENCE)

    def silent_to(self, message: Inbound) -> bool:
        """Deliver; tell whether it was acknowledged and nothing was sent."""
        before = len(self.broker.sent)
        self.deliver(message)
        self.settle()
        assert self.broker.acknowledged[-1] == message.token
        return len(self.broker.sent) == before


def again(message: Inbound, **changes: Any) -> Inbound:
    """The same message once more."""
    return replace(message, **changes)
