"""How long commands took, counted in a few classes: what a monitor can reckon quantiles from."""

from __future__ import annotations

from bisect import bisect_left

__all__ = ["Histogram"]


class Histogram:
    """Counts milliseconds by class; one writer, and readers on other threads."""

    #: The upper end of each class but the last, which has none; milliseconds.
    BOUNDS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000, 60_000)

    def __init__(self) -> None:
        self.counts = [0] * (len(self.BOUNDS) + 1)
        self.sum = 0.0

    def add(self, milliseconds: float) -> None:
        """Count one."""
        self.counts[bisect_left(self.BOUNDS, milliseconds)] += 1
        self.sum += milliseconds
