"""The host of `oc2d.testing` with what the tests of the engine configure, and their commands."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from oc2d.actuator import Actuator
from oc2d.config import Broker, Compat, Config, Limits, Policy
from oc2d.engine.ports import Inbound
from oc2d.testing import DEVICE, ActuatorHost, Recorder, TurnedClock
from tests.waiting import wait_until

__all__ = [
    "DAY",
    "DEVICE",
    "FULL",
    "Bench",
    "Failing",
    "TurnedClock",
    "again",
    "deny",
    "dies",
    "features",
    "told",
    "until",
]

DAY = 86_400_000
FULL = 1_000_000  # times that a disk says no: for as long as the test lets it
_LIMITS, _POLICY, _COMPAT = Limits(), Policy(), Compat()


def deny(address: str = "203.0.113.0/24", **args: Any) -> dict[str, Any]:
    command: dict[str, Any] = {"action": "deny", "target": {"ipv4_net": address}}
    return {**command, "args": args} if args else command


def features(*names: str, **args: Any) -> dict[str, Any]:
    command: dict[str, Any] = {"action": "query", "target": {"features": list(names)}}
    return {**command, "args": args} if args else command


class Bench(ActuatorHost):
    """An `ActuatorHost` whose configuration is said by keywords."""

    def __init__(
        self,
        directory: Path,
        *actuators: Actuator,
        hooks: object = None,
        confirm: bool = True,
        order: Sequence[str] = (),
        namespace: str = "",
        response_topic: Any = "general",
        limits: Limits = _LIMITS,
        policy: Policy = _POLICY,
        compat: Compat = _COMPAT,
        accept_retained: bool = False,
        **options: Any,
    ) -> None:
        by_name = {one.profile: one for one in actuators}
        config = Config(
            device_id=DEVICE,
            sender=DEVICE,
            namespace=namespace,
            broker=Broker(
                host="localhost",
                port=1883,
                response_topic=response_topic,
                accept_retained=accept_retained,
            ),
            limits=limits,
            policy=policy,
            compat=compat,
        )
        super().__init__(
            directory,
            *(by_name[nsid] for nsid in dict.fromkeys([*order, *by_name])),
            hooks=hooks if isinstance(hooks, list) else () if hooks is None else (hooks,),
            config=config,
            transfer=Recorder(confirm=confirm),
            **options,
        )
        self.broker = self.transfer
        self.turned = self.clock

    def set_wall(self, milliseconds: int) -> None:
        """Set the wall clock by so much, as an administrator does."""
        self.turned.wall += milliseconds
        self.poke()


def told(bench: Bench) -> dict[str, tuple[int, str]]:
    """The last that each request was told: status and text."""
    return {reply.headers["request_id"]: (reply.status, reply.text) for reply in bench.replies}


def again(message: Inbound, **changes: Any) -> Inbound:
    """The same message once more."""
    return replace(message, **changes)


class Failing:
    """A method of the journal that the disk refuses as often as told, after `meanwhile`."""

    def __init__(
        self,
        bench: Bench,
        method: str = "commit",
        error: Exception | None = None,
        meanwhile: Callable[[], object] = lambda: None,
    ) -> None:
        self.method = getattr(bench.consumer._journal, method)
        self.error = error or sqlite3.OperationalError("database or disk is full")
        self.meanwhile = meanwhile
        self.times = 0
        self.failed = 0
        setattr(bench.consumer._journal, method, self)

    def __call__(self, *args: Any, **options: Any) -> Any:
        if self.times:
            self.times -= 1
            self.meanwhile()
            self.failed += 1
            raise self.error
        return self.method(*args, **options)

    def wait(self, failures: int) -> None:
        """Until it has failed so often."""
        wait_until(lambda: self.failed >= failures)


def until(condition: Callable[[], bool], seconds: float) -> bool:
    """Give it so much time to come, and tell whether it did."""
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.002)
    return condition()


def dies(
    bench: Bench,
    build: Callable[..., Bench],
    *actuators: Actuator,
    name: str = "dead",
    **options: Any,
) -> Bench:
    """The Consumer that starts from what `bench` has on the disk now."""
    copy = bench.dead_copy(name)
    return build(*actuators, directory=copy, clock=bench.turned, **options)
