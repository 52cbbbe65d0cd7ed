"""When to look up which name again: a thread that waits, asks, and hands the answer on."""

from __future__ import annotations

import heapq
import threading
import time
from collections.abc import Callable

import structlog

from oc2d_pf.names import Answer, LookUp, LookUpError

__all__ = ["Refresher"]

_log = structlog.get_logger("oc2d.pf")
_RETRY = 60.0  # seconds after a look-up that failed
_SPARE = 100  # entries of rules that are gone, at most, beside one for each that is there


class Refresher:
    """`answered(number, name, answer)` is called on the refresher's thread.

    By then the rule may be gone, and another may have its number.
    """

    def __init__(self, look_up: LookUp, answered: Callable[[int, str, Answer], None]) -> None:
        self._look_up = look_up
        self._answered = answered
        self._due: list[tuple[float, int, str]] = []
        self._wanted: dict[int, float] = {}
        self._names: dict[int, str] = {}
        self._changed = threading.Condition()
        self._over = False
        self.failing: dict[str, str] = {}
        """Names that cannot be looked up at the moment, and why."""
        self._thread = threading.Thread(target=self._work, name="pf-names", daemon=True)

    def start(self) -> None:
        """Begin to wait."""
        self._thread.start()

    def watch(self, number: int, name: str, lifetime: float) -> None:
        """Look the name of a rule up again in so many seconds."""
        with self._changed:
            due = time.monotonic() + lifetime
            self._wanted[number] = due
            self._names[number] = name
            if len(self._due) > 2 * len(self._wanted) + _SPARE:
                self._due = [one for one in self._due if self._wanted.get(one[1]) == one[0]]
                heapq.heapify(self._due)
            heapq.heappush(self._due, (due, number, name))
            self._changed.notify()

    def forget(self, number: int) -> None:
        """Leave a rule alone that is gone."""
        with self._changed:
            self._wanted.pop(number, None)
            name = self._names.pop(number, "")
            if name in self.failing and name not in self._names.values():
                del self.failing[name]

    def stop(self) -> None:
        """End; a look-up on its way is left behind."""
        with self._changed:
            self._over = True
            self._changed.notify()

    def _work(self) -> None:
        while (entry := self._next()) is not None:
            number, name = entry
            try:
                answer = self._look_up(name)
            except LookUpError as error:
                with self._changed:
                    if number not in self._wanted:
                        continue
                    if name not in self.failing:
                        _log.warning("pf_name_not_found", name=name, error=str(error))
                    self.failing[name] = str(error)
                    # not later: a rule that is forgotten in between would be watched for good
                    self.watch(number, name, _RETRY)
                continue
            self.failing.pop(name, None)
            self._answered(number, name, answer)

    def _next(self) -> tuple[int, str] | None:
        """Wait for the next name that is due; None: it is over."""
        with self._changed:
            while not self._over:
                if not self._due:
                    self._changed.wait()
                    continue
                due, number, name = self._due[0]
                if self._wanted.get(number) != due:
                    heapq.heappop(self._due)  # replaced, or gone
                elif (left := due - time.monotonic()) > 0:
                    self._changed.wait(left)
                else:
                    heapq.heappop(self._due)
                    return number, name
        return None
