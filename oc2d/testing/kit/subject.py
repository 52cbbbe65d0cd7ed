"""What the kit is told of an actuator: its class, a configuration, and commands as samples."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from oc2d.actuator import TIMES, Actuator, Pair
from oc2d.language.vocabulary import Action

__all__ = ["Sample", "Subject"]


@dataclass(frozen=True)
class Sample:
    """A command (`action`, `target`, perhaps `args` and `actuator`) and the status it must get.

    `after` are commands that are carried out before it, so that it can be.
    """

    command: Mapping[str, Any]
    status: int = 200
    after: tuple[Mapping[str, Any], ...] = ()

    @property
    def action(self) -> str:
        """Its action."""
        return str(self.command["action"])

    @property
    def target(self) -> str:
        """The name of its target."""
        return str(next(iter(self.command["target"])))

    def __str__(self) -> str:
        return f"{self.action} {self.target}"

    def with_args(self, **args: object) -> dict[str, Any]:
        """Return the command with these core arguments besides its own."""
        return {**self.command, "args": {**self.command.get("args", {}), **args}}

    @property
    def timed(self) -> bool:
        """Whether it has a window of its own."""
        return bool(TIMES & set(self.command.get("args", {})))


@dataclass(frozen=True)
class Subject:
    """An actuator class to be examined.

    `config` is its table in the configuration, or a function that makes one in a directory of its
    own. `samples` are commands that it must carry out: one for each pair at least. `refused` are
    commands that it must refuse on sight, with these statuses. `state` tells what is in force, as
    something that can be compared, without keys, numbers and times; it runs on the actuator's
    thread and defaults to `status()`; None: no command leaves anything behind. `profile` is needed
    where one table makes several actuators.
    """

    actuator: type[Actuator]
    samples: Sequence[Sample]
    config: Mapping[str, Any] | Callable[[Path], Mapping[str, Any]] = field(default_factory=dict)
    refused: Sequence[Sample] = ()
    state: Callable[[Any], object] | None = lambda actuator: actuator.status()
    profile: str = ""

    @property
    def nsid(self) -> str:
        """The profile that is examined."""
        return self.profile or self.actuator.profile

    def table(self, directory: Path) -> Mapping[str, Any]:
        """Return the table of the configuration."""
        return self.config(directory) if callable(self.config) else self.config

    @cached_property
    def pairs(self) -> Mapping[tuple[str, str], Pair]:
        """The pairs that it tells with this configuration, by action and target."""
        with TemporaryDirectory() as directory:
            config = self.actuator.parse_config(self.table(Path(directory)))
            made = {one.profile: one for one in self.actuator.create(config)}
            pairs = made[self.nsid].supported_pairs()
        return {(Action(pair.action).value, pair.target): pair for pair in pairs}

    def taking(self, *times: str) -> list[Sample]:
        """Return the samples that can be given these core times."""
        return [
            sample
            for sample in self.samples
            if not sample.timed
            and sample.status < 300  # noqa: PLR2004 - carried out
            and (pair := self.pairs.get((sample.action, sample.target))) is not None
            and pair.times >= set(times)
        ]
