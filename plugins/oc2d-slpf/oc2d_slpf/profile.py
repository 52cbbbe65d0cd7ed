"""The actuator profile slpf: OpenC2 commands become numbered rules, and those a packet filter's.

All commands that wait share one transaction of the store and one of the packet filter. A command
key is carried out once: run again, it is answered what it was answered first.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from ipaddress import ip_network
from types import MappingProxyType
from typing import Any, ClassVar

import msgspec
import structlog

from oc2d.actuator import Actuator, Command, Context, Endpoint, Reason, Response, pair
from oc2d.errors import Failed, NotSupported, Refusal, StateError
from oc2d.language.vocabulary import Action, StatusCode
from oc2d_slpf import language, resolvers, settings
from oc2d_slpf.backend import Backend, BackendError, Permit, permits
from oc2d_slpf.dry_run import DryRun
from oc2d_slpf.firewall import Firewall
from oc2d_slpf.guard import Guard
from oc2d_slpf.language import IN_USE, NOT_REMOVED, NOT_UPDATED, OPTION, Args, Results, RuleNumber
from oc2d_slpf.nftables import Nftables
from oc2d_slpf.rules import Rule, Verdict, describe, encode
from oc2d_slpf.specifiers import Here, Specifiers
from oc2d_slpf.store import Entry, Outcome, State, Store, StoreError
from oc2d_slpf.tiers import Change

__all__ = ["Slpf"]

_log = structlog.get_logger("oc2d.slpf")

_LISTED = 1000  # rules in the status, at most
_ALLOW = ("direction", "persistent", "insert_rule")
_DENY = (*_ALLOW, "drop_process")


class _NextBatch(Exception):  # noqa: N818 - a signal, not an error
    """This command needs what the batch before it intends to be settled."""


class Slpf(Actuator):
    """Stateless packet filtering (REQUIREMENTS part 3) in a table of its own."""

    profile = "slpf"
    idempotent = True
    args_type = Args
    specifiers_type = Specifiers
    results_type = Results
    targets: ClassVar[Mapping[str, Any]] = MappingProxyType({"rule_number": RuleNumber})

    config: settings.Settings

    def __init__(self, config: settings.Settings) -> None:
        super().__init__(config)
        self._here = Here()
        self._guard = Guard(config.never_block)
        self._store: Store | None = None
        self._firewall = Firewall(self._backend(config))
        self._linked: frozenset[Permit] = frozenset()
        self._loaded = False
        self._change = Change()
        self._settling: set[int] = set()
        self._call: Callable[[Callable[[], None]], None] = lambda _: None

    @staticmethod
    def _backend(config: settings.Settings) -> Backend:
        return DryRun() if config.backend == "dry-run" else Nftables(config.never_block)

    @classmethod
    def parse_config(cls, table: Mapping[str, Any]) -> settings.Settings:
        """Read `[actuators.slpf]`; raises `ConfigError` with every mistake."""
        return settings.parse(table)

    # -- life

    def start(self, context: Context) -> None:
        """See that the packet filter can be used and open the store; changes no rule yet."""
        self._call = context.call
        self._firewall.check()
        self._here = Here.look()
        local = tuple(ip_network(address) for address in sorted(self._here.addresses))
        self._store = Store(context.state_directory, context.runtime_directory, context.boot_id)
        self._linked = self._store.permits()
        self._guard = Guard(self.config.never_block, local, self._linked, resolvers.in_use())

    def restore(self, ended: Collection[str]) -> None:
        """Put all rules in force at once, also those that a crash left intended (SLPF-18, -19)."""
        store = self._opened
        try:
            with store.transaction():
                store.forget(ended)
            self._firewall.load(store.rules(), self._guard.endpoints)
            store.confirm()
        except StoreError as error:
            raise StateError(f"the rules of slpf cannot be read: {error}") from error
        except BackendError as error:
            raise StateError(f"the rules of slpf cannot be put in force: {error}") from error
        self._loaded = True
        self._firewall.watch(lambda: self._call(self._repair))
        _log.info("slpf_restored", rules=len(self._firewall.tiers))

    def stop(self) -> None:
        """Close the store; the rules stay in force unless `at_stop` says otherwise."""
        if self._loaded and self.config.at_stop == "remove":
            try:
                self._firewall.remove()
            except BackendError as error:
                _log.error("slpf_not_removed", error=str(error))
        self._loaded = False
        self._firewall.close()
        if self._store is not None:
            self._store.close()
            self._store = None

    def link_changing(self, endpoints: Sequence[Endpoint]) -> None:
        """Keep the way to these open, and the old ones until the new link stands."""
        self._permit(self._linked | permits(endpoints))

    def link_changed(self, endpoints: Sequence[Endpoint]) -> None:
        """Keep the way to these open, and to no others any more."""
        self._linked = permits(endpoints)
        self._permit(self._linked)

    def status(self) -> Mapping[str, Any]:
        """Return how many rules there are, and the first 1000 of them in order."""
        return {
            "backend": self.config.backend,
            "count": len(self._firewall.tiers),
            "endpoints": sorted(f"{p.address} {p.port}" for p in self._firewall.permits),
            "rules": [_shown(entry) for entry in self._opened.first(_LISTED)],
        }

    # -- commands

    def matches(self, specifiers: Specifiers | None) -> bool:
        """Tell whether a command is for this host (SLPF-53 to 58)."""
        return specifiers is None or self._here.matches(self.config, specifiers)

    def check(self, command: Command) -> None:
        """Refuse what no state of the rules could make possible."""
        if command.action is Action.DELETE:
            return
        verdict = language.verdict_of(command)
        match = language.match_of(command.target)
        if verdict is not Verdict.ALLOW and self._guard.protects(match):
            raise NotSupported(f"{NOT_UPDATED}: protected by never_block")

    def reserve(self, command: Command) -> Results | None:
        """Assign the number now and keep it for the start of the window (AMB-25)."""
        if command.action is Action.DELETE:
            return None
        store = self._opened
        try:
            store.settle()
            if outcome := store.outcome(command.key):
                return None if outcome.number is None else Results(outcome.number)
            if held := store.by_key(command.key):
                return Results(held.rule.number)
            with store.transaction():
                entry = self._entry(command, self._number(command))
                store.reserve(entry)
        except StoreError as error:
            raise self._failed(command, error) from error
        return Results(entry.rule.number)

    def execute(self, command: Command) -> Response:
        """Carry out one command: a batch of its own."""
        answer = self.execute_many((command,))[0]
        if isinstance(answer, Refusal):
            raise answer
        return answer

    def execute_many(self, commands: Sequence[Command]) -> Sequence[Response | Refusal]:
        """Carry out all that waits with one commit and one change of the packet filter."""
        answers: list[Response | Refusal] = []
        while len(answers) < len(commands):
            answers += self._batch(commands[len(answers) :])
        return answers

    @pair("allow", "ipv4_net", args=_ALLOW)
    @pair("allow", "ipv6_net", args=_ALLOW)
    @pair("allow", "ipv4_connection", args=_ALLOW)
    @pair("allow", "ipv6_connection", args=_ALLOW)
    @pair("deny", "ipv4_net", args=_DENY)
    @pair("deny", "ipv6_net", args=_DENY)
    @pair("deny", "ipv4_connection", args=_DENY)
    @pair("deny", "ipv6_connection", args=_DENY)
    def admit(self, command: Command) -> Response:
        """Add a rule, within a batch."""
        store = self._opened
        self.check(command)
        held = store.by_key(command.key)
        if held is not None:
            number = held.rule.number  # reserved: a key that has run does not come here again
        elif command.reserved is not None:
            number = command.reserved.rule_number
            raise Failed(f"{NOT_UPDATED}: rule {number} was deleted before its start")
        else:
            number = self._number(command)
        entry = self._entry(command, number)
        if not self._firewall.can(entry.rule.verdict):
            raise NotSupported(f"{OPTION}: drop_process {entry.rule.verdict.value} on this host")
        texts = list(command.notes)
        if entry.rule.verdict is not Verdict.ALLOW:
            open_ = self._guard.stays_open(language.match_of(command.target))
            texts += [f"stays open: {', '.join(open_)}"] if open_ else []
        outcome = Outcome(StatusCode.OK, "; ".join(texts) or None, number)
        store.add(entry, held)
        store.remember(command.key, outcome, persistent=entry.persistent)
        self._firewall.tiers.add(entry.rule, self._change)
        return _response(outcome)

    @pair("delete", "slpf:rule_number", args=(), times=("start_time",))
    def delete(self, command: Command) -> Response:
        """Remove a rule by its number, within a batch; one that is only reserved never starts."""
        store = self._opened
        found = store.by_number(command.target)
        if found is None or command.target in self._settling:
            raise Failed(f"{NOT_REMOVED}: there is no rule {command.target}")
        outcome = Outcome(StatusCode.OK)
        store.remember(command.key, outcome, persistent=found.persistent)
        self._remove(found)
        return _response(outcome)

    def revert(self, command: Command) -> None:
        """Remove the rule that the command with this key made, or its reservation."""
        store = self._opened
        try:
            store.settle()
            found = store.by_key(command.key)
        except StoreError as error:
            raise self._failed(command, error) from error
        if found is None:
            return
        try:
            self._begin()
            with store.transaction():
                self._remove(found)
            self._commit()
        except (StoreError, BackendError) as error:
            self._take_back()
            raise self._failed(command, error) from error

    def refusal(self, reason: Reason, action: Action, target: str) -> str:
        """Word the engine's refusals as REQUIREMENTS 3.8 has them."""
        del target
        if reason is Reason.OPTION:
            return language.OPTION
        if reason is Reason.WINDOW_OVER:
            return f"{NOT_UPDATED}: time window is over"
        if action in (Action.ALLOW, Action.DENY):
            return language.TARGET_TYPE
        return language.TARGET if action is Action.DELETE else language.COMMAND

    # -- batches

    def _batch(self, commands: Sequence[Command]) -> list[Response | Refusal]:
        """Carry out as many of the commands as fit into one transaction: at least one."""
        store = self._opened
        answers: list[Response | Refusal] = []
        try:
            store.settle()
        except StoreError as error:
            return [self._failed(command, error) for command in commands]
        try:
            self._begin()
            with store.transaction():
                for command in commands:
                    try:
                        answers.append(self._decide(command))
                    except _NextBatch:  # noqa: PERF203 - it ends the loop
                        break
            self._commit()
        except (StoreError, BackendError) as error:
            tried = commands[: max(1, len(answers))]
            if self._take_back() and len(tried) > 1:
                return [self._batch((command,))[0] for command in tried]
            return [self._failed(command, error) for command in tried]
        except BaseException:
            self._take_back()
            raise
        return answers

    def _decide(self, command: Command) -> Response | Refusal:
        """Answer one command within a batch; what depends on the rules is remembered."""
        store = self._opened
        try:
            if outcome := store.outcome(command.key):
                return _response(outcome)
            return super().execute(command)
        except Refusal as refusal:
            if store.outcome(command.key) is None:
                store.remember(command.key, Outcome(refusal.status, refusal.text))
            return refusal

    def _begin(self) -> None:
        self._change = Change()
        self._settling = set()

    def _commit(self) -> None:
        """Tell the packet filter what the store intends, then settle it."""
        self._firewall.commit(self._change)
        try:
            self._opened.settle()
        except StoreError as error:
            # in force and durable as intended: the next batch settles it, or the next start
            _log.warning("slpf_not_settled", error=str(error))

    def _take_back(self) -> bool:
        """After a failure: back to what the store had before; tell whether that is in force."""
        try:
            self._opened.withdraw()
            self._firewall.expect(self._opened.rules())
            self._firewall.commit(Change())
        except (StoreError, BackendError) as error:
            _log.error("slpf_not_recovered", error=str(error))
            return False
        return True

    # -- parts of commands

    def _number(self, command: Command) -> int:
        """Return the number that the command asks for, or the next automatic one."""
        wanted = command.args.insert_rule
        if wanted is msgspec.UNSET:
            return self._opened.automatic()
        if wanted in self._settling:
            raise _NextBatch
        if self._opened.by_number(wanted) is not None:
            raise NotSupported(f"{IN_USE}: {wanted}")
        return int(wanted)

    def _entry(self, command: Command, number: int) -> Entry:
        match = language.match_of(command.target)
        rule = Rule(number, language.verdict_of(command), *encode(match, command.args.direction))
        window = (command.start_time, command.stop_time)
        return Entry(rule, command.key, command.args.persistent, command.producer, *window)

    def _remove(self, entry: Entry) -> None:
        number = entry.rule.number
        self._opened.remove(entry)
        if entry.state is not State.RESERVED:
            self._settling.add(number)
            self._firewall.tiers.remove(number, self._change)

    def _permit(self, wanted: frozenset[Permit]) -> None:
        store = self._opened
        self._guard = replace(self._guard, permits=wanted, resolvers=resolvers.in_use())
        try:
            if wanted != store.permits():
                with store.transaction():
                    store.keep_permits(wanted)
            if self._loaded and self._guard.endpoints != self._firewall.permits:
                self._firewall.permit(self._guard.endpoints)
        except (StoreError, BackendError) as error:
            # the link may work all the same; the next change tries again
            _log.error("slpf_endpoints_not_kept", error=str(error))

    def _repair(self) -> None:
        """Undo what others did to what is in force: on the worker, like everything else."""
        if not self._loaded:
            return
        try:
            self._firewall.repair()
        except BackendError as error:
            _log.error("slpf_not_repaired", error=str(error))
        else:
            _log.warning("slpf_repaired", detail="others had changed or removed the table")

    @staticmethod
    def _failed(command: Command, error: Exception) -> Failed:
        """Answer without internals (LANG-44); the log has them."""
        what = "the rule could not be stored"
        if isinstance(error, BackendError):
            what = "the packet filter refused the change"
        _log.error("slpf_failed", key=command.key, error=str(error))
        phrase = NOT_REMOVED if command.action is Action.DELETE else NOT_UPDATED
        return Failed(f"{phrase}: {what}")

    @property
    def _opened(self) -> Store:
        if self._store is None:
            raise StateError("slpf is not started")
        return self._store


def _response(outcome: Outcome) -> Response:
    """Turn an outcome into what the engine wants; a remembered refusal is raised again."""
    if outcome.status == StatusCode.OK:
        results = None if outcome.number is None else Results(outcome.number)
        return Response(StatusCode.OK, outcome.text, results)
    refusal = next(kind for kind in Refusal.__subclasses__() if kind.status == outcome.status)
    raise refusal(outcome.text or "")


def _shown(entry: Entry) -> dict[str, Any]:
    rule = entry.rule
    shown: dict[str, Any] = {
        "number": rule.number,
        "verdict": "allow" if rule.verdict is Verdict.ALLOW else "deny",
        "match": describe(rule.shape, rule.key),
        "direction": rule.shape.direction.value,
        "persistent": entry.persistent,
        "producer": entry.producer,
    }
    if rule.verdict is not Verdict.ALLOW:
        how = {Verdict.DROP: "none"}.get(rule.verdict, rule.verdict.value)
        shown["drop_process"] = how
    times = {"start_time": entry.start, "stop_time": entry.stop}
    return shown | {name: time for name, time in times.items() if time is not None}
