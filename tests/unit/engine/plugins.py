"""Actuators as strangers would write them, to be kind and unkind to the engine."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, ClassVar

import msgspec

from oc2d.actuator import TIMES, Actuator, Command, Reason, Response, pair
from oc2d.errors import Refusal
from oc2d.language.vocabulary import Action

PATIENCE = 20.0


class DoorArgs(msgspec.Struct, forbid_unknown_fields=True):
    bolt: str | None = None
    count: int | None = None


class DoorSpecifiers(msgspec.Struct, forbid_unknown_fields=True):
    name: str | None = None


class DoorResults(msgspec.Struct):
    number: int


class Remembering(Actuator):
    """Remembers what it was asked; `behave` is what it does besides."""

    profile = "x-door"
    args_type = DoorArgs
    specifiers_type = DoorSpecifiers
    results_type = DoorResults
    targets: ClassVar[Mapping[str, Any]] = {"lock": int}

    def __init__(self) -> None:
        super().__init__(None)
        self.executed: list[Command] = []
        self.reverted: list[str] = []
        self.reserved: list[Command] = []
        self.checked: list[Command] = []
        self.ended: Collection[str] | None = None
        self.calls: list[str] = []
        self.behave: Callable[[Command], Any] = lambda _: Response()
        self.on_check: Callable[[Command], None] = lambda _: None
        self.on_reserve: Callable[[Command], Any] = lambda _: DoorResults(number=7)
        self.on_revert: Callable[[Command], None] = lambda _: None
        self.names = ("front",)

    def restore(self, ended: Collection[str]) -> None:
        self.calls.append("restore")
        self.ended = ended

    def stop(self) -> None:
        self.calls.append("stop")

    def matches(self, specifiers: DoorSpecifiers) -> bool:
        return specifiers.name is None or specifiers.name in self.names

    def check(self, command: Command) -> None:
        self.checked.append(command)
        self.on_check(command)

    def reserve(self, command: Command) -> Any:
        self.reserved.append(command)
        return self.on_reserve(command)

    def did(self, command: Command) -> Response:
        self.executed.append(command)
        return self.behave(command)

    def revert(self, command: Command) -> None:
        self.reverted.append(command.key)
        self.on_revert(command)

    def refusal(self, reason: Reason, action: Action, target: str) -> str:
        del action, target
        return {Reason.WINDOW_OVER: "Rule not updated: time window is over"}.get(
            reason, reason.value
        )


class Recording(Remembering):
    """A door that can be denied to networks."""

    profile = "x-door"

    @pair("deny", "ipv4_net")
    @pair("allow", "ipv4_net", args=["bolt"], times=[])
    @pair("deny", "x-door:lock")
    def carry_out(self, command: Command) -> Response:
        return self.did(command)


class Idempotent(Recording):
    """Executing a key again changes nothing."""

    idempotent = True


class Window(Remembering):
    """Another profile that can do some of the same."""

    profile = "x-window"
    targets: ClassVar[Mapping[str, Any]] = {"pane": int}

    @pair("deny", "ipv4_net")
    @pair("scan", "ipv4_net")
    @pair("deny", "x-window:pane")
    def carry_out(self, command: Command) -> Response:
        return self.did(command)


class Plain(Actuator):
    """The least there can be: no types, no window."""

    profile = "x-plain"

    def __init__(self) -> None:
        super().__init__(None)
        self.executed: list[Command] = []

    @pair("restart", "device")
    def again(self, command: Command) -> Response:
        self.executed.append(command)
        return Response()


class Together(Idempotent):
    """Carries out many in one go."""

    def __init__(self) -> None:
        super().__init__()
        self.batches: list[int] = []
        self.answer: Callable[[Sequence[Command]], Any] = lambda commands: [
            Response() for _ in commands
        ]

    def execute_many(self, commands: Sequence[Command]) -> Sequence[Response | Refusal]:
        self.batches.append(len(commands))
        self.executed.extend(commands)
        return self.answer(commands)


class Gate:
    """Something to stand before: `entered` tells that somebody does, `open` lets all through."""

    def __init__(self) -> None:
        self.entered = threading.Semaphore(0)
        self.open = threading.Event()

    def __call__(self, _: object = None) -> Response:
        self.entered.release()
        assert self.open.wait(PATIENCE)
        return Response()

    def wait(self) -> None:
        assert self.entered.acquire(timeout=PATIENCE)


__all__ = ["TIMES", "Gate", "Idempotent", "Plain", "Recording", "Together", "Window"]
