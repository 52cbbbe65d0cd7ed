"""The actuator profile pf: commands become one or more rules of slpf's engine, under one number.

The engine is an `Slpf` of our own, with a state directory of its own: what is promised of rules, by
its store and by the packet filter, is its promise.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from itertools import groupby
from types import MappingProxyType
from typing import Any, ClassVar

import msgspec
import structlog

from oc2d.actuator import Actuator, Command, Context, Endpoint, Reason, Response, pair
from oc2d.errors import Failed, NoMatch, NotSupported, Refusal, StateError
from oc2d.language.values import DomainName
from oc2d.language.vocabulary import Action, StatusCode
from oc2d_pf import language, settings
from oc2d_pf.admission import Admission, renew
from oc2d_pf.engine import Engine
from oc2d_pf.language import (
    ARGUMENT,
    NOT_IMPLEMENTED,
    NOT_REMOVED,
    AdvancedConnection,
    Args,
    Results,
    RuleNumber,
)
from oc2d_pf.names import Answer, LookUp, look_up
from oc2d_pf.numbering import band
from oc2d_pf.refresh import Refresher
from oc2d_pf.store import Outcome, Row, Store, StoreError
from oc2d_slpf.answers import only
from oc2d_slpf.language import verdict_of
from oc2d_slpf.specifiers import Specifiers

__all__ = ["Pf"]

_log = structlog.get_logger("oc2d.pf")
_STATES = {"reserved": "not in force yet", "begun": "may not be in force"}
_LISTED = 1000  # rules in the status, at most
_ALLOW = (
    *("direction", "persistent", "insert_rule"),
    *("logged", "description", "stateful", "priority"),
)
_DENY = (*_ALLOW, "drop_process")


class Pf(Actuator):
    """Packet filtering (docs/requirements-pf.md)."""

    profile = "pf"
    idempotent = True
    args_type = Args
    specifiers_type = Specifiers
    results_type = Results
    targets: ClassVar[Mapping[str, Any]] = MappingProxyType(
        {"rule_number": RuleNumber, "advanced_connection": AdvancedConnection}
    )

    def __init__(self, config: settings.Settings, look_up: LookUp = look_up) -> None:
        super().__init__(config)
        self._engine = Engine(config)
        self._look_up = look_up
        self._refresher = Refresher(look_up, self._answered)
        self._store: Store | None = None
        self._context: Context | None = None

    @classmethod
    def parse_config(cls, table: Mapping[str, Any]) -> settings.Settings:
        """Read `[actuators.pf]`; raises `ConfigError` with every mistake."""
        return settings.parse(table)

    # -- life

    def start(self, context: Context) -> None:
        """Open the store and the engine; changes no rule yet."""
        self._context = context
        places = {}
        for name in ("state_directory", "runtime_directory"):
            places[name] = getattr(context, name) / "pf"
            places[name].mkdir(mode=0o700, exist_ok=True)
        try:
            self._engine.start(replace(context, **places))
        except StateError as error:
            raise StateError(
                f"{error}; slpf, if it is on, has to go: pf takes its place"
            ) from error
        self._store = Store(places["state_directory"], context.boot_id)
        if self._store.is_empty() and not self._engine.is_empty():
            state = places["state_directory"]
            raise StateError(f"{state}: nothing says whose the rules in slpf.db are; remove it too")
        self._admission = Admission(self._store, self._engine, self._look_up, self.check)

    def restore(self, ended: Collection[str]) -> None:
        """Put all rules in force; names are looked up again as soon as that is possible."""
        rows = [row for key in ended if (row := self._opened.by_key(key)) is not None]
        self._engine.restore([key for row in rows for key, _ in row.slots.values()])
        rows += filter(self._is_void, self._opened.loose())
        with self._opened.transaction():
            for row in rows:
                self._opened.void(row)
        self._refresher.start()
        for row in self._opened.names():
            renew(self._opened, self._engine, row, row.addresses)
            self._refresher.watch(row.number, row.target, 0)

    def stop(self) -> None:
        """Close everything; the rules stay in force unless `at_stop` says otherwise."""
        self._refresher.stop()
        self._engine.stop()
        if self._store is not None:
            self._store.close()
            self._store = None

    def link_resolving(self) -> None:
        """Keep the way to the name servers open."""
        self._engine.link_resolving()

    def link_changing(self, endpoints: Sequence[Endpoint]) -> None:
        """Keep the way to these open, and the old ones until the new link stands."""
        self._engine.link_changing(endpoints)

    def link_changed(self, endpoints: Sequence[Endpoint]) -> None:
        """Keep the way to these open."""
        self._engine.link_changed(endpoints)

    def status(self) -> Mapping[str, Any]:
        """Return how many rules there are, the first 1000, and the names that are not found."""
        engine = {**self._engine.status()}
        del engine["rules"], engine["count"]
        rules = [_shown(row) for row in self._opened.first(_LISTED)]
        return {
            **engine,
            "count": self._opened.count(),
            "not_found": dict(self._refresher.failing),
            "rules": rules,
        }

    # -- commands

    def matches(self, specifiers: Specifiers | None) -> bool:
        """Tell whether a command is for this host (PF-38)."""
        return self._engine.matches(specifiers)

    def check(self, command: Command) -> None:
        """Refuse what no state of the rules could make possible."""
        if command.action not in {Action.ALLOW, Action.DENY}:
            return
        args: Args = command.args
        numbers = band(None if args.priority is msgspec.UNSET else args.priority)
        if numbers is None:
            raise NotSupported(f"{ARGUMENT}: priority is 0 to 999 here")
        both = args.priority is not msgspec.UNSET and args.insert_rule is not msgspec.UNSET
        if both and args.insert_rule not in numbers:
            raise NotSupported(
                f"{NOT_IMPLEMENTED}: rules of this priority have the numbers "
                f"{numbers[0]} to {numbers[-1]}"
            )
        wanted = replace(command, args=language.engine_args(args, 1, 1))
        try:
            verdict_of(wanted)
            for name, target in language.engine_targets(command):
                self._engine.check(replace(wanted, target_name=name, target=target))
        except Refusal as refusal:
            raise language.reworded(refusal) from None

    def reserve(self, command: Command) -> Results | None:
        """Assign the number now and keep it for the start of the window."""
        store = self._opened
        if outcome := store.outcome(command.key):
            return None if outcome.number is None else Results(outcome.number)
        if (row := store.by_key(command.key)) is None:
            with store.transaction():
                row = self._admission.row(command, "reserved")
                self._admission.put(row)
        return Results(row.number)

    def execute(self, command: Command) -> Response:
        """Carry out one command: a batch of its own."""
        return only(self.execute_many((command,)))

    def execute_many(self, commands: Sequence[Command]) -> Sequence[Response | Refusal]:
        """Carry out all that waits; new rules that follow each other share their transactions."""
        found: list[Response | Refusal] = []
        for together, group in groupby(commands, _is_plain):
            batch = list(group)
            for part in [batch] if together else [[command] for command in batch]:
                found += self._answer(part)
        return found

    def _answer(self, commands: list[Command]) -> list[Response | Refusal]:
        """Answer a part; what was answered before is answered the same."""
        known = {one.key: self._opened.outcome(one.key) for one in commands}
        fresh = [one for one in commands if known[one.key] is None]
        try:
            if fresh and fresh[0].action in {Action.ALLOW, Action.DENY}:
                for row, lifetime in self._admission.admit(fresh):
                    self._refresher.watch(row.number, row.target, lifetime)
            elif fresh:
                try:
                    return [super().execute(fresh[0])]
                except Refusal as refusal:
                    return [refusal]
        except StoreError as error:
            _log.error("pf_failed", error=str(error))
            failed = Failed(f"{NOT_IMPLEMENTED}: it could not be stored")
            return [_told(known[one.key]) if known[one.key] else failed for one in commands]
        return [_told(self._opened.outcome(one.key)) for one in commands]

    @pair("query", "pf:rule_number", args=(), times=())
    def query(self, command: Command) -> Response:
        """Tell what is needed to make a rule again (PF-4)."""
        row = self._opened.by_number(command.target)
        if row is None:
            raise NoMatch(f"there is no rule {command.target}")
        name = row.target_name.removeprefix("pf:")
        times = {"start_time": row.start, "stop_time": row.stop}
        args = {**{key: time for key, time in times.items() if time is not None}, "pf": row.args}
        text = f"stands for {', '.join(row.addresses)}" if row.addresses else None
        text = _STATES.get(row.state, text)
        results = Results(
            row.number,
            Action(row.action),
            args={key: value for key, value in args.items() if value} or None,
            **{name: row.target},
        )
        return Response(StatusCode.OK, text, results)

    @pair("delete", "pf:rule_number", args=(), times=())
    def delete(self, command: Command) -> Response:
        """Remove a rule by its number; one that is only reserved never starts."""
        row = self._opened.by_number(command.target)
        if row is None:
            raise Failed(f"{NOT_REMOVED}: there is no rule {command.target}")
        self._remove(row)
        with self._opened.transaction():
            self._opened.drop(row)
            self._opened.remember(command.key, Outcome(StatusCode.OK))
        return Response()

    def revert(self, command: Command) -> None:
        """Remove the rule that the command with this key made, or its reservation."""
        if (row := self._opened.by_key(command.key)) is not None:
            self._remove(row)
            with self._opened.transaction():
                self._opened.drop(row)

    def refusal(self, reason: Reason, action: Action, target: str) -> str:
        """Word the engine's refusals as PF-8 has them."""
        del target
        return language.refusal(reason, action)

    def _is_void(self, row: Row) -> bool:
        """Tell whether nothing is left of a rule that was to end, or of one that never began."""
        if not row.slots or self._engine.present(row.slots):
            return False
        if row.state == "begun":  # what waited for its start time comes again, or is reverted
            return row.start is None
        return row.target_name != "domain_name"  # of which `renew` puts in what is missing

    def _remove(self, row: Row) -> None:
        self._engine.withdraw(row.slots)
        self._refresher.forget(row.number)

    # -- new rules

    @pair("allow", "ipv4_net", args=_ALLOW)
    @pair("allow", "ipv6_net", args=_ALLOW)
    @pair("allow", "ipv4_connection", args=_ALLOW)
    @pair("allow", "ipv6_connection", args=_ALLOW)
    @pair("allow", "domain_name", args=_ALLOW)
    @pair("allow", "pf:advanced_connection", args=_ALLOW)
    @pair("deny", "ipv4_net", args=_DENY)
    @pair("deny", "ipv6_net", args=_DENY)
    @pair("deny", "ipv4_connection", args=_DENY)
    @pair("deny", "ipv6_connection", args=_DENY)
    @pair("deny", "domain_name", args=_DENY)
    @pair("deny", "pf:advanced_connection", args=_DENY)
    def admit(self, command: Command) -> Response:
        """Add a rule: `_answer` has it done with others."""
        return self.execute(command)

    # -- names

    def _answered(self, number: int, name: str, answer: Answer) -> None:
        """Hand an answer to the worker; on the refresher's thread."""
        assert self._context is not None  # noqa: S101 - it was started
        self._context.call(lambda: self._renew(number, name, answer))

    def _renew(self, number: int, name: str, answer: Answer) -> None:
        """Give the rule of a name the addresses that it has now."""
        if self._store is None or (row := self._store.by_number(number)) is None:
            return
        if row.target != name or row.state != "done":  # another one has this number by now
            return
        lifetime = answer.lifetime
        try:
            found = self._engine.foreign(row.action, answer.addresses)
            renew(self._opened, self._engine, row, found)
        except (Refusal, StoreError) as error:
            _log.error("pf_name_not_renewed", name=row.target, number=number, error=str(error))
            lifetime = 60.0
        self._refresher.watch(number, row.target, lifetime)

    @property
    def _opened(self) -> Store:
        if self._store is None:
            raise StateError("pf is not started")
        return self._store


def _is_plain(command: Command) -> bool:
    """Tell whether a command only adds rules, without asking anybody."""
    adds = command.action in {Action.ALLOW, Action.DENY}
    return adds and not isinstance(command.target, DomainName)


def _told(outcome: Outcome | None) -> Response | Refusal:
    """Turn an outcome into what the engine wants."""
    assert outcome is not None  # noqa: S101 - every command of a part has one by now
    refusal = outcome.refusal
    if refusal is not None and outcome.number is None:
        return refusal
    results = None if outcome.number is None else Results(outcome.number)
    return Response(StatusCode(outcome.status), outcome.text, results)


def _shown(row: Row) -> dict[str, Any]:
    """Say what belongs to a rule, for `oc2d status`."""
    found = {
        "number": row.number,
        "action": row.action,
        "target": {row.target_name: row.target},
        "args": row.args,
        "addresses": row.addresses,
        "producer": row.producer,
        "start_time": row.start,
        "stop_time": row.stop,
    }
    return {name: value for name, value in found.items() if value not in (None, [], {})}
