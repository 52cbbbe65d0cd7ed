"""The clocks of the engine, in one place so that tests can turn them."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Clock", "Forgetting", "read_boot_id"]


def _wall() -> int:
    return time.time_ns() // 1_000_000


def _boot() -> int:
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1_000_000


@dataclass(frozen=True, slots=True)
class Clock:
    """`wall` is milliseconds since 1970 UTC; `boot` milliseconds since this boot, sleep included.

    `monotonic` is in seconds, for timeouts inside the process. `boot_id` names the boot that
    `boot` counts from.
    """

    boot_id: str
    wall: Callable[[], int] = _wall
    boot: Callable[[], int] = _boot
    monotonic: Callable[[], float] = time.monotonic


# Milliseconds that are no leap: what was noted is in seconds, and two clocks are not read at once.
_SLACK = 1000


class Forgetting:
    """The time by which requests are forgotten: the wall clock, but it follows no leap at once.

    A clock that is set forward, as at the first synchronisation of a host without one of its own,
    must not let a redelivery take effect twice. After `remember` seconds it is believed. `noted` is
    what an earlier process of this boot knew, which may have ended since the leap.
    """

    def __init__(self, clock: Clock, remember: int, noted: str = "") -> None:
        self._clock = clock
        self._patience = remember * 1000
        self._offset = clock.wall() - clock.boot()
        self._ahead_since: int | None = None
        boot_id, _, rest = noted.partition(" ")
        if boot_id and boot_id == clock.boot_id:
            with suppress(ValueError):  # damaged: as if nothing had been noted
                offset, *ahead = map(int, rest.split())
                self._offset = offset * 1000
                self._ahead_since = ahead[0] * 1000 if ahead else None

    def note(self) -> str:
        """Tell what the next process has to know; in seconds, so that it seldom changes."""
        ahead = "" if self._ahead_since is None else f" {self._ahead_since // 1000}"
        return f"{self._clock.boot_id} {self._offset // 1000}{ahead}"

    def configure(self, remember: int) -> None:
        """Believe a clock that was set forward after another time."""
        self._patience = remember * 1000

    def now(self) -> int:
        """Seconds since 1970, never later than the wall clock."""
        boot = self._clock.boot()
        offset = self._clock.wall() - boot
        if offset <= self._offset + _SLACK:
            self._offset, self._ahead_since = min(offset, self._offset), None
        elif self._ahead_since is None:
            self._ahead_since = boot
        if self._ahead_since is not None and boot - self._ahead_since >= self._patience:
            self._offset, self._ahead_since = offset, None
        return (boot + self._offset) // 1000


def read_boot_id() -> str:
    """Return the kernel's id of this boot; empty where /proc hides it."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
    except OSError:
        return ""
