"""The actuator profile slpf: OpenC2 commands become numbered rules, and those a packet filter's.

All commands that wait share one transaction of the store and one of the packet filter. A command
key is carried out once: run again, it is answered what it was answered first.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from functools import partial
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
from oc2d_slpf.guard import Guard
from oc2d_slpf.in_force import InForce
from oc2d_slpf.inspection import shown
from oc2d_slpf.language import (
    IN_USE,
    NONE_LEFT,
    NOT_REMOVED,
    NOT_UPDATED,
    OPTION,
    Args,
    Results,
    RuleNumber,
)
from oc2d_slpf.rules import Match, Rule, Verdict, encode
from oc2d_slpf.specifiers import Here, Specifiers
from oc2d_slpf.store import Entry, Outcome, Store, StoreError

__all__ = ["Slpf"]

_log = structlog.get_logger("oc2d.slpf")

#: What an allow or deny asks for.
Wanted = tuple[Verdict, Match]

_LISTED = 1000  # rules in the status, at most
#: With the memory that the unit gives, twice as many end the daemon, at each start again.
_MOST_RULES = 500_000
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
        self._rules = InForce(make_backend(config))
        self._linked: frozenset[Permit] = frozenset()
        self._call: Callable[[Callable[[], None]], None] = lambda _: None

    @classmethod
    def parse_config(cls, table: Mapping[str, Any]) -> settings.Settings:
        """Read `[actuators.slpf]`; raises `ConfigError` with every mistake."""
        return settings.parse(table)

    # -- life

    def start(self, context: Context) -> None:
        """See that the packet filter can be used and open the store; changes no rule yet."""
        self._call = context.call
        self._rules.open(context)
        self._linked = self._rules.store.permits()
        self._look()

    def restore(self, ended: Collection[str]) -> None:
        """Put all rules in force at once (SLPF-18, SLPF-19)."""
        try:
            self._rules.restore(ended, self._guard.endpoints)
            if self.config.backend != "dry-run":
                self._rules.succeed(self.config.backend, partial(make_backend, self.config))
        except StoreError as error:
            raise StateError(f"the rules of slpf cannot be read: {error}") from error
        except BackendError as error:
            raise StateError(f"the rules of slpf cannot be put in force: {error}") from error
        firewall = self._rules.firewall
        # on the worker, like everything else
        firewall.watch(lambda: self._call(self._rules.repair))
        _log.info("slpf_restored", rules=len(firewall.tiers))

    def stop(self) -> None:
        """Close the store; the rules stay in force unless `at_stop` says otherwise."""
        self._rules.close(remove=self.config.at_stop == "remove")

    def link_resolving(self) -> None:
        """Keep the way to the name servers open that are in use now."""
        self._permit(self._rules.store.permits())

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
        store, firewall = self._rules.store, self._rules.firewall
        return {
            "backend": self.config.backend,
            **({"damaged": list(store.damaged)} if store.damaged else {}),
            "count": len(firewall.tiers),
            "kernel_refusals": firewall.refusals,
            "endpoints": sorted(map(str, firewall.permits)),
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
            self._wanted(command)

    def _wanted(self, command: Command) -> Wanted:
        """Return what an allow or deny asks for, or raise why it cannot be."""
        verdict = language.verdict_of(command)
        match = language.match_of(command.target)
        if verdict is not Verdict.ALLOW and self._guard.protects(match):
            raise NotSupported(f"{NOT_UPDATED}: protected by never_block")
        if not self._rules.firewall.can(verdict):
            raise NotSupported(f"{OPTION}: drop_process {verdict.value} on this host")
        return verdict, match

    def reserve(self, command: Command) -> Results | None:
        """Assign the number now and keep it for the start of the window (AMB-25)."""
        if command.action in {Action.DELETE, Action.UPDATE}:
            return None
        store = self._rules.store
        try:
            if outcome := store.outcomes([command.key]).get(command.key):
                return None if outcome.number is None else Results(outcome.number)
            if held := store.by_key(command.key):
                return Results(held.rule.number)
            with store.transaction():
                entry = self._entry(
                    command, self._number(command.args.insert_rule), self._wanted(command)
                )
                store.reserve(entry)
        except StoreError as error:
            raise answers.failed(command, error) from error
        return Results(entry.rule.number)

    def execute(self, command: Command) -> Response:
        """Carry out one command: a batch of its own."""
        return answers.only(self.execute_many((command,)))

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
        store = self._rules.store
        wanted = verdict, match = self._wanted(command)
        if held := store.reservation(command.key):
            number = held.rule.number
        elif command.reserved is not None:
            number = command.reserved.rule_number
            raise Failed(f"{NOT_UPDATED}: rule {number} was deleted before its start")
        else:
            number = self._number(command.args.insert_rule)
        if len(self._rules.firewall.tiers) >= _MOST_RULES:
            raise Failed(f"{NOT_UPDATED}: there are {_MOST_RULES} rules, which is the most")
        hit = [] if verdict is Verdict.ALLOW else self._guard.stays_open(match)
        texts = [*command.notes, *_stays_open(hit)]
        outcome = Outcome(StatusCode.OK, "; ".join(texts) or None, number)
        self._rules.add(self._entry(command, number, wanted))
        store.remember(command.key, outcome)
        return answers.response(outcome)

    @pair("delete", "slpf:rule_number", args=(), times=("start_time",))
    def delete(self, command: Command) -> Response:
        """Remove a rule by its number, within a batch; one that is only reserved never starts."""
        store = self._rules.store
        found = store.by_number(command.target)
        if found is None:
            raise Failed(f"{NOT_REMOVED}: there is no rule {command.target}")
        outcome = Outcome(StatusCode.OK)
        store.remember(command.key, outcome)
        self._rules.remove(found)
        return answers.response(outcome)

    @pair("update", "file", args=(), times=("start_time",), interim=True)
    def update(self, command: Command) -> Response:
        """Replace all rules by those of a file; the first one in the file is the first in order.

        Commands that wait for their start time keep their numbers, and start.
        """
        store = self._rules.store
        content = files.read(self.config.update_directories, command.target)
        masked = 0
        open_: dict[str, None] = {}

        def made(each: Command) -> Entry:
            nonlocal masked
            wanted = verdict, match = self._wanted(each)
            masked += len(each.notes)
            if verdict is not Verdict.ALLOW:
                open_.update(dict.fromkeys(self._guard.stays_open(match)))
            return self._entry(each, each.args.insert_rule or 0, wanted)

        entries = update.entries(command, content, made, store.is_reserved)
        if entries and not entries[-1].rule.number and store.left() < len(entries):
            store.begin_anew()  # the new rules need no place ahead of any but themselves
        texts = [f"{len(entries)} rules in force"]
        if masked:
            texts.append(f"{masked} ranges lost their host bits")
        outcome = Outcome(StatusCode.OK, "; ".join([*texts, *_stays_open(open_)]))
        # nothing is wrong with the file: what fails from here on takes all of it back
        self._rules.exchange(map(self._numbered, entries))
        store.remember(command.key, outcome)
        return answers.response(outcome)

    def revert(self, command: Command) -> None:
        """Remove the rule that the command with this key made, or its reservation."""
        try:
            with self._rules.changing() as store:
                if found := store.by_key(command.key):
                    self._rules.remove(found)
        except (StoreError, BackendError) as error:
            self._rules.take_back()
            raise answers.failed(command, error) from error

    def refusal(self, reason: Reason, action: Action, target: str) -> str:
        """Word the engine's refusals as REQUIREMENTS 3.8 has them."""
        del target
        return answers.refusal(reason, action)

    # -- batches

    def _batch(self, commands: Sequence[Command]) -> list[Response | Refusal]:
        """Carry out all of the commands in one transaction; if it is refused, each in its own.

        Of a full disk no command is to blame, and to take back each takes its time.
        """
        known: dict[str, Response | Refusal] = {}
        try:
            with self._rules.changing() as store:
                done = store.outcomes([command.key for command in commands])
                for key, outcome in done.items():
                    known[key] = outcome.refusal or answers.response(outcome)
                answered = dict(known)
                for command in commands:
                    if command.key not in answered:
                        answered[command.key] = self._decide(command, store)
        except (StoreError, BackendError) as error:
            back = self._rules.take_back()
            if back and isinstance(error, BackendError) and len(commands) > 1:
                return [self._batch((command,))[0] for command in commands]
            return [known.get(each.key) or answers.failed(each, error) for each in commands]
        except BaseException:
            self._rules.take_back()
            raise
        return [answered[command.key] for command in commands]

    def _decide(self, command: Command, store: Store) -> Response | Refusal:
        """Answer one command within a batch; what depends on the rules is remembered."""
        try:
            return super().execute(command)
        except Refusal as refusal:
            store.remember(command.key, Outcome(refusal.status, refusal.text))
            return refusal

    # -- parts of commands

    def _number(self, wanted: int | msgspec.UnsetType) -> int:
        """Return the number that a command asks for, or the next automatic one."""
        if not wanted:
            number = self._rules.store.automatic()
            if number is None:
                raise NotSupported(NONE_LEFT)
            return number
        if self._rules.store.by_number(wanted) is not None:
            raise NotSupported(f"{IN_USE}: {wanted}")
        return wanted

    def _numbered(self, entry: Entry) -> Entry:
        """Give an entry of a file the number that it is to have."""
        number = self._number(entry.rule.number)
        return replace(entry, rule=entry.rule._replace(number=number))

    def _rule(self, command: Command, number: int, wanted: Wanted) -> Rule:
        verdict, match = wanted
        return Rule(number, verdict, *encode(match, command.args.direction))

    def _entry(self, command: Command, number: int, wanted: Wanted) -> Entry:
        rule = self._rule(command, number, wanted)
        window = (command.start_time, command.stop_time)
        return Entry(rule, command.key, command.args.persistent, command.producer, *window)

    def _permit(self, wanted: frozenset[Permit]) -> None:
        self._guard = replace(self._guard, permits=wanted, resolvers=resolvers.in_use())
        self._rules.permit(wanted, self._guard.endpoints)

    def _look(self) -> None:
        """See what this host is called now: the daemon starts before there is a network."""
        self._here = Here.look()
        local = tuple(ip_network(address) for address in sorted(self._here.addresses))
        self._guard = Guard(self.config.never_block, local, self._linked, resolvers.in_use())


def _stays_open(names: Collection[str]) -> list[str]:
    """Word what of the denied is not reached (AMB-57)."""
    return [f"stays open: {', '.join(names)}"] if names else []
