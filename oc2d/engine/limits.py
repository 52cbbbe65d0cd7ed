"""How much is taken in: commands per minute, and error answers to undecodable input."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

__all__ = ["Load", "Rate"]


@dataclass(frozen=True, slots=True)
class Load:
    """How full the engine is, as the gate asks it: accepted and not yet executed.

    `held` is the bytes of those messages, `deferred` the Producer and the bytes of each that waits
    for its start time, `windows` how many events of time windows are to come.
    """

    queued: Callable[[], int]
    queued_by: Callable[[str | None], int]
    held: Callable[[], int]
    deferred: Callable[[], Sequence[tuple[str | None, int]]]
    windows: Callable[[], int]
    stuck: Callable[[str], bool]


class Rate:
    """At most `most` events in any `span` seconds; exact, and as long as `most` in memory."""

    def __init__(self, most: int, span: float = 60.0) -> None:
        self._most = most
        self._span = span
        self._taken: deque[float] = deque()
        self.total = 0
        """How many were ever counted: for `back_to`."""

    def take(self, now: float) -> bool:
        """Count one event at `now` (monotonic seconds); False: it would be one too many."""
        while self._taken and self._taken[0] <= now - self._span:
            self._taken.popleft()
        if len(self._taken) >= self._most:
            return False
        self._taken.append(now)
        self.total += 1
        return True

    def back_to(self, total: int) -> None:
        """Take back what was counted since `total` was read."""
        while self.total > total:
            self._taken.pop()
            self.total -= 1
