"""The plugin of the fault runs: counts what it does, misbehaves as told, and can kill the daemon.

Copied into a directory of its own as the module `oc2d_faults`, and found by its entry points like
anybody's plugin. `OC2D_FAULTS=module:Class.method:before|after:N` kills the process at the Nth call
of that method: so any transition of the journal can be hit, without a line of it in the product.
`OC2D_HASTE` shortens the waits between attempts to connect.
"""

from __future__ import annotations

import ctypes
import functools
import importlib
import os
import signal
import threading
import time
from collections.abc import Mapping
from typing import Any, ClassVar

from oc2d.actuator import Actuator, Command, Response, pair

__all__ = ["Count", "Steady", "Unkind"]


class Noting(Actuator):
    """Appends a line for each effect to a file: what a kill -9 cannot take back."""

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self._file = -1

    def start(self, context: Any) -> None:
        path = context.state_directory / f"{self.profile}.effects"
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def stop(self) -> None:
        os.close(self._file)

    def effect(self, text: str) -> None:
        os.write(self._file, f"{text}\n".encode())


class Count(Noting):
    """Not idempotent: each execution counts."""

    profile = "x-count"
    targets: ClassVar[Mapping[str, Any]] = {"item": str}

    @pair("start", "x-count:item")
    def count(self, command: Command) -> Response:
        self.effect(command.target)
        return Response()


class Unkind(Noting):
    """Does what its target says: the worst that a plugin can do."""

    profile = "x-unkind"
    targets: ClassVar[Mapping[str, Any]] = {"how": str}

    @pair("start", "x-unkind:how")
    def misbehave(self, command: Command) -> Any:
        how, _, _ = command.target.partition(" ")
        self.effect(command.target)
        match how:
            case "raise":
                raise RuntimeError("a secret: correct horse")
            case "exit":
                raise SystemExit(3)
            case "nonsense":
                return {"status": "two hundred"}
            case "recurse":
                return self.misbehave(command)
            case "block":
                time.sleep(3600)
            case "leak":
                self.__dict__.setdefault("leaked", []).append(bytearray(1 << 20))
            case "os._exit":
                os._exit(7)
            case "segfault":
                ctypes.string_at(0)
            case "abort":
                os.abort()
        return Response()


class Steady(Unkind):
    """The same, but executing again is harmless."""

    profile = "x-steady"
    idempotent = True
    targets: ClassVar[Mapping[str, Any]] = {"how": str}

    @pair("start", "x-steady:how")
    def misbehave_again(self, command: Command) -> Any:
        return self.misbehave(command)


def _arm(point: str) -> None:
    where, when, number = point.rsplit(":", 2)
    module, _, path = where.partition(":")
    owner_name, _, method = path.partition(".")
    owner = getattr(importlib.import_module(module), owner_name)
    inner = getattr(owner, method)
    calls, lock = 0, threading.Lock()

    @functools.wraps(inner)
    def mortal(*args: Any, **options: Any) -> Any:
        nonlocal calls
        with lock:
            calls += 1
            now = calls == int(number)
        if now and when == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        result = inner(*args, **options)
        if now:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    setattr(owner, method, mortal)


def _hasten() -> None:
    """Let a link that is refused a hundred times take seconds, not an hour."""
    settings = importlib.import_module("oc2d.mqtt.settings")
    quick = settings.Backoff(first=0.02, most=0.1)
    settings.LinkSettings.__init__.__kwdefaults__.update(backoff=quick, resubscribe_after=0.2)


if os.environ.get("OC2D_FAULTS"):
    _arm(os.environ["OC2D_FAULTS"])

if os.environ.get("OC2D_HASTE"):
    _hasten()
