"""The tiers in memory and the packet filter, kept the same."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable

import structlog

from oc2d_slpf.backend import Backend, BackendError, Full, Permit, Step, Unpermit
from oc2d_slpf.operations import Change
from oc2d_slpf.rules import Alike, Verdict
from oc2d_slpf.tiers import Tiers

__all__ = ["Firewall"]

_log = structlog.get_logger("oc2d.slpf")


class Firewall:
    """What is in force. Edit `tiers` with a `Change`, then `commit` it."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._doubtful = True  # the filter may hold something else than we think
        self.tiers = Tiers()
        self.permits: frozenset[Permit] = frozenset()
        self.refusals = 0
        """Changes that the packet filter refused, ever."""

    def check(self) -> None:
        """Raise `StateError` when the filter cannot be used here; changes nothing."""
        self._backend.check()

    def can(self, verdict: Verdict) -> bool:
        """Tell whether rules of this verdict can be put in force here."""
        return self._backend.can(verdict)

    def can_track(self) -> bool:
        """Tell whether rules about connections can be put in force here."""
        return self._backend.can_track()

    def can_log(self) -> bool:
        """Tell whether packets can be logged here."""
        return self._backend.can_log()

    def load(self, rules: Iterable[Alike], permits: Collection[Permit]) -> None:
        """Replace whatever is there by these, at once. Raises `BackendError`."""
        self.tiers = Tiers(groups=rules, ranked=self._backend.ranked)
        self.permits = frozenset(permits)
        self._replace()

    def expect(self, rules: Iterable[Alike]) -> None:
        """Go back to these rules after a failure; the next commit loads them."""
        self.tiers = Tiers(groups=rules, ranked=self._backend.ranked)
        self._doubtful = True

    def commit(self, change: Change) -> None:
        """Put in force what was done to `tiers`. Raises `BackendError`; then `expect` is next."""
        self._apply([*change.operations(self.tiers)])

    def permit(self, permits: Collection[Permit]) -> None:
        """Keep exactly these ways open, from one moment to the next. Raises `BackendError`."""
        wanted = frozenset(permits)
        steps: list[Step] = [*(wanted - self.permits)]
        steps += [Unpermit(permit) for permit in self.permits - wanted]
        self.permits = wanted
        self._apply(steps)

    def watch(self, changed: Callable[[], None]) -> None:
        """Call `changed`, on any thread, when others changed what is in force."""
        self._backend.watch(changed)

    def repair(self) -> None:
        """Put everything in force once more. Raises `BackendError`."""
        self._replace()

    def close(self) -> None:
        """Let go of the packet filter; what is in force stays."""
        self._doubtful = True
        self._backend.close()

    def remove(self) -> None:
        """Leave nothing of ours behind. Raises `BackendError`."""
        self._doubtful = True
        self._backend.remove()

    def _apply(self, steps: list[Step]) -> None:
        if not self._doubtful:
            if not steps:
                return
            try:
                self._backend.apply(steps)
            except Full as error:
                _log.info("slpf_made_anew", reason=str(error))
            except BackendError as error:
                self.refusals += 1
                # most likely somebody else flushed or changed our table: load it as it should be
                _log.warning("slpf_change_refused", error=str(error))
            else:
                return
        self._replace()

    def _replace(self) -> None:
        self._doubtful = True
        try:
            self._backend.replace([*self.permits, *self.tiers.operations()])
        except BackendError:
            self.refusals += 1
            raise
        self._doubtful = False
