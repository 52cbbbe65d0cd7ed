"""The clocks of the engine, in one place so that tests can turn them."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Clock", "read_boot_id"]


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


def read_boot_id() -> str:
    """Return the kernel's id of this boot; empty where /proc hides it."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
    except OSError:
        return ""
