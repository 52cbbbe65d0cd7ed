"""The actuator profile slpf: OpenC2 commands become numbered rules, and those a packet filter's.

All commands that wait share one transaction of the store and one of the packet filter. A command
key is carried out once: run again, it is answered what it was answered first.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from ipaddress import ip_network
from itertools import groupby
from types import MappingProxyType
from typing import Any, ClassVar

import msgspec
import structlog

from oc2d.actuator import Actuator, Command, Context, Endpoint, Pair, Reason, Response, pair
from oc2d.errors import Failed, NotSupported, Refusal, StateError
from oc2d.language.ids import SLPF
from oc2d.language.vocabulary import Action, StatusCode
from oc2d_slpf import answers, files, language, resolvers, settings, update
from oc2d_slpf.backend import BackendError, Permit, permits
from oc2d_slpf.backends import make_backend
from oc2d_slpf.firewall import Firewall
from oc2d_slpf.guard import Guard
from oc2d_slpf.inspection import shown
from oc2d_slpf.language import IN_USE, NOT_REMOVED, NOT_UPDATED, OPTION, Args, Results, RuleNumber
from oc2d_slpf.operations import Change
from oc2d_slpf.rules import Rule, Verdict, alike, encode
from oc2d_slpf.specifiers import Here, Specifiers
from oc2d_slpf.store import Entry, Outcome, Store, StoreError

__all__ = ["Slpf"]

_log = structlog.get_logger("oc2d.slpf")

_LISTED = 1000  # rules in the status, at most
_ALLOW = ("direction", "persistent", "insert_rule")
_DENY = (*_ALLOW, "drop_process")


class Slpf(Actuator):
    """Stateless packet filtering (REQUIREMENTS part 3) in a table of its own."""

    profile = "slpf"
    idempotent = True
    args_type = Args
    specifiers_type = Specifiers
    results_type = Results
    targets: ClassVar[Mapping[str, Any]] = MappingProxyType({"rule_number": RuleNumber})
    ids = SLPF

    config: settings.Settings

    def __init__(self, config: settings.Settings) -> None:
        super().__init__(config)
        self._here = Here()
        self._guard = Guard(config.never_block)
        self._store: Store | None = None
        self._firewall = Firewall(make_backend(config))
        self._linked: frozenset[Permit] = frozenset()
        self._loaded = False
        self._change = Change()
        self._astray = False  # the tiers in memory are not those of the store
        self._call: Callable[[Callable[[], None]], None] = lambda _: None

    @classmethod
    def parse_config(cls, table: Mapping[str, Any]) -> settings.Settings:
        """Read `[actuators.slpf]`; raises `ConfigError` with every mistake."""
        return settings.parse(table)

    # -- life

    def start(self, context: Context) -> None:
        """See that the packet filter can be used and open the store; changes no rule yet."""
        self._call = context.call
        self._firewall.check()
        self._store = Store(context.state_directory, context.runtime_directory, context.boot_id)
        if self._store.repaired:
            _log.error(
                "slpf_store_damaged",
                reason=self._store.repaired,
                kept=sum(len(group.numbers) for group in self._store.rules()),
                set_aside=self._store.damaged[-1],
            )
        self._linked = self._store.permits()
        self._look()

    def restore(self, ended: Collection[str]) -> None:
        """Put all rules in force at once (SLPF-18, SLPF-19)."""
        store = self._opened
        try:
            with store.transaction():
                store.forget(ended)
            self._firewall.load(store.rules(), self._guard.endpoints)
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

    def link_resolving(self) -> None:
        """Keep the way to the name servers open that are in use now."""
        self._permit(self._opened.permits())

    def link_changing(self, endpoints: Sequence[Endpoint]) -> None:
        """Keep the way to these open, and the old ones until the new link stands."""
        self._permit(self._linked | permits(endpoints))

    def link_changed(self, endpoints: Sequence[Endpoint]) -> None:
        """Keep the way to these open, and to no others any more; see who we are by now."""
        self._linked = permits(endpoints)
        self._look()
        self._permit(self._linked)

    def status(self) -> Mapping[str, Any]:
        """Return how many rules there are, and the first 1000 of them in order.

        `damaged` names stores that were set aside, for as long as they are there.
        """
        store = self._opened
        return {
            "backend": self.config.backend,
            **({"damaged": list(store.damaged)} if store.damaged else {}),
            "count": len(self._firewall.tiers),
            "kernel_refusals": self._firewall.refusals,
            "endpoints": sorted(map(str, self._firewall.permits)),
            "rules": [shown(entry) for entry in store.first(_LISTED)],
        }

    # -- commands

    def supported_pairs(self) -> Collection[Pair]:
        """All pairs, but for the update file where no directory is configured (SLPF-48)."""
        directories = self.config.update_directories
        pairs = super().supported_pairs()
        return [pair for pair in pairs if pair.action is not Action.UPDATE or directories]

    def matches(self, specifiers: Specifiers | None) -> bool:
        """Tell whether a command is for this host (SLPF-53 to 58)."""
        return specifiers is None or self._here.matches(self.config, specifiers)

    def check(self, command: Command) -> None:
        """Refuse what no state of the rules could make possible."""
        if command.action is Action.UPDATE:
            files.places(self.config.update_directories, command.target)
        elif command.action is not Action.DELETE:
            self._check_rule(command)

    def _check_rule(self, command: Command) -> None:
        verdict = language.verdict_of(command)
        match = language.match_of(command.target)
        if verdict is not Verdict.ALLOW and self._guard.protects(match):
            raise NotSupported(f"{NOT_UPDATED}: protected by never_block")

    def reserve(self, command: Command) -> Results | None:
        """Assign the number now and keep it for the start of the window (AMB-25)."""
        if command.action in {Action.DELETE, Action.UPDATE}:
            return None
        store = self._opened
        try:
            if outcome := store.outcome(command.key):
                return None if outcome.number is None else Results(outcome.number)
            if held := store.by_key(command.key):
                return Results(held.rule.number)
            with store.transaction():
                entry = self._entry(command, self._number(command))
                store.reserve(entry)
        except StoreError as error:
            raise answers.failed(command, error) from error
        return Results(entry.rule.number)

    def execute(self, command: Command) -> Response:
        """Carry out one command: a batch of its own."""
        answer = self.execute_many((command,))[0]
        if isinstance(answer, Refusal):
            raise answer
        return answer

    def execute_many(self, commands: Sequence[Command]) -> Sequence[Response | Refusal]:
        """Carry out all that waits with one commit and one change of the packet filter.

        An update file is a batch of its own: nothing else waits for the file.
        """
        found: list[Response | Refusal] = []
        for alone, group in groupby(commands, lambda command: command.action is Action.UPDATE):
            batch = list(group)
            for part in [[command] for command in batch] if alone else [batch]:
                found += self._batch(part)
        return found

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
        texts = [*command.notes, *self._stays_open((command,))]
        outcome = Outcome(StatusCode.OK, "; ".join(texts) or None, number)
        store.add(entry)
        store.remember(command.key, outcome)
        self._firewall.tiers.add(entry.rule, self._change)
        return answers.response(outcome)

    @pair("delete", "slpf:rule_number", args=(), times=("start_time",))
    def delete(self, command: Command) -> Response:
        """Remove a rule by its number, within a batch; one that is only reserved never starts."""
        store = self._opened
        found = store.by_number(command.target)
        if found is None:
            raise Failed(f"{NOT_REMOVED}: there is no rule {command.target}")
        outcome = Outcome(StatusCode.OK)
        store.remember(command.key, outcome)
        self._remove(found)
        return answers.response(outcome)

    @pair("update", "file", args=(), times=("start_time",), interim=True)
    def update(self, command: Command) -> Response:
        """Replace all rules by those of a file; the first one in the file is the first in order.

        Commands that wait for their start time keep their numbers, and start.
        """
        store = self._opened
        content = files.read(self.config.update_directories, command.target)
        made = update.commands(command, content, self._check_rule, store.is_reserved)
        texts = [f"{len(made)} rules in force"]
        if masked := sum(len(entry.notes) for entry in made):
            texts.append(f"{masked} ranges lost their host bits")
        texts += self._stays_open(made)
        outcome = Outcome(StatusCode.OK, "; ".join(texts))
        # nothing is wrong with the file: what fails from here on takes all of it back
        store.clear()
        rules = []
        for each in made:
            entry = self._entry(each, self._number(each))
            store.add(entry)
            rules.append(entry.rule)
        store.remember(command.key, outcome)
        self._firewall.expect(alike(rules))
        return answers.response(outcome)

    def revert(self, command: Command) -> None:
        """Remove the rule that the command with this key made, or its reservation."""
        try:
            with self._changing() as store:
                if found := store.by_key(command.key):
                    self._remove(found)
        except (StoreError, BackendError) as error:
            self._take_back()
            raise answers.failed(command, error) from error

    def refusal(self, reason: Reason, action: Action, target: str) -> str:
        """Word the engine's refusals as REQUIREMENTS 3.8 has them."""
        del target
        return answers.refusal(reason, action)

    # -- batches

    def _batch(self, commands: Sequence[Command]) -> list[Response | Refusal]:
        """Carry out all of the commands in one transaction; if that fails, each in its own."""
        try:
            with self._changing():
                return [self._decide(command) for command in commands]
        except (StoreError, BackendError) as error:
            if self._take_back() and len(commands) > 1:
                return [self._batch((command,))[0] for command in commands]
            return [answers.failed(command, error) for command in commands]
        except BaseException:
            self._take_back()
            raise

    @contextmanager
    def _changing(self) -> Iterator[Store]:
        """Change store, tiers and packet filter together: committed when the filter took it."""
        store = self._opened
        self._realign()
        with store.transaction():
            self._change = Change()
            yield store
            self._firewall.commit(self._change)

    def _decide(self, command: Command) -> Response | Refusal:
        """Answer one command within a batch; what depends on the rules is remembered."""
        store = self._opened
        try:
            if outcome := store.outcome(command.key):
                return answers.response(outcome)
            return super().execute(command)
        except Refusal as refusal:
            if store.outcome(command.key) is None:
                store.remember(command.key, Outcome(refusal.status, refusal.text))
            return refusal

    def _take_back(self) -> bool:
        """After a failure: back to what the store has; tell whether that is in force.

        If it is not, the next change begins with it.
        """
        self._astray = True
        try:
            self._realign()
            self._firewall.commit(Change())
        except (StoreError, BackendError) as error:
            _log.error("slpf_not_recovered", error=str(error))
            return False
        return True

    def _realign(self) -> None:
        """See that the tiers in memory are those of the store."""
        if self._astray:
            self._firewall.expect(self._opened.rules())
            self._astray = False

    # -- parts of commands

    def _number(self, command: Command) -> int:
        """Return the number that the command asks for, or the next automatic one."""
        wanted = command.args.insert_rule
        if wanted is msgspec.UNSET:
            return self._opened.automatic()
        if self._opened.by_number(wanted) is not None:
            raise NotSupported(f"{IN_USE}: {wanted}")
        return int(wanted)

    def _stays_open(self, commands: Iterable[Command]) -> list[str]:
        """Word what denies among the commands do not reach (AMB-57)."""
        found: dict[str, None] = {}
        for command in commands:
            if command.action is Action.DENY:
                found |= dict.fromkeys(self._guard.stays_open(language.match_of(command.target)))
        return [f"stays open: {', '.join(found)}"] if found else []

    def _entry(self, command: Command, number: int) -> Entry:
        match = language.match_of(command.target)
        rule = Rule(number, language.verdict_of(command), *encode(match, command.args.direction))
        window = (command.start_time, command.stop_time)
        return Entry(rule, command.key, command.args.persistent, command.producer, *window)

    def _remove(self, entry: Entry) -> None:
        self._opened.remove(entry)
        if not entry.reserved:
            self._firewall.tiers.remove(entry.rule, self._change)

    def _permit(self, wanted: frozenset[Permit]) -> None:
        store = self._opened
        self._guard = replace(self._guard, permits=wanted, resolvers=resolvers.in_use())
        try:
            self._realign()
            if self._loaded and self._guard.endpoints != self._firewall.permits:
                self._firewall.permit(self._guard.endpoints)
            if wanted != store.permits():
                with store.transaction():
                    store.keep_permits(wanted)
        except (StoreError, BackendError) as error:
            # the link may work all the same; the next change tries again
            _log.error("slpf_endpoints_not_kept", error=str(error))

    def _look(self) -> None:
        """See what this host is called now: the daemon starts before there is a network."""
        self._here = Here.look()
        local = tuple(ip_network(address) for address in sorted(self._here.addresses))
        self._guard = Guard(self.config.never_block, local, self._linked, resolvers.in_use())

    def _repair(self) -> None:
        """Undo what others did to what is in force: on the worker, like everything else."""
        if not self._loaded:
            return
        try:
            self._realign()
            self._firewall.repair()
        except (StoreError, BackendError) as error:
            _log.error("slpf_not_repaired", error=str(error))
        else:
            _log.warning("slpf_repaired", detail="others had changed or removed the table")

    @property
    def _opened(self) -> Store:
        if self._store is None:
            raise StateError("slpf is not started")
        return self._store
