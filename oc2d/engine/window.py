"""The time window of a command: LANG-20 to LANG-27 as one small value (REQUIREMENTS 2.3)."""

from __future__ import annotations

import msgspec

from oc2d.engine.clock import Clock
from oc2d.language.command import Args

__all__ = ["Window", "window_of"]


class Window(msgspec.Struct, frozen=True):
    """From when to when a command is in effect, in milliseconds; None is open.

    `start` and `stop` follow the wall clock. A bare `duration` counts from acceptance on the boot
    clock, unmoved by changes of the wall clock: `boot_stop` on the boot named `boot_id`; on any
    other boot `stop` holds the remainder.
    """

    start: int | None = None
    stop: int | None = None
    boot_stop: int | None = None
    boot_id: str = ""

    def remaining(self, clock: Clock) -> int | None:
        """Milliseconds until it closes, not above zero when it is over; None: it never does."""
        if self.boot_stop is not None and self.boot_id == clock.boot_id:
            return self.boot_stop - clock.boot()
        return None if self.stop is None else self.stop - clock.wall()

    def over(self, clock: Clock) -> bool:
        """Tell whether nothing is left of it; a window of no length is over (AMB-24)."""
        left = self.remaining(clock)
        empty = self.start is not None and self.stop is not None and self.stop <= self.start
        return empty or (left is not None and left <= 0)

    def ahead(self, clock: Clock) -> bool:
        """Tell whether it begins later; a start in the past is now (LANG-27)."""
        return self.start is not None and self.start > clock.wall()


def window_of(args: Args | None, clock: Clock) -> Window:
    """Resolve the core times of a command that is accepted now (LANG-24, LANG-26)."""
    if args is None:
        return Window()
    start, stop, duration = args.start_time, args.stop_time, args.duration
    if duration is None:
        return Window(start, stop)
    if start is not None:
        return Window(start, start + duration)
    if stop is not None:
        return Window(stop - duration, stop)
    return Window(None, clock.wall() + duration, clock.boot() + duration, clock.boot_id)
