"""A host for actuators without a broker: the real engine, its journal and threads, a clock to turn.

Commands go in as the JSON or CBOR that a Producer writes, responses come out as it reads them.
"""

from __future__ import annotations

import itertools
import json
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

import cbor2
import pluggy

from oc2d.actuator import Actuator
from oc2d.config import Broker, Config
from oc2d.engine.consumer import Consumer
from oc2d.engine.ports import Channel, Inbound, Token
from oc2d.engine.selection import Hosted
from oc2d.hookspecs import ENTRY_POINT_GROUP, Hooks
from oc2d.language.vocabulary import StatusCode
from oc2d.mqtt import topics
from oc2d.testing.clock import TurnedClock
from oc2d.testing.transfer import PATIENCE, Recorder, Reply

__all__ = ["DEVICE", "ActuatorHost"]

#: The device_id of hosts and daemons in tests.
DEVICE = "fw-7"
PROCESSING = StatusCode.PROCESSING
_T = TypeVar("_T")


class ActuatorHost:
    """`ask` a command, look at the `replies`; time goes by only by `advance`.

    `directory` holds the journal and is the actuators' state directory, `directory/run` their
    runtime directory; `timeout` are the seconds after which one counts as stuck. `config` is a
    whole configuration for those who need one; its `[actuators]` are not read: `actuators` are
    hosted, in this order. `hooks` are objects with hookimpls.
    """

    def __init__(  # noqa: PLR0913 - all but the first may be left out
        self,
        directory: Path,
        *actuators: Actuator,
        clock: TurnedClock | None = None,
        boot_id: str = "boot-1",
        timeout: float = 60.0,
        hooks: Iterable[object] = (),
        config: Config | None = None,
        transfer: Recorder | None = None,
    ) -> None:
        self.directory = directory
        self.runtime = directory / "run"
        self.actuators = actuators
        self.clock = clock or TurnedClock()
        self.boot_id = boot_id
        self.transfer = transfer or Recorder()
        manager = pluggy.PluginManager(ENTRY_POINT_GROUP)
        manager.add_hookspecs(Hooks)
        for one in hooks:
            manager.register(one)
        config = config or Config(
            device_id=DEVICE, sender=DEVICE, broker=Broker(host="localhost", port=1883)
        )
        hosted = {
            one.profile: Hosted(
                one, {(p.action, p.target): p for p in one.supported_pairs()}, timeout
            )
            for one in actuators
        }
        self.runtime.mkdir(parents=True, exist_ok=True)
        self.journal = directory / "journal.db"
        space, mode = config.namespace, config.broker.response_topic
        self.consumer = Consumer(
            config,
            hosted,
            manager,
            self.clock.clock(boot_id),
            self.journal,
            subscribed=topics.filters(space, tuple(hosted), config.device_id),
            device_topic=topics.device_topic(space, config.device_id),
            reply_topics=lambda producer: topics.reply_topics(space, mode, producer),
        )
        self._commands_on = f"{space}/oc2/cmd" if space else "oc2/cmd"
        self._device = config.device_id
        self._packets = itertools.count(1)
        self._requests = itertools.count(1)

    # -- life

    def start(self) -> ActuatorHost:
        """Start the actuators and the engine; raises `Oc2dError` when an actuator cannot start."""
        self.transfer.intake = self.consumer.engine
        self.consumer.start(self.transfer, self.directory, self.runtime)
        return self

    def stop(self) -> None:
        """Stop as the daemon does at SIGTERM: finish what is running."""
        self.consumer.quiesce()
        self.consumer.close()

    def __enter__(self) -> ActuatorHost:  # noqa: PYI034 - Self needs Python 3.11
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def dead_copy(self, name: str) -> Path:
        """Copy what a kill -9 would leave on the disk right now, to a directory beside this one."""
        target = self.directory.parent / name
        shutil.copytree(self.directory, target)
        return target

    # -- time

    def advance(self, seconds: float, *, wall: bool = True) -> None:
        """Let time go by, and what is due happen; `wall` False: the wall clock does not follow."""
        self.clock.turn(seconds, wall=wall)
        self.poke()

    def poke(self) -> None:
        """Have everybody look at the clock."""
        self.consumer.look_at_the_clock()
        self._written()

    def _written(self) -> None:
        if not self.consumer.engine.settle(PATIENCE):
            raise AssertionError("the engine does not settle")

    # -- talking to it

    def message(  # noqa: PLR0913 - all but the first may be left out
        self,
        command: Any,  # noqa: ANN401 - a tree of JSON, or what is none
        *,
        request_id: str | None = "r-1",
        sender: str | None = "soc",
        to: object = None,
        created: object = None,
        encoding: str = "json",
        headers: dict[str, Any] | None = None,
        **inbound: Any,  # noqa: ANN401 - members of Inbound
    ) -> Inbound:
        """Make the message of a request; `inbound` are members of the delivery."""
        known = {"request_id": request_id, "from": sender, "to": to, "created": created}
        own = {name: value for name, value in known.items() if value is not None}
        tree = {
            "headers": {**own, **(headers or {})},
            "body": {"openc2": {"request": command}},
        }
        payload = json.dumps(tree).encode() if encoding == "json" else cbor2.dumps(tree)
        return self.raw(payload, encoding=encoding, **inbound)

    def raw(self, payload: bytes, **inbound: Any) -> Inbound:  # noqa: ANN401 - the same
        """Make a message of any bytes."""
        channel = inbound.pop("channel", Channel.ALL)
        profile = inbound.get("profile")
        topic = {
            Channel.ALL: f"{self._commands_on}/all",
            Channel.PROFILE: f"{self._commands_on}/ap/{profile}",
            Channel.DEVICE: f"{self._commands_on}/device/{self._device}",
            Channel.OTHER: self._commands_on,
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
        """Hand messages to the engine, all at once."""
        self.consumer.engine.received(messages)

    def ask(self, command: Any, **options: Any) -> Inbound:  # noqa: ANN401 - as `message`
        """Deliver a command and go on; options are those of `message`."""
        message = self.message(command, **options)
        self.deliver(message)
        return message

    def answered(self, command: Any, **options: Any) -> Reply:  # noqa: ANN401 - as `message`
        """Deliver a command and wait for the next reply."""
        before = len(self.transfer.sent)
        self.ask(command, **options)
        return self.reply(before + 1)

    def command(self, command: Any, **options: Any) -> Reply:  # noqa: ANN401 - as `message`
        """Deliver a command under a request id of its own and wait for its final reply."""
        one = self.fresh_id()
        self.ask(command, request_id=one, **options)
        return self.reply_to(one)

    def reply_to(self, request_id: str) -> Reply:
        """Wait for the final reply to a request: one that is no 102."""
        found: list[Reply] = []

        def arrived() -> bool:
            found[:] = [r for r in self.replies_to(request_id) if r.status != PROCESSING]
            return bool(found)

        self.transfer.wait(arrived, f"no final reply to {request_id}")
        return found[0]

    def replies_to(self, request_id: str) -> list[Reply]:
        """All replies to a request so far, interim ones too."""
        return [r for r in self.replies if r.headers.get("request_id") == request_id]

    def fresh_id(self) -> str:
        """Return a request id that was not used here."""
        return f"request-{next(self._requests)}"

    def reply(self, number: int) -> Reply:
        """Wait until so many replies were sent; the last of them."""
        self.transfer.wait(
            lambda: len(self.transfer.sent) >= number,
            f"{len(self.transfer.sent)} of {number} replies",
        )
        return self.replies[number - 1]

    @property
    def replies(self) -> list[Reply]:
        """All replies, in order."""
        return [
            Reply((json.loads if out.encoding.value == "json" else cbor2.loads)(out.payload), out)
            for out in list(self.transfer.sent)
        ]

    @property
    def statuses(self) -> list[int]:
        """The status of each reply."""
        return [reply.status for reply in self.replies]

    def settle(self) -> None:
        """Wait until everything that can happen by itself has happened."""
        for _ in range(2):
            self._written()
            for one in self.actuators:
                self.call(one.profile, lambda: None)
        self._written()

    def call(self, profile: str, function: Callable[[], _T]) -> _T:
        """Run a function on the thread of an actuator; re-raises what it raises."""
        result: _T = self.consumer.call(profile, function, PATIENCE)
        return result

    def silent_to(self, message: Inbound) -> bool:
        """Deliver; tell whether it was acknowledged and nothing was sent."""
        before = len(self.transfer.sent)
        self.deliver(message)
        self.settle()
        if self.transfer.acknowledged[-1] != message.token:
            raise AssertionError("not acknowledged")
        return len(self.transfer.sent) == before

    def together(self, commands: Iterable[Any], **options: Any) -> list[Reply]:  # noqa: ANN401 - as `message`
        """Deliver commands all at once; the final reply to each, in the order of the commands."""
        named = [(self.fresh_id(), command) for command in commands]
        before = len(self.transfer.sent)
        self.deliver(*(self.message(one, request_id=name, **options) for name, one in named))
        self.transfer.wait(lambda: len(self.transfer.sent) >= before + len(named))
        self.settle()
        final = {
            r.headers.get("request_id"): r for r in self.replies[before:] if r.status != PROCESSING
        }
        return [final.get(name) or self.reply_to(name) for name, _ in named]
