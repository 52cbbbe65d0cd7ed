"""What a plugin author subclasses and imports: one `Actuator` is one OpenC2 actuator profile.

A profile is a class and one line of packaging::

    class Door(Actuator):
        profile = "x-door"
        targets = {"lock": str}

        @pair("deny", "x-door:lock")
        def lock(self, command: Command) -> Response:
            bolt(command.target)
            return Response()

    # pyproject.toml
    [project.entry-points.oc2d]
    door = "oc2d_door:Door"

Every method runs on this actuator's own worker thread, one at a time and in the order of arrival,
unless its docstring says otherwise. A method that is given a command may raise a `Refusal`
(`oc2d.errors`) to answer with its status; anything else it raises is logged and answered 500
without details (LANG-44).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar, TypeVar, cast

from oc2d.errors import ConfigError, NotSupported, PluginError, Problem, Refusal
from oc2d.language.ids import ProfileIds
from oc2d.language.vocabulary import CORE_TARGETS, Action, StatusCode, nsid_problem
from oc2d.tables import read_table

__all__ = [
    "API_VERSION",
    "TIMES",
    "Actuator",
    "Command",
    "Context",
    "Endpoint",
    "Pair",
    "Reason",
    "Response",
    "pair",
]

#: The version of what plugins may use (docs/plugins.md): the first number changes when something
#: is taken away or means something else, the second when something is added.
API_VERSION = (1, 0)
#: The core arguments that form a time window (REQUIREMENTS 2.3). The engine keeps the window.
TIMES = frozenset({"start_time", "stop_time", "duration"})


@dataclass(frozen=True, slots=True)
class Command:
    """One command for one actuator, decoded and addressed: what a `@pair` method is given.

    `key` is stable for the life of the command: a restart, a retry and the `revert` at the end of
    its window carry the same one. `producer` is what the message says of its sender. `target` is
    the typed value (`IPv4Net`, a struct of the plugin's `targets`, ...), `args` and `specifiers`
    are instances of `args_type` and `specifiers_type` (default-constructed when the command has
    none; None when the profile declares no type). `reserved` is what `reserve` returned for a
    deferred command. `start_time` and `stop_time` are the window in milliseconds since the epoch,
    for information: the engine keeps it.
    """

    key: str
    producer: str | None
    action: Action
    target_name: str
    target: Any
    args: Any = None
    specifiers: Any = None
    reserved: Any = None
    start_time: int | None = None
    stop_time: int | None = None
    notes: tuple[str, ...] = ()
    """What the decoder changed on the way in (host bits masked, AMB-31): belongs in the text."""


@dataclass(frozen=True, slots=True)
class Response:
    """The outcome of a command; `results` is an instance of `results_type` or None.

    `text` is the `status_text` that the Producer reads: no internals (LANG-44).
    """

    status: StatusCode = StatusCode.OK
    text: str | None = None
    results: Any = None


class Reason(Enum):
    """Why the engine itself refuses a command; `Actuator.refusal` words it for the profile."""

    PAIR = "Command not supported"
    OPTION = "Option not supported"
    WINDOW_OVER = "time window is over"


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One address of the broker, resolved: `address` is numeric, `protocol` is `tcp`."""

    address: str
    port: int
    protocol: str = "tcp"


@dataclass(frozen=True, slots=True)
class Context:
    """What the daemon gives an actuator at `start`.

    `state_directory` survives reboots; `runtime_directory` does not outlive one (SLPF-18). Both
    exist and belong to the daemon; an actuator names its files after its NSID. `now` is the wall
    clock in milliseconds, `boot_id` the kernel's id of this boot. `call` has a function run on the
    actuator's worker, soon, in order with its commands: for threads of the actuator's own.
    """

    device_id: str
    state_directory: Path
    runtime_directory: Path
    boot_id: str
    now: Callable[[], int]
    call: Callable[[Callable[[], None]], None] = lambda function: function()


@dataclass(frozen=True, slots=True)
class Pair:
    """An action on a target that an actuator carries out, with the arguments it takes.

    `args` are names of fields of `args_type`; `times` a subset of `TIMES`. Any other argument in a
    command is answered 501 (SLPF-10). `interim`: a 102 is sent when it begins (SLPF-50).
    """

    action: Action
    target: str
    args: frozenset[str] = frozenset()
    times: frozenset[str] = frozenset()
    method: str = "execute"
    interim: bool = False


@dataclass(frozen=True, slots=True)
class _Mark:
    action: str
    target: str
    args: frozenset[str] | None
    times: frozenset[str] | None
    interim: bool


_Method = TypeVar("_Method", bound=Callable[..., Response])


def pair(
    action: str,
    target: str,
    *,
    args: Iterable[str] | None = None,
    times: Iterable[str] | None = None,
    interim: bool = False,
) -> Callable[[_Method], _Method]:
    """Mark the method that carries out `action` on `target`; may be stacked.

    `target` is a core target (`ipv4_net`) or one of the profile's own (`x-door:lock`). `args`
    defaults to every field of `args_type`; `times` to `start_time`, and to the whole window when
    the class has a `revert` of its own. `interim` is for what takes long by its nature: after
    `check` and before the method runs a 102 goes out, unless one did or no reply is wanted. Wrong
    names raise `PluginError` when the class is defined.
    """
    mark = _Mark(
        action,
        target,
        None if args is None else frozenset(args),
        None if times is None else frozenset(times),
        interim,
    )

    def marked(method: _Method) -> _Method:
        marks: tuple[_Mark, ...] = getattr(method, "__oc2d_pairs__", ())
        method.__oc2d_pairs__ = (*marks, mark)  # type: ignore[attr-defined]
        return method

    return marked


class Actuator:
    """One actuator profile (LANG-86). Subclass it, name the profile, mark methods with `@pair`."""

    #: The NSID: a registered name or `x-...`, 1 to 16 characters (LANG-72, LANG-83).
    profile: ClassVar[str]
    #: The least `API_VERSION` that this class needs; None: it does not say.
    api: ClassVar[tuple[int, int] | None] = None
    #: True: executing a key again returns the first outcome and changes nothing, so a command
    #: that was running when the daemon died is run again; False: it is answered 500.
    idempotent: ClassVar[bool] = False
    #: msgspec structs for `args.<nsid>`, `actuator.<nsid>` and `results.<nsid>`; targets by name
    #: without the NSID prefix.
    args_type: ClassVar[type | None] = None
    specifiers_type: ClassVar[type | None] = None
    results_type: ClassVar[type | None] = None
    targets: ClassVar[Mapping[str, Any]] = MappingProxyType({})
    #: A msgspec struct for `[actuators.<nsid>]`: what `parse_config` then makes of the table.
    config_type: ClassVar[type | None] = None
    #: The integers that stand for the profile's names in concise CBOR (AMB-52); None: it has none,
    #: and its names are written. See `oc2d.language.ids`.
    ids: ClassVar[ProfileIds | None] = None

    _declared: ClassVar[Mapping[tuple[Action, str], Pair]] = MappingProxyType({})

    def __init_subclass__(cls, **kwargs: Any) -> None:  # noqa: ANN401 - handed through
        super().__init_subclass__(**kwargs)
        if "profile" in cls.__dict__ and (problem := nsid_problem(cls.profile)):
            raise PluginError(f"{cls.__qualname__}.profile: {problem}")
        cls._declared = MappingProxyType(dict(cls._declared) | _pairs_of(cls))

    # -- before the daemon runs: main thread, pure, no I/O on firewalls, brokers or state

    def __init__(self, config: Any) -> None:  # noqa: ANN401 - the plugin's own type
        self.config = config

    @classmethod
    def parse_config(cls, table: Mapping[str, Any]) -> Any:  # noqa: ANN401 - the plugin's own type
        """Turn `[actuators.<profile>]` (less the core's keys) into the plugin's typed config.

        At start, at reload, by `oc2d check` and `oc2d plugins`. Raise `ConfigError` with paths
        relative to the table; anything else is told as a mistake of the whole table. The default
        makes a `config_type` of it; without one it accepts an empty table only.
        """
        if cls.config_type is not None:
            return read_table(table, cls.config_type)
        if table:
            raise ConfigError(tuple(Problem(key, "unknown key") for key in table))
        return None

    @classmethod
    def create(cls, config: Any) -> Sequence[Actuator]:  # noqa: ANN401 - the plugin's own type
        """Build the actuators of one configuration table; most plugins have exactly one.

        Follows each `parse_config`, so not all that it returns are started.
        """
        return (cls(config),)

    def supported_pairs(self) -> Collection[Pair]:
        """All pairs that this configuration carries out: `query features` tells them (SLPF-62).

        Asked ahead of `start`, perhaps more than once; no other pair reaches the actuator.
        """
        return tuple(self._declared.values())

    # -- life

    def start(self, context: Context) -> None:
        """Open what the actuator needs. Raising stops the daemon from starting."""

    def restore(self, ended: Collection[str]) -> None:
        """Put in force what was in force, before the broker is read.

        `ended` are keys of commands whose window closed while the daemon was away: they must not
        come back, not even for a moment. A `revert` for each follows. Raising stops the daemon
        from starting.
        """

    def stop(self) -> None:
        """Close everything; called once, also after a failed start. What it raises is logged."""

    def link_resolving(self) -> None:
        """The daemon is about to ask for the broker's address: keep the way to name servers open.

        Before every attempt to connect, so also after the name servers of the host changed. What
        this and the next two raise is logged.
        """

    def link_changing(self, endpoints: Sequence[Endpoint]) -> None:
        """The daemon is about to connect to one of `endpoints`: keep the way open."""

    def link_changed(self, endpoints: Sequence[Endpoint]) -> None:
        """The connection to `endpoints` stands; addresses given before may be forgotten."""

    def status(self) -> Mapping[str, Any]:
        """JSON-able state for `oc2d status`, where an error stands in its place.

        On the worker, so it may wait behind a command.
        """
        return {}

    # -- commands

    def matches(self, specifiers: Any) -> bool:  # noqa: ANN401 - the plugin's own type
        """Tell whether a command with these specifiers is for this actuator (LANG-36).

        On the engine's thread: pure and quick. Raising is answered 500.
        """
        del specifiers
        return True

    def check(self, command: Command) -> None:
        """Refuse what cannot work, before anything is accepted (before 102). Pure and quick."""

    def reserve(self, command: Command) -> Any:  # noqa: ANN401 - the plugin's own type
        """Prepare a command that runs later, without visible effect; after `check`.

        What it returns goes into the results of the interim 102 (AMB-25) and comes back as
        `Command.reserved`. A `revert` follows where the command never begins.
        """
        del command
        return None

    def execute(self, command: Command) -> Response:
        """Carry out one command; the default calls the method marked for its pair.

        After a `Refusal`, or a `Response` of 503, nothing has happened. After any other `Response`,
        whatever its status, and anything else that is raised, a `revert` follows at the end of the
        window.
        """
        found = self._declared.get((command.action, command.target_name))
        if found is None:
            raise NotSupported(self.refusal(Reason.PAIR, command.action, command.target_name))
        return cast(Response, getattr(self, found.method)(command))

    def execute_many(self, commands: Sequence[Command]) -> Sequence[Response | Refusal]:
        """Carry out all that waits, in order: one answer each. Override to share a transaction.

        Then called with two to 256 commands, if the actuator is `idempotent`. What it raises, a
        `Refusal` too, is the 500 of all of them, as they may have begun.
        """
        return [_attempt(self.execute, command) for command in commands]

    def revert(self, command: Command) -> None:
        """Undo what the command with this key did: its window is over, or it never begins.

        Must be harmless when repeated and when there is nothing left to undo. Raising makes the
        engine try again after 10 s, for as long as it takes.
        """
        raise NotSupported(self.refusal(Reason.OPTION, command.action, command.target_name))

    def refusal(self, reason: Reason, action: Action, target: str) -> str:
        """Word one of the engine's own refusals as the profile wants it. Any thread: text only."""
        del action, target
        return reason.value


def _attempt(execute: Callable[[Command], Response], command: Command) -> Response | Refusal:
    try:
        return execute(command)
    except Refusal as refusal:
        return refusal


def _pairs_of(cls: type[Actuator]) -> dict[tuple[Action, str], Pair]:
    """Read the marks that this very class put on its methods."""
    found: dict[tuple[Action, str], Pair] = {}
    for name, method in vars(cls).items():
        for mark in cast(tuple[_Mark, ...], getattr(method, "__oc2d_pairs__", ())):
            made = _pair_from(cls, name, mark)
            found[made.action, made.target] = made
    return found


def _no_target(cls: type[Actuator], name: str) -> str:
    """Say what is wrong with a target: its own ones have the prefix in pairs, not in `targets`."""
    text = f"no target {name!r} in the language or in `targets`"
    prefix, _, own = name.rpartition(":")
    if name in cls.targets and prefix:
        return f"{text}: keys of `targets` have no prefix, write {own!r} there"
    if own in cls.targets:
        return f"{text}; did you mean '{cls.profile}:{own}'?"
    return text


def _pair_from(cls: type[Actuator], name: str, mark: _Mark) -> Pair:
    where = f"{cls.__qualname__}.{name}"
    try:
        action = Action(mark.action)
    except ValueError:
        # LANG-13: the list of actions is closed.
        raise PluginError(f"{where}: no OpenC2 action {mark.action!r}") from None
    prefix, colon, own = mark.target.partition(":")
    known = own in cls.targets and prefix == cls.profile if colon else mark.target in CORE_TARGETS
    if not known:
        raise PluginError(f"{where}: {_no_target(cls, mark.target)}")
    fields = frozenset(getattr(cls.args_type, "__struct_encode_fields__", ()))
    args = fields if mark.args is None else mark.args
    reverts = cls.revert is not Actuator.revert
    default_times = TIMES if reverts else frozenset({"start_time"})
    times = default_times if mark.times is None else mark.times
    for named, there_are in ((args, fields), (times, TIMES)):
        for unknown in sorted(named - there_are):
            there = ", ".join(sorted(there_are)) or "none"
            raise PluginError(f"{where}: no argument {unknown!r}; there is: {there}")
    return Pair(action, mark.target, args, times, name, mark.interim)
