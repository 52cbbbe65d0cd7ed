"""What mypy must tell the author of a plugin; each line says with which code."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from oc2d.actuator import Actuator, Command, Context, Pair, Response, pair
from oc2d.errors import Failed
from oc2d.language.vocabulary import Action
from oc2d.testing import ActuatorHost, Sample, Subject


class Door(Actuator):
    profile = 7  # E: assignment
    idempotent = "yes"  # E: assignment
    api = "1.0"  # E: assignment

    def start(self, context: Context) -> None:
        self.file = context.directory  # E: attr-defined

    def restore(self, ended: list[str]) -> None:  # E: override
        del ended

    def check(self, command: Command) -> bool:  # E: override
        return command.target is not None

    @pair("deny", "x-door:door")  # E: type-var
    def lock(self, command: Command) -> str:
        return command.key

    @pair("allow", "x-door:door", interim="yes")  # E: arg-type
    def unlock(self, command: Command) -> Response:
        command.key = "another"  # E: misc
        return Response(text=404)  # E: arg-type

    def revert(self) -> None:  # E: override
        raise Failed  # E: call-arg

    def supported_pairs(self) -> Collection[Pair]:
        return [Pair("deny", "device"), Pair(Action.DENY, "device")]  # E: arg-type


Subject(Door)  # E: call-arg
Sample("deny")  # E: arg-type
ActuatorHost(Path(), Door).start()  # E: arg-type
