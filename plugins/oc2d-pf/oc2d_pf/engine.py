"""slpf's engine as pf uses it: rules are put in by place and key, and taken out by key."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import TypeAlias

import structlog

from oc2d.actuator import Command, Context, Response
from oc2d.errors import Failed, NotSupported, Refusal
from oc2d.language.values import DomainName
from oc2d.language.vocabulary import Action
from oc2d_pf import language
from oc2d_pf.language import NOT_IMPLEMENTED, NOT_REMOVED, EngineArgs
from oc2d_pf.store import Row, StoreError
from oc2d_slpf import Slpf
from oc2d_slpf.backend import BackendError
from oc2d_slpf.language import OPTION
from oc2d_slpf.rules import Logged, Match, Rule, Verdict
from oc2d_slpf.specifiers import Specifiers

__all__ = ["Asked", "Engine"]

_log = structlog.get_logger("oc2d.pf")

Address: TypeAlias = IPv4Address | IPv6Address
#: A command of slpf.
Asked: TypeAlias = Command

_BEGINS = "open connections that nothing tracked yet count as opened by whoever sends next"
_MOST_LOGGED = 200
_NO_LOG = "this host keeps no log of packets (log_group)"


class Engine(Slpf):
    """An `Slpf` that nobody commands but pf."""

    def start(self, context: Context) -> None:
        """Begin as slpf does; pf gives all numbers."""
        super().start(context)
        with self._rules.store.transaction():
            self._rules.store.give_none()

    def is_empty(self) -> bool:
        """Tell whether there is no rule."""
        return not self._rules.store.first(1)

    def foreign(self, action: str, addresses: Sequence[Address]) -> list[str]:
        """Leave this host's own out of a deny: whoever owns the name could cut it off (PF-24)."""
        own = self._here.addresses if action == Action.DENY.value else ()
        return [text for text in map(str, addresses) if text not in own]

    def ask(self, commands: Sequence[Asked]) -> Sequence[Response | Refusal]:
        """Carry out commands in one transaction."""
        return self.execute_many(commands) if commands else []

    def rules(self, row: Row, place: int, command: Command) -> list[Asked]:
        """Return the commands that put a rule of pf in force, one for each of its slots."""
        targets = dict(enumerate(language.engine_targets(command)))
        begins = command.args.stateful and not self._rules.firewall.tiers.tracked
        notes = (_BEGINS,) if begins else ()
        made = []
        for slot, (key, address) in row.slots.items():
            name, target = language.host_target(ip_address(address)) if address else targets[slot]
            number = language.engine_number(place, slot)
            plain = replace(command, specifiers=Specifiers(), reserved=None, notes=notes)
            args = language.engine_args(command.args, number, row.number)
            made.append(replace(plain, key=key, target_name=name, target=target, args=args))
        return made

    def put_in(self, row: Row, place: int, slots: Mapping[int, tuple[str, str]]) -> set[int]:
        """Put addresses of a name in force; return the slots that are refused.

        Raises `Failed` when the packet filter does not take them.
        """
        args = language.read_args(row.args)
        target = DomainName(row.target)
        command = Command(row.key, row.producer, Action(row.action), row.target_name, target, args)
        asked = self.rules(replace(row, slots=slots), place, command)
        refused = set()
        for slot, answer in zip(slots, self.ask(asked), strict=True):
            if isinstance(answer, Failed):
                raise answer
            if isinstance(answer, Refusal):
                refused.add(slot)
        return refused

    def _rule(self, command: Command, number: int, wanted: tuple[Verdict, Match]) -> Rule:
        """Make the rule of a command; raises `NotSupported` where the host cannot do it."""
        rule = super()._rule(command, number, wanted)
        args: EngineArgs = command.args
        if args.stateful:
            if not self._rules.firewall.can_track():
                raise NotSupported(f"{OPTION}: stateful; this host tracks no connections")
            rule = rule._replace(shape=rule.shape._replace(tracked=True))
        if args.logged is not None:
            if not self._rules.firewall.can_log():
                raise NotSupported(f"{OPTION}: logged; {_NO_LOG}")
            logged = self._rules.firewall.tiers.logged
            if args.logged not in logged and len(logged) >= _MOST_LOGGED:
                raise NotSupported(f"{OPTION}: logged; {_MOST_LOGGED} rules are logged already")
            rule = rule._replace(verdict=Logged(wanted[0], args.logged))
        return rule

    def present(self, slots: Mapping[int, tuple[str, str]]) -> dict[int, tuple[str, str]]:
        """Return the slots whose rules are there; raises `StoreError`."""
        store = self._rules.store
        with store.transaction():  # what one wrote that failed is not there
            return {n: slot for n, slot in slots.items() if store.by_key(slot[0]) is not None}

    def move(self, numbers: Mapping[str, int]) -> None:
        """Give the rules of these keys other numbers that leave the order as it is.

        What is so already costs nothing. Raises `Failed`.
        """
        try:
            with self._rules.changing():
                self._rules.renumber(numbers)
        except (StoreError, BackendError) as error:
            self._rules.take_back()
            _log.error("pf_not_moved", error=str(error))
            text = "the packet filter did not make room for it"
            raise Failed(f"{NOT_IMPLEMENTED}: {text}") from error
        except BaseException:
            self._rules.take_back()
            raise

    def withdraw(self, slots: Mapping[int, tuple[str, str]]) -> None:
        """Take out what these keys put in, as far as it is there; raises `Failed`.

        Nothing is remembered of the keys: whoever uses one again means it.
        """
        try:
            there = self.present(slots)
            if not there:  # nor is the packet filter asked, which may refuse anything
                return
            with self._rules.changing() as store:
                for key, _ in there.values():
                    if found := store.by_key(key):
                        self._rules.remove(found)
                    store.unsay(key)
        except (StoreError, BackendError) as error:
            self._rules.take_back()
            _log.error("pf_not_withdrawn", error=str(error))
            text = "the packet filter or the disk refused the change"
            raise Failed(f"{NOT_REMOVED}: {text}") from error
        except BaseException:
            self._rules.take_back()
            raise
