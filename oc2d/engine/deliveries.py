"""Deliveries that wait to be judged, in order of arrival: each ends with an acknowledgement."""

from __future__ import annotations

import sqlite3
from collections import deque
from collections.abc import Sequence
from functools import partial
from itertools import islice

import structlog

from oc2d.engine import events
from oc2d.engine.answers import Handles
from oc2d.engine.case import Batch
from oc2d.engine.cases import Cases
from oc2d.engine.clock import Forgetting
from oc2d.engine.intake import Gate
from oc2d.engine.journal import Journal
from oc2d.engine.ports import Inbound, Token
from oc2d.engine.reader import Read

__all__ = ["Deliveries", "is_shortage"]

_log = structlog.get_logger("oc2d.engine")
_EXPIRE_AT_ONCE = 64
_READ_AT_ONCE = 64
# Not the disk's fault, but that of what was to be written: it will not get better.
_OURS = (
    sqlite3.IntegrityError,
    sqlite3.InterfaceError,
    sqlite3.ProgrammingError,
    sqlite3.DataError,
)


def is_shortage(error: Exception) -> bool:
    """Tell whether the journal may take it later, when there is room on the disk or in memory."""
    if isinstance(error, MemoryError):
        return True
    return isinstance(error, sqlite3.Error) and not isinstance(error, _OURS)


class Deliveries:
    """On the engine's thread; what a transaction that fails has taken out is put back by `undo`."""

    def __init__(
        self, cases: Cases, gate: Gate, journal: Journal, handles: Handles, forgetting: Forgetting
    ) -> None:
        self._cases = cases
        self._gate = gate
        self._journal = journal
        self._handles = handles
        self._forgetting = forgetting
        self._undecided: deque[Inbound] = deque()
        self._unwritable: set[Token] = set()
        self._noted = ""
        self.failures = 0
        """Deliveries that could not be written down, ever: the next try passes over them."""

    def __len__(self) -> int:
        return len(self._undecided)

    def add(self, messages: Sequence[Inbound], batch: Batch) -> None:
        """Take what arrived."""
        self._keep_for_undo(batch)
        self._undecided.extend(messages)

    def judge(self, batch: Batch) -> None:
        """Judge them, or hold them while too many responses are on their way.

        What is held is not acknowledged, so the transfer stops reading by itself.
        """
        if not self._undecided:
            return
        self._keep_for_undo(batch)
        # Small slices, but more than can arrive.
        self._journal.expire(self._forgetting.now(), _EXPIRE_AT_ONCE + 2 * len(self._undecided))
        self._note_clock(batch)
        while self._undecided and not self._scarce():
            for read in self._gate.read(islice(self._undecided, _READ_AT_ONCE)):
                if self._scarce():
                    break
                self._decide(self._undecided.popleft(), read, batch)

    def _note_clock(self, batch: Batch) -> None:
        noted = self._forgetting.note()
        if noted != self._noted:
            self._journal.note("forgetting", noted)
            batch.then.append(partial(setattr, self, "_noted", noted))

    def _scarce(self) -> bool:
        return self._handles.scarce(len(self._cases.open))

    def _keep_for_undo(self, batch: Batch) -> None:
        before = self._undecided.copy()

        def back() -> None:
            self._undecided = before

        batch.undo.append(back)

    def _decide(self, message: Inbound, read: Read, batch: Batch) -> None:
        """Judge one; one that failed to be written is passed over, lest it come for ever."""
        token = message.token
        if token in self._unwritable:
            batch.acknowledge.append(token)
            batch.then.append(lambda: self._unwritable.discard(token))
            return
        try:
            self._cases.received(message, self._gate.judge(read), batch)
        except Exception as error:
            if not is_shortage(error):
                _log.error(events.MESSAGE_FAILED, topic=message.topic)
                self._unwritable.add(token)
                self.failures += 1
            raise
