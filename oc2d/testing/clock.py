"""A clock that stands still until a test turns it."""

from __future__ import annotations

from oc2d.engine.clock import Clock

__all__ = ["TurnedClock"]


class TurnedClock:
    """Wall and boot in milliseconds, monotonic in seconds; moved by the test alone."""

    def __init__(self, wall: int = 1_700_000_000_000, boot: int = 5_000_000) -> None:
        self.wall, self.boot, self.monotonic = wall, boot, 1000.0

    def turn(self, seconds: float, *, wall: bool = True) -> None:
        """Let time go by; `wall` False: the wall clock does not follow, as if set back."""
        self.boot += int(seconds * 1000)
        self.monotonic += seconds
        if wall:
            self.wall += int(seconds * 1000)

    def clock(self, boot_id: str) -> Clock:
        """Return the clock that an engine is given."""
        return Clock(boot_id, lambda: self.wall, lambda: self.boot, lambda: self.monotonic)
