"""The nftables back end: the table `inet oc2d` held and changed by one netlink socket.

No other table is read or written. Where the kernel has it (6.9 and later), the table carries the
flags owner and persist: only our socket may change it, a flush by others passes it by, and it
outlives us as an orphan that the next start adopts. `owner` is never used without `persist`: the
rules would vanish with the process. Elsewhere a thread listens for what others do to the table.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from oc2d.errors import StateError
from oc2d_slpf import comparison, management, objects
from oc2d_slpf.backend import BackendError, Full, Step
from oc2d_slpf.connection import Connection
from oc2d_slpf.expressions import ACCEPT, Ct, ct, log
from oc2d_slpf.netlink import Message, Netlink, NetlinkError, attributes
from oc2d_slpf.operations import DropTier, Fill, MakeRanks
from oc2d_slpf.rules import Network, Verdict, bare
from oc2d_slpf.ruleset import render
from oc2d_slpf.watch import Watch

__all__ = ["Nftables"]

# NFT_MSG_GET*
GETTABLE, GETCHAIN, GETSET = 1, 4, 10
NFT_TABLE_F_OWNER, NFT_TABLE_F_PERSIST = 2, 4
_HELD = NFT_TABLE_F_OWNER | NFT_TABLE_F_PERSIST
_NAMESPACE = Path("/proc/thread-self/ns/net")
#: The network namespaces in which this process has the table without the owner flag.
_held_here: set[int] = set()
# only the first network namespace has it, and only what passes there gets into the kernel's log
_KERNEL_LOG = Path("/proc/sys/net/netfilter/nf_log_all_netns")


class Nftables:
    """Rules by raw netlink; `never_block` are collapsed networks of both families.

    `owner` False does without the owner flag even where the kernel has it.
    """

    ranked = True

    def __init__(
        self,
        never_block: Sequence[Network] = (),
        *,
        owner: bool = True,
        log_group: int | None = None,
    ) -> None:
        self._never_block = never_block
        self._log_group = log_group
        self._flags = _HELD if owner else 0
        self._connection = Connection()
        self._namespace: int | None = None  # where it has the table without the owner flag
        self._takes_them: set[tuple[Message, ...]] = set()
        self._decoys: set[int] = set()
        self._comparing = False  # the maps that ranked sets need are there
        self._tracking = False  # the lists are behind connection tracking

    def check(self) -> None:
        """Open the socket and have the kernel try, without changing anything, what we need."""
        try:
            self._connection.open()
            try:
                self._try()
            except NetlinkError as error:
                if error.errno != errno.EOPNOTSUPP or not self._flags:
                    raise
                self._flags = 0
                self._try()
            if not self._flags:
                self._be_alone()
        except OSError as error:
            self.close()
            raise StateError(
                f"cannot use nf_tables: {error.strerror}; give CAP_NET_ADMIN, on a kernel that has"
                " nf_tables, and see that no other oc2d holds the table inet oc2d"
            ) from None

    def can(self, verdict: Verdict) -> bool:
        """Tell whether rules of this verdict can be put in force: false_ack needs synproxy."""
        if verdict is not Verdict.FALSE_ACK:
            return True
        return self._takes(management.decoy(on=True))

    def can_track(self) -> bool:
        """Tell whether the kernel has connection tracking, which a rule of ours would begin."""
        return self._tracking or self._takes([objects.rule("decoy", ct(Ct.SRC_IP) + ACCEPT)])

    def can_log(self) -> bool:
        """Tell whether what the kernel logs arrives: its own log is of the first namespace only."""
        if self._log_group is None and not _KERNEL_LOG.exists():
            return False
        return self._takes([objects.rule("decoy", log("", self._log_group, 0))])

    def _takes(self, messages: Iterable[Message]) -> bool:
        """Have the kernel try, until it can: each time takes it 30 ms to undo."""
        if (tried := tuple(messages)) not in self._takes_them:
            try:
                self._socket.transact(tried, try_only=True)
            except NetlinkError:
                return False
            self._takes_them.add(tried)
        return True

    def replace(self, steps: Iterable[Step]) -> None:
        """Make the table consist of this: no packet passes between the old rules and the new.

        Base chains that are there stay. A table deleted and made anew within one transaction
        would let a packet pass that is in the one before the switch and in the other after it.
        """
        steps = list(steps)
        decoys = _decoys(set(), steps)
        comparing = _compare(steps)
        tracking = _track(steps)
        with _told(), self._connection.unwatched(lambda: self._socket.transactions):
            chains = self._found_chains()
            # each packet is judged at one of the places at least, whenever it passes
            both = tracking or any(map(chains.__contains__, objects.TRACKED))
            messages = [*management.base(self._never_block, early=not tracking, tracked=both)]
            if comparing:
                messages += comparison.base()
            messages += render(steps, self._log_group)
            if decoys:
                messages += management.decoy(on=True)
            self._socket.transact([*self._cleared(chains, tracked=both), *messages])
            if both and not tracking:
                self._socket.transact([*map(objects.delete_chain, objects.TRACKED)])
        self._decoys, self._comparing, self._tracking = decoys, comparing, tracking

    def apply(self, steps: Sequence[Step]) -> None:
        """Make one transaction of the steps; none: the kernel is not even called.

        Once the lists are behind connection tracking they stay there until `replace`.
        """
        if not self._tracking and _track(steps):
            raise Full("rules about connections begin, behind connection tracking")
        decoys = _decoys(self._decoys, steps)
        comparing = self._comparing or _compare(steps)
        messages = [] if comparing == self._comparing else [*comparison.base()]
        messages += render(steps, self._log_group)
        if bool(decoys) != bool(self._decoys):
            messages += management.decoy(on=bool(decoys))
        if messages:
            with _told():
                self._socket.transact(messages)
        self._decoys, self._comparing = decoys, comparing

    def remove(self) -> None:
        """Remove our table; it need not be there."""
        with _told():
            if self._found_flags() is not None:
                self._socket.transact([objects.delete_table()])

    def watch(self, changed: Callable[[], None]) -> None:
        """Call `changed`, on a thread of its own, when others changed the table.

        With the owner flag nobody can, so nothing listens.
        """
        if not self._flags:
            self._connection.watch(
                lambda port, changed: Watch(port, objects.TABLE, changed), changed
            )

    def close(self) -> None:
        """Let go of the table, which stays; harmless when repeated."""
        self._connection.close()
        if self._namespace is not None:
            _held_here.discard(self._namespace)
            self._namespace = None

    # -- the table as it is

    def _be_alone(self) -> None:
        """Refuse, as the owner flag does, a second profile of this daemon: slpf beside pf."""
        namespace = _NAMESPACE.stat().st_ino
        if self._namespace is None and namespace in _held_here:
            raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))
        _held_here.add(namespace)
        self._namespace = namespace

    def _try(self) -> None:
        cleared = self._cleared(self._found_chains(), tracked=False)
        self._socket.transact([*cleared, *management.base(())], try_only=True)

    @property
    def _socket(self) -> Netlink:
        return self._connection.netlink

    def _cleared(self, chains: Mapping[str, bool], *, tracked: bool) -> Iterator[Message]:
        """Bring the table to where only the base chains are, empty, whatever is there now."""
        flags = self._found_flags()
        wanted = [name for name in objects.HOOKS if tracked or name in objects.EARLY]
        missing = [name for name in wanted if name not in chains]
        ours = flags is not None and flags | self._flags & NFT_TABLE_F_OWNER == self._flags
        fit = all(chains.get(name, True) for name in objects.HOOKS)
        # base chains cannot be added in one transaction with adopting the table
        if flags is not None and not (ours and fit and (not missing or flags == self._flags)):
            yield objects.delete_table()
            ours = False
        yield objects.table(self._flags)
        if ours:
            yield objects.flush()
            yield from map(objects.delete_set, self._found_sets())
            yield from (objects.delete_chain(name) for name in chains if name not in objects.HOOKS)
            yield from map(objects.base_chain, missing)
        else:
            yield from map(objects.base_chain, wanted)

    def _found_flags(self) -> int | None:
        """Return NFTA_TABLE_FLAGS; an orphan has lost its owner's. None: there is no table."""
        for found in self._socket.dump(GETTABLE):
            if _text(found[1]) == objects.TABLE:
                return int.from_bytes(found[2], "big")
        return None

    def _found_chains(self) -> dict[str, bool]:
        """Return the chains, and of each whether it is as a base chain of ours should be."""
        return {
            _text(found[3]): _is_base(found)
            for found in self._socket.dump(GETCHAIN)
            if _text(found[1]) == objects.TABLE
        }

    def _found_sets(self) -> list[str]:
        return [
            _text(found[2])
            for found in self._socket.dump(GETSET)
            if _text(found[1]) == objects.TABLE
        ]


@contextlib.contextmanager
def _told() -> Iterator[None]:
    """Say of what the kernel refuses that the packet filter refused it."""
    try:
        yield
    except NetlinkError as error:
        if error.errno == errno.ENFILE:
            raise Full("a set of nf_tables is full") from error
        raise BackendError(f"nf_tables: {error}") from error


def _text(value: bytes) -> str:
    return value.rstrip(b"\0").decode(errors="replace")


def _is_base(found: dict[int, bytes]) -> bool:
    """Compare NFTA_CHAIN_HOOK (HOOKNUM, PRIORITY), _POLICY and _TYPE with what ours should be."""
    hook = dict(attributes(found.get(4, b"")))
    number, priority = objects.HOOKS.get(_text(found[3]), (0, 0))
    return (
        hook.get(1) == number.to_bytes(4, "big")
        and hook.get(2) == (priority & 0xFFFFFFFF).to_bytes(4, "big")
        and found.get(5) == (1).to_bytes(4, "big")  # NF_ACCEPT
        and _text(found.get(7, b"")) == "filter"
    )


def _compare(steps: Iterable[Step]) -> bool:
    return any(isinstance(step, MakeRanks) for step in steps)


def _track(steps: Iterable[Step]) -> bool:
    return any(
        isinstance(step, Fill) and any(shape.tracked for shape in step.shapes) for step in steps
    )


def _decoys(before: set[int], steps: Iterable[Step]) -> set[int]:
    """Return the tiers of false_ack after these steps."""
    found = set(before)
    for step in steps:
        if isinstance(step, Fill) and bare(step.verdict) is Verdict.FALSE_ACK:
            found.add(step.tier)
        elif isinstance(step, DropTier):
            found.discard(step.tier)
    return found
