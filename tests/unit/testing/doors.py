"""A door as it should be, and doors with one fault each: what the conformance kit must find."""

from __future__ import annotations

import json
import threading
from collections.abc import Collection, Mapping, Sequence
from typing import Any, ClassVar

import msgspec

from oc2d.actuator import Actuator, Command, Context, Response, pair
from oc2d.errors import BadRequest, ConfigError, NoMatch, Problem, Refusal
from oc2d.testing import Sample, Subject


class Args(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    silent: bool = False
    note: str | None = None


class Specifiers(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    building: str | None = None


class Results(msgspec.Struct, frozen=True):
    locked: list[str]


class Door(Actuator):
    """Keeps what is locked by whom in a file."""

    profile = "x-door"
    idempotent = True
    targets: ClassVar[Mapping[str, Any]] = {"door": str}
    args_type = Args
    specifiers_type = Specifiers
    results_type = Results

    @classmethod
    def parse_config(cls, table: Mapping[str, Any]) -> tuple[str, ...]:
        doors = table.get("doors")
        problems = [Problem(key, "unknown key") for key in table if key != "doors"]
        if not isinstance(doors, list) or not all(isinstance(door, str) for door in doors):
            problems.append(Problem("doors", "a list of names is needed"))
        if problems:
            raise ConfigError(tuple(problems))
        return tuple(doors or ())

    def start(self, context: Context) -> None:
        self.file = context.state_directory / "x-door.json"
        text = self.file.read_text() if self.file.exists() else "{}"
        self.locked: dict[str, list[str]] = json.loads(text)

    def matches(self, specifiers: Specifiers) -> bool:
        return specifiers.building in {None, "home"}

    def check(self, command: Command) -> None:
        if command.target not in self.config:
            raise NoMatch("there is no such door")

    @pair("deny", "x-door:door")
    def lock(self, command: Command) -> Response:
        others = [key for key in self.locked.get(command.target, []) if key != command.key]
        self.keep({**self.locked, command.target: [*others, command.key]})
        return Response(results=Results(sorted(self.locked)))

    @pair("allow", "x-door:door", times=["start_time"])
    def unlock(self, command: Command) -> Response:
        self.keep({door: keys for door, keys in self.locked.items() if door != command.target})
        return Response(results=Results(sorted(self.locked)))

    def revert(self, command: Command) -> None:
        self.undo({command.key})

    def restore(self, ended: Collection[str]) -> None:
        self.undo(set(ended))

    def undo(self, ended: Collection[str]) -> None:
        left = {door: [k for k in keys if k not in ended] for door, keys in self.locked.items()}
        self.keep({door: keys for door, keys in left.items() if keys})

    def keep(self, locked: dict[str, list[str]]) -> None:
        self.locked = locked
        self.file.write_text(json.dumps(locked))


def deny(door: object, **args: Any) -> dict[str, Any]:
    command: dict[str, Any] = {"action": "deny", "target": {"x-door:door": door}}
    return {**command, "args": {"x-door": args}} if args else command


def allow(door: object) -> dict[str, Any]:
    return {"action": "allow", "target": {"x-door:door": door}}


def subject(kind: type[Actuator]) -> Subject:
    return Subject(
        kind,
        config={"doors": ["front", "gate"]},
        samples=[
            Sample(deny("front")),
            Sample(deny("gate", silent=True)),
            Sample(allow("front"), after=(deny("front"),)),
        ],
        refused=[Sample(deny("cellar"), 404), Sample(deny(7), 400)],
        state=lambda door: sorted(door.locked),
    )


class TakesAnyTable(Door):
    @classmethod
    def parse_config(cls, table: Mapping[str, Any]) -> tuple[str, ...]:
        return tuple(table.get("doors", ()))


class StumblesOverItsTable(Door):
    @classmethod
    def parse_config(cls, table: Mapping[str, Any]) -> tuple[str, ...]:
        if unknown := set(table) - {"doors"}:
            raise ConfigError(tuple(Problem(key, "unknown key") for key in unknown))
        return tuple(name.lower() for name in table.get("doors", ()))


class CannotStopUnstarted(Door):
    def stop(self) -> None:
        self.file.stat()


class TellsSets(Door):
    def status(self) -> Mapping[str, Any]:
        return {"locked": set(self.locked)}


class HasAPairMore(Door):
    @pair("scan", "x-door:door")
    def look(self, command: Command) -> Response:  # noqa: ARG002 - it is the method of a pair
        return Response()


class AnswersADictionary(Door):
    @pair("deny", "x-door:door")
    def lock(self, command: Command) -> Response:
        super().lock(command)
        return Response(results={"locked": [command.target]})


class RefusesTooLate(Door):
    def check(self, command: Command) -> None:
        pass

    def execute(self, command: Command) -> Response:
        super().check(command)
        return super().execute(command)


class LocksInCheck(Door):
    def check(self, command: Command) -> None:
        self.keep({**self.locked, "checked": [command.key]})
        super().check(command)


class TellsItsFile(Door):
    def check(self, command: Command) -> None:
        if command.target not in self.config:
            raise NoMatch(f"not in {self.file}")


class ForgetsKeys(Door):
    """The same key again locks a second time."""

    @pair("deny", "x-door:door")
    def lock(self, command: Command) -> Response:
        count = sum(map(len, self.locked.values()))
        self.keep({**self.locked, f"{command.target}{count}": [command.key]})
        return Response(results=Results(sorted(self.locked)))


class NeverReverts(Door):
    def undo(self, ended: Collection[str]) -> None:
        pass


class RevertsByName(Door):
    def revert(self, command: Command) -> None:
        self.keep({door: keys for door, keys in self.locked.items() if door != command.target})


class KeepsTheLastKey(Door):
    """Who locks for a minute takes the door from whoever locked it for good."""

    @pair("deny", "x-door:door")
    def lock(self, command: Command) -> Response:
        self.keep({**self.locked, command.target: [command.key]})
        return Response(results=Results(sorted(self.locked)))


class RevertsOnce(Door):
    def revert(self, command: Command) -> None:
        if not any(command.key in keys for keys in self.locked.values()):
            raise KeyError(command.key)
        super().revert(command)


class RestoresWhatEnded(Door):
    def restore(self, ended: Collection[str]) -> None:
        pass


class ForgetsAtARestart(Door):
    def restore(self, ended: Collection[str]) -> None:
        super().restore(ended)
        self.keep({})


class KeepsInMemory(Door):
    def keep(self, locked: dict[str, list[str]]) -> None:
        self.locked = locked


class SavesAtTheEnd(KeepsInMemory):
    def stop(self) -> None:
        if hasattr(self, "file"):
            self.file.write_text(json.dumps(self.locked))


class ActsInReserve(Door):
    def reserve(self, command: Command) -> None:
        self.execute(command)


class LosesABatch(Door):
    def execute_many(self, commands: Sequence[Command]) -> Sequence[Response | Refusal]:
        return [self.execute(commands[0]), *(Response() for _ in commands[1:])]


class FailsABatch(Door):
    def execute_many(self, commands: Sequence[Command]) -> Sequence[Response | Refusal]:
        return [self.execute(command) for command in commands[:-1]]


class StumblesOverSpecifiers(Door):
    def matches(self, specifiers: Specifiers) -> bool:
        return (specifiers.building or "home").encode("ascii") == b"home"


class Hinge(msgspec.Struct):
    colour: str = ""


class TakesUnknownArguments(Door):
    class Gate(msgspec.Struct):
        hinges: list[Hinge | None]
        labels: dict[str, Any]

    targets: ClassVar[Mapping[str, Any]] = {"door": str, "gate": Gate}

    @pair("scan", "x-door:gate")
    def look(self, command: Command) -> Response:  # noqa: ARG002 - it is the method of a pair
        return Response()

    def check(self, command: Command) -> None:
        if command.target_name == "x-door:door":
            super().check(command)


class StumblesOverValues(Door):
    def check(self, command: Command) -> None:
        if command.args.note:
            command.args.note.encode("ascii")
        super().check(command)


class RefusesWithoutAWord(Door):
    def check(self, command: Command) -> None:
        if command.target not in self.config:
            raise BadRequest("")


class ShowsNothing(Door):
    """Nothing that `state` could see."""

    @property
    def locked(self) -> dict[str, list[str]]:
        return {}

    @locked.setter
    def locked(self, value: dict[str, list[str]]) -> None:
        pass


class UsesItsThread(Door):
    """May be called on its own thread only."""

    def start(self, context: Context) -> None:
        super().start(context)
        self.thread = threading.get_ident()

    def check(self, command: Command) -> None:
        assert threading.get_ident() == self.thread
        super().check(command)


#: Door → the rule that it breaks.
FAULTY: Mapping[type[Door], str] = {
    TakesAnyTable: "the_configuration_is_checked",
    StumblesOverItsTable: "the_configuration_is_checked",
    CannotStopUnstarted: "it_starts_stops_and_hears_of_the_link",
    TellsSets: "its_status_can_be_told",
    HasAPairMore: "its_pairs_are_told_truly",
    AnswersADictionary: "samples_are_answered_as_said",
    RefusesTooLate: "what_is_wrong_is_refused_on_sight",
    LocksInCheck: "what_is_wrong_is_refused_on_sight",
    TellsItsFile: "what_is_wrong_is_refused_on_sight",
    RefusesWithoutAWord: "what_is_wrong_is_refused_on_sight",
    ForgetsKeys: "a_key_again_changes_nothing",
    NeverReverts: "the_end_of_a_window_undoes_the_command",
    RevertsByName: "the_end_of_a_window_undoes_nothing_else",
    KeepsTheLastKey: "a_window_ends_no_lasting_command",
    RevertsOnce: "revert_may_come_again",
    RestoresWhatEnded: "a_window_that_ended_meanwhile_does_not_come_back",
    ForgetsAtARestart: "a_restart_changes_nothing",
    KeepsInMemory: "a_restart_changes_nothing",
    SavesAtTheEnd: "a_restart_changes_nothing",
    ActsInReserve: "a_deferred_command_waits_for_its_start",
    LosesABatch: "many_at_once_are_one_after_the_other",
    FailsABatch: "many_at_once_are_one_after_the_other",
    ShowsNothing: "its_state_shows_what_it_does",
    StumblesOverSpecifiers: "specifiers_are_matched_quietly",
    StumblesOverValues: "hostile_values_do_no_harm",
}
