"""The nftables back end: the table `inet oc2d` held and changed by one netlink socket.

No other table is read or written. Where the kernel has it (6.9 and later), the table carries the
flags owner and persist: only our socket may change it, a flush by others passes it by, and it
outlives us as an orphan that the next start adopts. `owner` is never used without `persist`: the
rules would vanish with the process. Elsewhere a thread listens for what others do to the table.
"""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Callable, Iterable, Iterator, Sequence

from oc2d.errors import StateError
from oc2d_slpf import comparison, management, objects
from oc2d_slpf.backend import BackendError, Full, Step
from oc2d_slpf.connection import Connection
from oc2d_slpf.netlink import Message, Netlink, NetlinkError, attributes
from oc2d_slpf.operations import DropTier, Fill, MakeRanks
from oc2d_slpf.rules import Network, Verdict
from oc2d_slpf.ruleset import render
from oc2d_slpf.watch import Watch

__all__ = ["Nftables"]

# NFT_MSG_GET*
GETTABLE, GETCHAIN, GETSET = 1, 4, 10
NFT_TABLE_F_OWNER, NFT_TABLE_F_PERSIST = 2, 4
_HELD = NFT_TABLE_F_OWNER | NFT_TABLE_F_PERSIST


class Nftables:
    """Rules by raw netlink; `never_block` are collapsed networks of both families.

    `owner` False does without the owner flag even where the kernel has it.
    """

    ranked = True

    def __init__(self, never_block: Sequence[Network] = (), *, owner: bool = True) -> None:
        self._never_block = never_block
        self._flags = _HELD if owner else 0
        self._connection = Connection()
        self._decoys: set[int] = set()
        self._comparing = False  # the maps that ranked sets need are there

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
        try:
            self._socket.transact(list(management.decoy(on=True)), try_only=True)
        except NetlinkError:
            return False
        return True

    def replace(self, steps: Iterable[Step]) -> None:
        """Make the table consist of this: no packet passes between the old rules and the new.

        Base chains that are there stay. A table deleted and made anew within one transaction
        would let a packet pass that is in the one before the switch and in the other after it.
        """
        steps = list(steps)
        decoys = _decoys(set(), steps)
        comparing = _compare(steps)
        messages = [*management.base(self._never_block)]
        if comparing:
            messages += comparison.base()
        messages += render(steps)
        if decoys:
            messages += management.decoy(on=True)
        with _told(), self._connection.unwatched(lambda: self._socket.transactions):
            self._socket.transact([*self._cleared(), *messages])
        self._decoys, self._comparing = decoys, comparing

    def apply(self, steps: Sequence[Step]) -> None:
        """Make one transaction of the steps; none: the kernel is not even called."""
        decoys = _decoys(self._decoys, steps)
        comparing = self._comparing or _compare(steps)
        messages = [] if comparing == self._comparing else [*comparison.base()]
        messages += render(steps)
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

    # -- the table as it is

    def _try(self) -> None:
        self._socket.transact([*self._cleared(), *management.base(())], try_only=True)

    @property
    def _socket(self) -> Netlink:
        return self._connection.netlink

    def _cleared(self) -> Iterator[Message]:
        """Bring the table to where only the base chains are, empty, whatever is there now."""
        flags = self._found_flags()
        chains = self._found_chains()
        ours = flags is not None and flags | self._flags & NFT_TABLE_F_OWNER == self._flags
        if flags is not None and not (ours and all(map(chains.get, objects.HOOKS))):
            # base chains cannot be added in one transaction with adopting the table
            yield objects.delete_table()
            ours = False
        yield objects.table(self._flags)
        if ours:
            yield objects.flush()
            yield from map(objects.delete_set, self._found_sets())
            yield from (objects.delete_chain(name) for name in chains if name not in objects.HOOKS)
        else:
            yield from map(objects.base_chain, objects.HOOKS)

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
    wanted = objects.HOOKS.get(_text(found[3]))
    return (
        wanted is not None
        and hook.get(1) == wanted.to_bytes(4, "big")
        and hook.get(2) == (objects.PRIORITY & 0xFFFFFFFF).to_bytes(4, "big")
        and found.get(5) == (1).to_bytes(4, "big")  # NF_ACCEPT
        and _text(found.get(7, b"")) == "filter"
    )


def _compare(steps: Iterable[Step]) -> bool:
    return any(isinstance(step, MakeRanks) for step in steps)


def _decoys(before: set[int], steps: Iterable[Step]) -> set[int]:
    """Return the tiers of false_ack after these steps."""
    found = set(before)
    for step in steps:
        if isinstance(step, Fill) and step.verdict is Verdict.FALSE_ACK:
            found.add(step.tier)
        elif isinstance(step, DropTier):
            found.discard(step.tier)
    return found
