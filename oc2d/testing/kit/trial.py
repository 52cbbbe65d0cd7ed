"""One actuator on trial: hosted, watched, looked at, stopped and started again."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Any

import msgspec

from oc2d.actuator import Actuator, Command
from oc2d.errors import Refusal
from oc2d.testing.clock import TurnedClock
from oc2d.testing.host import ActuatorHost
from oc2d.testing.kit.subject import Sample, Subject
from oc2d.testing.transfer import Reply

__all__ = ["Call", "Nonconformance", "Trial", "expect", "shown", "told"]

_WATCHED = (
    *("restore", "stop", "link_resolving", "link_changing", "link_changed", "status"),
    *("matches", "check", "reserve", "execute", "execute_many", "revert", "refusal"),
)


class Nonconformance(AssertionError):  # noqa: N818 - it is the subject's error
    """The actuator does not do what it must; the message says what and with which command."""


def expect(condition: object, message: str) -> None:
    """Raise `Nonconformance` unless it is so."""
    if not condition:
        raise Nonconformance(message)


@dataclass(frozen=True)
class Call:
    """A call of one of the actuator's methods, and what came of it."""

    method: str
    arguments: tuple[Any, ...]
    result: Any = None
    error: BaseException | None = None


class Trial:
    """A subject in a directory of its own. A context manager: it ends what it started.

    It begins to live when it is first looked at, and never beside another: devices have one host.
    """

    def __init__(self, subject: Subject, directory: Path) -> None:
        self.subject = subject
        self._directory = directory
        self._undo = ExitStack()
        place = directory / "config"
        place.mkdir(parents=True)
        self.table: Mapping[str, Any] = subject.table(place)
        self.clock = TurnedClock()
        self.calls: list[Call] = []
        self.restored: object = None
        """What was in force when `restore` had returned."""
        self._lives = 0
        self._alive: tuple[ActuatorHost, Actuator] | None = None

    @property
    def host(self) -> ActuatorHost:
        """The host in which it lives now."""
        return (self._alive or self._live(self._directory / "life0"))[0]

    @property
    def actuator(self) -> Actuator:
        """The actuator as it lives now."""
        return (self._alive or self._live(self._directory / "life0"))[1]

    def fresh(self, name: str) -> Trial:
        """Return a trial of the same subject in another directory, after the end of this one."""
        self._end()
        return Trial(self.subject, self._directory / name)

    def __enter__(self) -> Trial:  # noqa: PYI034 - Self needs Python 3.11
        return self

    def __exit__(self, *_: object) -> None:
        self._undo.close()

    def _live(self, directory: Path) -> tuple[ActuatorHost, Actuator]:
        kind = self.subject.actuator
        made = kind.create(kind.parse_config(self.table))
        (actuator,) = (one for one in made if one.profile == self.subject.nsid)
        self._watch(actuator)
        host = ActuatorHost(directory, *made, clock=self.clock)
        self._undo.callback(host.stop)
        self._alive = host, actuator
        host.start()
        return self._alive

    def _watch(self, actuator: Actuator) -> None:
        for name in _WATCHED:
            setattr(actuator, name, self._recorded(name, getattr(actuator, name)))

    def _recorded(self, name: str, method: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(method)
        def recorded(*arguments: Any) -> Any:  # noqa: ANN401 - whatever the method takes
            try:
                result = method(*arguments)
            except BaseException as error:
                self.calls.append(Call(name, arguments, error=error))
                raise
            self.calls.append(Call(name, arguments, result))
            if name == "restore":
                self.restored = self._look()
            return result

        return recorded

    # -- lives

    def stop_and_start(self) -> None:
        """Stop in order, then start again with what is on the disk."""
        directory = self.host.directory
        self._end()
        self._live(directory)

    def kill_and_start(self, *, away: float = 0.0) -> None:
        """Start again with what a kill -9 would have left, after `away` seconds."""
        self._lives += 1
        left = self.host.dead_copy(f"life{self._lives}")
        self._end()
        self.clock.turn(away)
        self._live(left)

    def _end(self) -> None:
        self._alive = None
        self._undo.close()

    # -- what it does

    def prepare(self, sample: Sample) -> None:
        """Carry out what goes before a sample."""
        for command in sample.after:
            reply = self.host.command(command)
            expect(reply.status < 300, f"before {sample}: {told(command)} → {shown(reply)}")  # noqa: PLR2004 - carried out

    def carry_out(self, sample: Sample, **args: object) -> Reply:
        """Carry out a sample with what goes before it; its answer must be the expected one."""
        self.prepare(sample)
        return self.ask(sample, **args)

    def ask(self, sample: Sample, **args: object) -> Reply:
        """Send a sample; its final answer must be the expected one."""
        reply = self.ask_once(sample, **args)
        self.answered(sample, reply)
        return reply

    def ask_once(self, sample: Sample, **args: object) -> Reply:
        """Send a sample; its first answer, be it interim, when only one is asked for."""
        command = sample.with_args(**args) if args else dict(sample.command)
        if args.get("response_requested") == "ack":
            return self.host.answered(command, request_id=self.host.fresh_id())
        return self.host.command(command)

    def answered(self, sample: Sample, reply: Reply) -> None:
        """Compare an answer with what the sample says of it."""
        expect(
            reply.status == sample.status,
            f"{told(sample.command)} must be answered {sample.status}, not {shown(reply)}"
            + self.faults(),
        )

    def state(self) -> object:
        """Tell what is in force."""
        self.host.settle()
        return self.host.call(self.subject.nsid, self._look)

    def _look(self) -> object:
        look = self.subject.state
        found = None if look is None else look(self.actuator)
        return msgspec.to_builtins(found, enc_hook=repr, order="sorted")

    # -- what was seen

    def called(self, *methods: str) -> list[Call]:
        """Return the calls of these methods."""
        return [call for call in self.calls if call.method in methods]

    def executed(self) -> dict[str, Command]:
        """Return the commands that were handed over for execution, by key."""
        handed: list[Command] = []
        for call in self.called("execute", "execute_many"):
            (first,) = call.arguments
            handed += [first] if call.method == "execute" else first
        return {command.key: command for command in handed}

    def faults(self) -> str:
        """Describe what the actuator raised that is no `Refusal`; empty if nothing."""
        wrong = [c for c in self.calls if c.error and not isinstance(c.error, Refusal)]
        return "".join(
            f"\n{call.method} raised:\n" + "".join(traceback.format_exception(call.error)[-3:])
            for call in wrong[:3]
        )

    def no_faults(self, what: str) -> None:
        """See that the actuator raised nothing but refusals."""
        expect(not self.faults(), f"{what}:{self.faults()}")


def told(command: object) -> str:
    """Show a command, shortened."""
    text = repr(command)
    return text if len(text) <= 200 else f"{text[:200]}…"  # noqa: PLR2004 - a line or two


def shown(reply: Reply) -> str:
    """Show an answer."""
    return f"{reply.status} {reply.text!r}" if reply.text else str(reply.status)
