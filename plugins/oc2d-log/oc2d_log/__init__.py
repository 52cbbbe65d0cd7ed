"""A logging stand-in for OpenC2 actuator profiles.

`[actuators.x-log]` stands in for the profiles it lists: it accepts their commands, writes each to
the log and answers 200. For trying out Producers and brokers, and to see what arrives.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import msgspec
import structlog

from oc2d.actuator import TIMES, Actuator, Command, Pair, Response
from oc2d.errors import ConfigError, Problem
from oc2d.language.ids import PUBLISHED
from oc2d.language.vocabulary import CORE_TARGETS, Action, nsid_problem

__all__ = ["COMMAND", "REVERT", "Log", "LogConfig"]

#: A command arrived: `profile`, `action`, `target`, `value`, `args`, `specifiers`, `key`.
COMMAND = "x_log_command"
#: The time window of a command is over: the same members.
REVERT = "x_log_revert"

_KEYS = ("profiles", "pairs")


@dataclass(frozen=True, slots=True)
class LogConfig:
    """`[actuators.x-log]`: the NSIDs to stand in for and the pairs to accept (None: all)."""

    profiles: tuple[str, ...] = ("x-log",)
    pairs: tuple[tuple[Action, str], ...] | None = None


class Log(Actuator):
    """One of them per NSID listed. Takes any arguments and specifiers of that NSID, and all times.

    A stand-in does not know the types of the profile that it stands in for, so it must take what
    comes; what the language itself defines is checked as always. Targets of a profile's own
    (`slpf:rule_number`) are not accepted: nobody here could say which there are.
    """

    profile = "x-log"
    idempotent = True  # a second log entry does no harm
    args_type: ClassVar[type | None] = dict
    specifiers_type: ClassVar[type | None] = dict

    def __init__(self, config: LogConfig, nsid: str = "x-log") -> None:
        super().__init__(config)
        self.profile = nsid  # type: ignore[misc]  # one object serves one NSID
        self.ids = PUBLISHED.get(nsid)  # type: ignore[misc]
        pairs = _every_pair() if config.pairs is None else config.pairs
        self._pairs = tuple(Pair(action, target, times=TIMES) for action, target in pairs)
        self._log = structlog.get_logger("oc2d_log")

    @classmethod
    def parse_config(cls, table: Mapping[str, Any]) -> LogConfig:
        """Check `profiles` (a list of NSIDs) and `pairs` (action to list of core targets)."""
        problems = [
            Problem(key, f"unknown key; there are {' and '.join(_KEYS)}")
            for key in table
            if key not in _KEYS
        ]
        profiles = table.get("profiles", ["x-log"])
        problems += [Problem("profiles", text) for text in _profile_problems(profiles)]
        pairs = table.get("pairs")
        if pairs is not None:
            problems += _pair_problems(pairs)
        if problems:
            raise ConfigError(tuple(problems))
        if pairs is None:
            return LogConfig(tuple(profiles))
        chosen = [(Action(action), target) for action, named in pairs.items() for target in named]
        return LogConfig(tuple(profiles), tuple(dict.fromkeys(chosen)))

    @classmethod
    def create(cls, config: LogConfig) -> Sequence[Actuator]:
        """Build one actuator for each profile."""
        return [cls(config, nsid) for nsid in config.profiles]

    def supported_pairs(self) -> Collection[Pair]:
        """Every action on every core target, or those of `pairs`."""
        return self._pairs

    def execute(self, command: Command) -> Response:
        """Write the command to the log."""
        self._write(COMMAND, command)
        return Response()

    def revert(self, command: Command) -> None:
        """Write the end of the window to the log."""
        self._write(REVERT, command)

    def _write(self, event: str, command: Command) -> None:
        self._log.info(
            event,
            profile=self.profile,
            action=command.action.value,
            target=command.target_name,
            value=_plain(command.target),
            args=_plain(command.args),
            specifiers=_plain(command.specifiers),
            producer=command.producer,
            key=command.key,
        )


def _plain(value: object) -> object:
    return msgspec.to_builtins(value, enc_hook=str)


def _every_pair() -> Iterator[tuple[Action, str]]:
    """All actions on all core targets; `query features` is the core's own (LANG-46)."""
    for action in Action:
        for target in sorted(CORE_TARGETS):
            if (action, target) != (Action.QUERY, "features"):
                yield action, target


def _profile_problems(profiles: object) -> Iterator[str]:
    if not isinstance(profiles, list) or not profiles:
        yield 'expected a list of one or more NSIDs, for instance ["x-log"]'
        return
    for nsid in profiles:
        if not isinstance(nsid, str):
            yield f"expected an NSID (a string), found {nsid!r}"
        elif problem := nsid_problem(nsid):
            yield problem
    if all(isinstance(nsid, str) for nsid in profiles) and len({*profiles}) < len(profiles):
        yield "names an NSID twice"


def _pair_problems(pairs: object) -> Iterator[Problem]:
    if not isinstance(pairs, dict) or not pairs:
        yield Problem("pairs", 'expected a table of actions, for instance { deny = ["ipv4_net"] }')
        return
    actions = {action.value for action in Action}
    for action, targets in pairs.items():
        path = f"pairs.{action}"
        if action not in actions:
            yield Problem(path, "is no action of OpenC2")
        if not isinstance(targets, list) or not targets:
            yield Problem(path, 'expected a list of targets, for instance ["ipv4_net"]')
            continue
        for target in targets:
            if not isinstance(target, str) or target not in CORE_TARGETS:
                yield Problem(path, f"{target!r} is no target of the language")
            elif (action, target) == ("query", "features"):
                yield Problem(path, "query features is answered by oc2d itself")
