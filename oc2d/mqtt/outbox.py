"""Messages on their way to the broker: who is next, who is in flight, what a new link resumes.

Pure bookkeeping of MQTT 5.0 sections 4.3, 4.4 and 4.9; no packet is built here.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum

from oc2d.engine.ports import Outgoing

__all__ = ["Entry", "Outbox", "Stage"]


class Stage(Enum):
    """How far the exchange of one message has come."""

    WAITING = "not yet published on this connection"
    SENT = "PUBLISH is out"
    TAKEN = "QoS 2: PUBREC is in, and is being written down"
    RELEASED = "QoS 2: PUBREL is out, or must be"


@dataclass(slots=True)
class Entry:
    """One message; `dup` says that the broker may have it already."""

    message: Outgoing
    stage: Stage
    dup: bool


class Outbox:
    """Every message until the broker is responsible for it, by handle, in order.

    `window` is how many may be in flight (the broker's Receive Maximum).
    """

    def __init__(self) -> None:
        self.window = 0
        self.in_flight = 0
        self._entries: dict[int, Entry] = {}
        self._ready: deque[Entry] = deque()
        self._refused: list[Entry] = []
        self._resumed: bool | None = None  # None: no connection yet

    def __len__(self) -> int:
        """Count what the broker has not acknowledged."""
        return len(self._entries)

    @property
    def waiting(self) -> int:
        """How many are not in flight."""
        return len(self._entries) - self.in_flight

    @property
    def has_refused(self) -> bool:
        """Whether some wait for `retry`."""
        return bool(self._refused)

    def add(self, messages: Iterable[Outgoing]) -> list[int]:
        """Take new messages; returns the handles whose PUBREL must be repeated now.

        A handle that is under way already is not taken twice.
        """
        releases = []
        for message in messages:
            if message.handle in self._entries:
                continue
            fresh = self._resumed is False  # the session of the earlier process is gone
            stage = Stage.RELEASED if message.released and not fresh else Stage.WAITING
            entry = Entry(message, stage, dup=message.again and not fresh)
            self._entries[message.handle] = entry
            if stage is Stage.WAITING:
                self._ready.append(entry)
            elif self._resumed:
                self.in_flight += 1
                releases.append(message.handle)
        return releases

    def begin(self, *, session_present: bool, window: int) -> list[int]:
        """Begin a connection; returns the handles whose PUBREL must be repeated.

        With the old session, what was published goes out again marked as duplicate under its own
        id; with a new one, everything starts anew.
        """
        self.window = window
        self.in_flight = 0
        self._resumed = session_present
        self._ready.clear()
        self._refused.clear()
        releases = []
        for handle, entry in self._entries.items():
            if not session_present:
                entry.stage, entry.dup = Stage.WAITING, False
            elif entry.stage is Stage.SENT:
                entry.stage, entry.dup = Stage.WAITING, True
            if entry.stage is Stage.WAITING:
                self._ready.append(entry)
                continue
            self.in_flight += 1
            if entry.stage is Stage.RELEASED:
                releases.append(handle)
        return releases

    def take(self) -> Entry | None:
        """Hand out the next to publish; None when there is none or the window is full."""
        if not self._ready or self.in_flight >= self.window:
            return None
        entry = self._ready.popleft()
        entry.stage = Stage.SENT
        self.in_flight += 1
        return entry

    def taken(self, handle: int) -> Stage | None:
        """Note a PUBREC; returns the stage the exchange was in, None when there is none."""
        entry = self._entries.get(handle)
        if entry is None or entry.stage is Stage.WAITING:
            return None
        before = entry.stage
        if before is Stage.SENT:
            entry.stage = Stage.TAKEN
        return before

    def release(self, handles: Iterable[int]) -> list[int]:
        """Let these go on; returns the handles to send PUBREL for."""
        releases = []
        for handle in handles:
            entry = self._entries.get(handle)
            if entry is not None and entry.stage is Stage.TAKEN:
                entry.stage = Stage.RELEASED
                releases.append(handle)
        return releases

    def done(self, handle: int) -> bool:
        """Forget a message; False when it was not in flight."""
        entry = self._entries.get(handle)
        if entry is None or entry.stage is Stage.WAITING:
            return False
        del self._entries[handle]
        self.in_flight -= 1
        return True

    def refused(self, handle: int) -> None:
        """Note that the broker cannot take this one now; it waits for `retry`."""
        entry = self._entries.get(handle)
        if entry is not None and entry.stage is Stage.SENT:
            entry.stage, entry.dup = Stage.WAITING, False
            self.in_flight -= 1
            self._refused.append(entry)

    def retry(self) -> None:
        """Publish the refused ones again."""
        self._ready.extend(self._refused)
        self._refused.clear()
