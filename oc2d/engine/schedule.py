"""One thread that holds the deadlines of time windows and posts what is due, nothing else."""

from __future__ import annotations

import heapq
import threading
from collections.abc import Callable
from itertools import count

from oc2d.engine.clock import Clock
from oc2d.engine.window import Window

__all__ = ["Scheduler"]

# While a deadline follows the wall clock, look again this often: nobody tells when it is set.
_LOOK_AGAIN = 0.5
# Milliseconds by which wall and boot clock must come apart to count as set, not as slewed.
_SET = 50


class Scheduler:
    """Calls a function when a window begins or ends; the function only posts to another thread.

    Thread-safe, but for `start` and `stop`.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._heap: list[tuple[int, int, Callable[[], int | None], Callable[[], None]]] = []
        self._serial = count()
        self._changed = threading.Condition()
        self._stopping = False
        self._offset = clock.wall() - clock.boot()
        self._thread = threading.Thread(target=self._run, name="oc2d-schedule", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread; what was not due stays in the journal."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
        if self._thread.is_alive():
            self._thread.join()

    def at_start(self, window: Window, function: Callable[[], None]) -> None:
        """Call `function` when the window begins, at once when it has begun."""
        start = window.start
        self._add(lambda: None if start is None else start - self._clock.wall(), function)

    def at_stop(self, window: Window, function: Callable[[], None]) -> None:
        """Call `function` when the window is over; never for one without an end."""
        if window.stop is not None:
            self._add(lambda: window.remaining(self._clock), function)

    def after(self, seconds: float, function: Callable[[], None]) -> None:
        """Call `function` in `seconds`."""
        due = self._clock.boot() + int(seconds * 1000)
        self._add(lambda: due - self._clock.boot(), function)

    def pending(self) -> int:
        """How many deadlines are held."""
        return len(self._heap)

    def alive(self) -> bool:
        """For the watchdog: the lock is free and the thread is there."""
        if not self._changed.acquire(timeout=1):
            return False
        self._changed.release()
        return self._thread.is_alive()

    def look(self) -> None:
        """Do now what is due, and let nobody else: for clocks that a test turns."""
        with self._changed:
            for function in self._due():
                function()

    # -- inside

    def _add(self, left: Callable[[], int | None], function: Callable[[], None]) -> None:
        with self._changed:
            self._push(left, function)
            self._changed.notify()

    def _push(self, left: Callable[[], int | None], function: Callable[[], None]) -> None:
        due = self._clock.boot() + (left() or 0)
        heapq.heappush(self._heap, (due, next(self._serial), left, function))

    def _run(self) -> None:
        with self._changed:
            while not self._stopping:
                for function in self._due():
                    function()
                self._changed.wait(self._pause())

    def _pause(self) -> float | None:
        if not self._heap:
            return None
        return min(_LOOK_AGAIN, max(0.0, (self._heap[0][0] - self._clock.boot()) / 1000))

    def _due(self) -> list[Callable[[], None]]:
        """Take out what is due; the wall clock may have moved, so ask each that looks due."""
        now = self._clock.boot()
        if self._wall_moved(now):
            waiting, self._heap = self._heap, []
            for _, _, left, function in waiting:
                self._push(left, function)
        due = []
        while self._heap and self._heap[0][0] <= now:
            _, _, left, function = heapq.heappop(self._heap)
            if (left() or 0) > 0:
                self._push(left, function)
            else:
                due.append(function)
        return due

    def _wall_moved(self, boot: int) -> bool:
        """Tell whether the wall clock went another way than the boot clock since the last time."""
        offset = self._clock.wall() - boot
        if abs(offset - self._offset) <= _SET:
            return False
        self._offset = offset
        return True
