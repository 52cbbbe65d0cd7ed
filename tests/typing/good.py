"""A plugin that uses the whole interface as it is meant; mypy in strict mode has nothing to say."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import msgspec

from oc2d.actuator import (
    TIMES,
    Actuator,
    Command,
    Context,
    Endpoint,
    Pair,
    Reason,
    Response,
    pair,
)
from oc2d.errors import ConfigError, Failed, NoMatch, Problem, Refusal
from oc2d.hookspecs import Request, hookimpl
from oc2d.language.ids import ProfileIds
from oc2d.language.values import IPv4Net
from oc2d.language.vocabulary import Action, StatusCode
from oc2d.testing import ActuatorHost, Sample, Subject, checks, examine


class Config(msgspec.Struct, frozen=True):
    doors: tuple[str, ...] = ()


class Args(msgspec.Struct, frozen=True):
    silent: bool = False


class Results(msgspec.Struct, frozen=True):
    number: int


class Door(Actuator):
    profile = "x-door"
    api = (1, 0)
    idempotent = True
    targets: ClassVar[Mapping[str, Any]] = {"door": str}
    config_type = Config
    args_type = Args
    specifiers_type = None
    results_type = Results
    ids: ClassVar[ProfileIds | None] = None

    config: Config

    @classmethod
    def parse_config(cls, table: Mapping[str, Any]) -> Config:
        found = super().parse_config(table)
        if not isinstance(found, Config):
            raise ConfigError((Problem("doors", "are needed"),))
        return found

    @classmethod
    def create(cls, config: Config) -> Sequence[Actuator]:
        return [cls(config)]

    def supported_pairs(self) -> Collection[Pair]:
        return [*super().supported_pairs(), Pair(Action.SCAN, "device", times=TIMES)]

    def start(self, context: Context) -> None:
        self.file: Path = context.state_directory / "x-door"
        self.begun: int = context.now()
        context.call(self.stop)

    def restore(self, ended: Collection[str]) -> None:
        del ended

    def link_changing(self, endpoints: Sequence[Endpoint]) -> None:
        self.ports = [endpoint.port for endpoint in endpoints]

    def status(self) -> Mapping[str, Any]:
        return {"ports": self.ports}

    def check(self, command: Command) -> None:
        if command.target not in self.config.doors:
            raise NoMatch("no such door")

    def reserve(self, command: Command) -> Results:
        return Results(len(command.key))

    @pair("deny", "x-door:door", args=["silent"], times=["duration"], interim=True)
    def lock(self, command: Command) -> Response:
        if isinstance(command.target, IPv4Net):
            raise Failed("not a net")
        return Response(StatusCode.OK, "locked", Results(1))

    def execute_many(self, commands: Sequence[Command]) -> Sequence[Response | Refusal]:
        return [self.execute(command) for command in commands]

    def revert(self, command: Command) -> None:
        del command

    def refusal(self, reason: Reason, action: Action, target: str) -> str:
        return f"{reason.value}: {action.value} {target}"


@hookimpl
def oc2d_actuators() -> Iterable[type[Actuator]]:
    return [Door]


@hookimpl
def oc2d_authorise(request: Request) -> str | None:
    return None if request.producer else "who are you?"


SUBJECT = Subject(
    Door,
    samples=[Sample({"action": "deny", "target": {"x-door:door": "front"}})],
    config={"doors": ["front"]},
    state=lambda door: door.status(),
)


def try_out(directory: Path) -> bool:
    for check in checks(SUBJECT):
        check.run(directory / str(check))
    with ActuatorHost(directory / "host", Door(Config(("front",)))) as host:
        status: int = host.command({"action": "deny", "target": {"x-door:door": "front"}}).status
        host.advance(1.5)
    return examine(SUBJECT, directory / "all").conforms and status == 200
