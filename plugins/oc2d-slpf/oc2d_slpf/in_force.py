"""The rules on disk, in memory and in the packet filter: changed together, and kept the same."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import closing, contextmanager

import structlog

from oc2d.actuator import Context
from oc2d.errors import StateError
from oc2d_slpf.backend import Backend, BackendError, Permit
from oc2d_slpf.firewall import Firewall
from oc2d_slpf.operations import Change
from oc2d_slpf.rules import Rule, alike
from oc2d_slpf.store import Entry, Store, StoreError

__all__ = ["InForce"]

_log = structlog.get_logger("oc2d.slpf")


class InForce:
    """Rules that outlive the process. Raises `StoreError` and `BackendError` of what fails."""

    def __init__(self, backend: Backend) -> None:
        self.firewall = Firewall(backend)
        self.loaded = False
        """Whether the rules of the store are in the packet filter."""
        self._opened: Store | None = None
        self._change = Change()
        self._astray = False  # the tiers in memory are not those of the store

    @property
    def store(self) -> Store:
        """The rules on disk; raises `StateError` when they are not open."""
        if self._opened is None:
            raise StateError("slpf is not started")
        return self._opened

    def open(self, context: Context) -> None:
        """See that the packet filter can be used and open the store. Raises `StateError`."""
        self.firewall.check()
        store = Store(context.state_directory, context.runtime_directory, context.boot_id)
        self._opened = store
        if store.repaired:
            _log.error(
                "slpf_store_damaged",
                reason=store.repaired,
                kept=sum(len(group.numbers) for group in store.rules()),
                set_aside=store.damaged[-1],
            )

    def restore(self, ended: Collection[str], permits: Collection[Permit]) -> None:
        """Put the rules of the store in force, without those of the commands that have ended."""
        with self.store.transaction():
            self.store.forget(ended)
        self.firewall.load(self.store.rules(), permits)
        self.loaded = True

    def succeed(self, name: str, make: Callable[[str], Backend]) -> None:
        """Remove what another back end has of the rules, now that the one of this name has them."""
        noted = self.store.backends()
        if noted == {name}:
            return
        try:
            # both, until the other one has nothing left, whichever the next start is told to use
            self._note({*noted, name})
            for one in noted - {name}:
                with closing(make(one)) as old:
                    old.check()
                    old.remove()
            self._note({name})
        except (StateError, BackendError, StoreError) as error:
            # the rules are in force all the same; the next start tries again
            _log.error("slpf_not_removed", backends=sorted(noted), error=str(error))

    def _note(self, backends: Collection[str]) -> None:
        with self.store.transaction():
            self.store.keep_backends(backends)

    def close(self, *, remove: bool) -> None:
        """Close the store; what is in force stays, or is removed."""
        if self.loaded and remove:
            try:
                self.firewall.remove()
            except BackendError as error:
                _log.error("slpf_not_removed", error=str(error))
        self.loaded = False
        self.firewall.close()
        if self._opened is not None:
            self._opened.close()
            self._opened = None

    # -- changing

    @contextmanager
    def changing(self) -> Iterator[Store]:
        """Change all of it: the store is committed when the packet filter took what was done.

        After a failure `take_back` is next.
        """
        self._realign()
        with self.store.transaction():
            self._change = Change()
            yield self.store
            self.store.write()
            self.firewall.commit(self._change)

    def add(self, entry: Entry) -> None:
        """Put a rule in, within a change."""
        self.store.add(entry)
        self.firewall.tiers.add(entry.rule, self._change)

    def remove(self, entry: Entry) -> None:
        """Take a rule or a reservation out, within a change."""
        self.store.remove(entry)
        if not entry.reserved:
            self.firewall.tiers.remove(entry.rule, self._change)

    def exchange(self, entries: Iterable[Entry]) -> None:
        """Have these rules and no others, within a change; reservations stay."""
        self.store.clear()
        rules: list[Rule] = []
        for entry in entries:
            self.store.add(entry)
            rules.append(entry.rule)
        self.firewall.expect(alike(rules))

    def renumber(self, numbers: Mapping[str, int]) -> None:
        """Give the rules of these keys other numbers, within a change: all of it is made anew.

        In order they stay as they are.
        """
        if (rules := self.store.renumber(numbers)) is not None:
            self.firewall.expect(rules)

    def take_back(self) -> bool:
        """After a failure: back to what the store has; tell whether that is in force.

        If it is not, the next change begins with it.
        """
        self._astray = True
        try:
            self._realign()
            self.firewall.commit(Change())
        except (StoreError, BackendError) as error:
            _log.error("slpf_not_recovered", error=str(error))
            return False
        return True

    def permit(self, wanted: frozenset[Permit], endpoints: frozenset[Permit]) -> None:
        """Keep the way to the endpoints open, and remember those that are wanted."""
        try:
            self._realign()
            if self.loaded:
                self.firewall.permit(endpoints)
            if wanted != self.store.permits():
                with self.store.transaction():
                    self.store.keep_permits(wanted)
        except (StoreError, BackendError) as error:
            # the link may work all the same; the next attempt to connect tries again
            _log.error("slpf_endpoints_not_kept", error=str(error))

    def repair(self) -> None:
        """Undo what others did to what is in force."""
        if not self.loaded:
            return
        try:
            self._realign()
            self.firewall.repair()
        except (StoreError, BackendError) as error:
            _log.error("slpf_not_repaired", error=str(error))
        else:
            _log.warning("slpf_repaired", detail="others had changed or removed the table")

    def _realign(self) -> None:
        """See that the tiers in memory are those of the store."""
        if self._astray:
            self.firewall.expect(self.store.rules())
            self._astray = False
