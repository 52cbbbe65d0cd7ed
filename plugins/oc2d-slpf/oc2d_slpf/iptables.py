"""The iptables back end: chains of our own in the table filter, for IPv4 and for IPv6.

The programs are those of the nf_tables variant, where one call of iptables-restore is one
transaction of the kernel. The names of our chains begin with `oc2d-` and a letter: to replace
everything, those of a letter that nothing calls are made and the first rule of INPUT, FORWARD and
OUTPUT is exchanged, in one call. The ones before are removed when both families have the new ones:
until then there is a way back. Rules of others are neither read nor written, but for those first
rules.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from string import ascii_lowercase

import structlog

from oc2d.errors import StateError
from oc2d_slpf.backend import BackendError, Step
from oc2d_slpf.connection import Connection
from oc2d_slpf.iptables_guard import Guarded
from oc2d_slpf.iptables_rules import HOOKS, Chains, Held
from oc2d_slpf.iptables_tools import Family, families
from oc2d_slpf.iptables_watch import IptablesWatch
from oc2d_slpf.rules import Network, Verdict

__all__ = ["Iptables"]

_log = structlog.get_logger("oc2d.slpf")
_PREFIXES = tuple(f"oc2d-{letter}-" for letter in ascii_lowercase)

#: The lines for each family, in the order in which they are to be called.
Lines = Mapping[Family, Sequence[str]]


class Iptables:
    """Rules by iptables-restore; `never_block` are collapsed networks of both families.

    `path` is where to look for the programs instead of PATH.
    """

    ranked = False

    def __init__(self, never_block: Sequence[Network] = (), *, path: str | None = None) -> None:
        self._never_block = tuple(never_block)
        self._path = path
        self._families: tuple[Family, ...] = ()
        self._held = Held()
        self._prefix = _PREFIXES[0]
        self._connection = Connection()
        self._calls = 0  # that changed something

    def check(self) -> None:
        """Find the programs and have them read the rules; nothing is changed."""
        found = families(self._path)
        try:
            self._connection.open()
            for family in found:
                family.change(self._chains(family, self._prefix).whole(Held()), try_only=True)
        except (OSError, BackendError) as error:
            self.close()
            raise StateError(
                f"cannot use iptables: {error}; give CAP_NET_ADMIN as an ambient capability"
                " (systemd: AmbientCapabilities), so that what the daemon starts has it too"
            ) from None
        self._families = found

    def can(self, verdict: Verdict) -> bool:
        """Tell whether rules of this verdict can be put in force: false_ack cannot."""
        return verdict is not Verdict.FALSE_ACK

    def can_track(self) -> bool:
        """Tell that there are no rules about connections here."""
        return False

    def can_log(self) -> bool:
        """Tell that nothing is logged here."""
        return False

    def replace(self, steps: Iterable[Step]) -> None:
        """Make our chains consist of this: no packet passes between the old rules and the new."""
        held = Held().changed(steps)
        with self._unwatched():
            found = {family: family.found() for family in self._opened}
            # what is called now is needed for the way back, even if it is of several letters
            called = tuple(chain for there in found.values() for _, chain in there.jumps)
            prefix = next((one for one in _PREFIXES if not _begin(called, one)), _PREFIXES[-1])
            there, back, rest = {}, {}, {}
            for family, before in found.items():
                chains = self._chains(family, prefix)
                names = chains.names(held)
                calls = _calls(prefix)
                stale = [name for name in before.chains if name.startswith(prefix)]
                there[family] = [
                    *(f"-F {name}" for name in stale),
                    *chains.whole(held),
                    *_switched(before.jumps, calls),
                    *(f"-X {name}" for name in stale if name not in names),
                ]
                back[family] = [*_switched(calls, before.jumps), *_removed(names)]
                rest[family] = _removed([name for name in before.chains if name not in stale])
            self._both(there, back)
            self._held, self._prefix = held, prefix
            self._tidy(rest)

    def apply(self, steps: Sequence[Step]) -> None:
        """Make one call of the steps for each family that they concern."""
        held = self._held.changed(steps)
        there, back = {}, {}
        for family in self._opened:
            chains = self._chains(family, self._prefix)
            if lines := chains.edits(self._held, held):
                there[family] = lines
                back[family] = chains.edits(held, self._held)
        with self._unwatched():
            self._both(there, back)
        self._held = held

    def remove(self) -> None:
        """Remove our chains, those of other runs too; they need not be there."""
        with self._unwatched():
            problems = []
            for family in self._opened:
                try:
                    found = family.found()
                    if found.chains:
                        self._change(family, [*_switched(found.jumps, ()), *_removed(found.chains)])
                except BackendError as error:
                    problems.append(str(error))
            if problems:
                raise BackendError("; ".join(problems))

    def watch(self, changed: Callable[[], None]) -> None:
        """Call `changed`, on a thread of its own, when others changed or got ahead of our rules."""
        self._connection.watch(
            lambda port, changed: IptablesWatch(port, self._displaced, changed), changed
        )

    def close(self) -> None:
        """Let go of the rules, which stay; harmless when repeated."""
        self._connection.close()
        self._families = ()

    # -- one change, two families

    @property
    def _opened(self) -> tuple[Family, ...]:
        if not self._families:
            raise BackendError("iptables was not looked for")
        return self._families

    def _unwatched(self) -> AbstractContextManager[None]:
        return self._connection.unwatched(lambda: self._calls)

    def _chains(self, family: Family, prefix: str) -> Chains:
        return Chains(Guarded(family.version, self._never_block), prefix)

    def _both(self, there: Lines, back: Lines) -> None:
        """Change the families one after the other; if the second refuses, bring the first back.

        Raises `BackendError`, which says what is in force.
        """
        done: list[Family] = []
        for family, lines in there.items():
            try:
                self._change(family, lines)
            except BackendError as error:
                raise BackendError(f"{error} ({self._taken_back(done, back)})") from error
            done.append(family)

    def _taken_back(self, done: Sequence[Family], back: Lines) -> str:
        for family in done:
            try:
                self._change(family, back[family])
            except BackendError as error:
                return (
                    f"in force are the new rules for IPv{family.version} and the old ones for the"
                    f" other family: {error}"
                )
        return "the rules before are in force"

    def _change(self, family: Family, lines: Sequence[str]) -> None:
        family.change(lines)
        self._calls += 1

    def _tidy(self, rest: Lines) -> None:
        """Remove what is not in use any more; what stays is harmless and goes the next time."""
        for family, lines in rest.items():
            if lines:
                try:
                    self._change(family, lines)
                except BackendError as error:
                    _log.warning("slpf_chains_left", error=str(error))

    # -- others

    def _displaced(self, version: int) -> bool:
        """Tell whether a packet meets anything ahead of our rules."""
        (family,) = (family for family in self._families if family.version == version)
        wanted = {f"-A {hook} -j {chain}" for hook, chain in _calls(self._prefix)}
        try:
            return {family.first(hook) for hook in HOOKS} != wanted
        except BackendError:
            return True


def _begin(chains: Iterable[str], prefix: str) -> bool:
    return any(chain.startswith(prefix) for chain in chains)


def _calls(prefix: str) -> tuple[tuple[str, str], ...]:
    return tuple((hook, prefix + name) for hook, name in HOOKS.items())


def _switched(before: Iterable[tuple[str, str]], after: Iterable[tuple[str, str]]) -> list[str]:
    # in this order: -D takes the first that is equal, which might be the new one
    deleted = [f"-D {hook} -j {chain}" for hook, chain in before]
    return deleted + [f"-I {hook} -j {chain}" for hook, chain in reversed(tuple(after))]


def _removed(chains: Iterable[str]) -> list[str]:
    return [f"{verb} {name}" for verb in ("-F", "-X") for name in chains]
