"""Tell systemd how we are: the sd_notify protocol, which is one datagram per message.

Own code, because systemd-python is an extra that needs a compiler, while the watchdog must work
wherever systemd starts us.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Mapping

__all__ = ["Notifier"]

_PATIENCE = 1.0  # seconds; systemd reads at once, and nothing here may hang on it


class Notifier:
    """Sends to the service manager named by NOTIFY_SOCKET; without one, does nothing.

    Never raises: a manager that does not listen is no reason to stop. Thread-safe.
    """

    def __init__(self, environ: Mapping[str, str] = os.environ) -> None:
        name = environ.get("NOTIFY_SOCKET", "")
        #: The address of the manager's socket; abstract ones are written with @.
        self._address = "\0" + name[1:] if name.startswith("@") else name
        #: Seconds after which systemd takes silence for death, or None: call `watchdog` in half.
        self.watchdog_interval = _watchdog_interval(environ)

    def ready(self, status: str = "") -> None:
        """Say that configuration, journal and rules are in force; ends `reloading` too."""
        self._send("READY=1", status)

    def reloading(self) -> None:
        """Say that a reload began (Type=notify-reload wants the time on CLOCK_MONOTONIC)."""
        self._send(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def stopping(self, status: str = "") -> None:
        """Say that the shutdown began."""
        self._send("STOPPING=1", status)

    def status(self, text: str) -> None:
        """Give one line about the state, for `systemctl status`."""
        self._send("", text)

    def watchdog(self) -> None:
        """Say that we are alive."""
        self._send("WATCHDOG=1")

    def _send(self, state: str, status: str = "") -> None:
        if not self._address:
            return
        lines = [state] if state else []
        if status:
            lines.append("STATUS=" + " ".join(status.split()))
        with (
            contextlib.suppress(OSError),
            socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as out,
        ):
            out.settimeout(_PATIENCE)
            out.sendto("\n".join(lines).encode(), self._address)


def _watchdog_interval(environ: Mapping[str, str]) -> float | None:
    """Read WATCHDOG_USEC, if it is meant for this process (sd_watchdog_enabled(3))."""
    try:
        microseconds = int(environ.get("WATCHDOG_USEC", ""))
        process = int(environ.get("WATCHDOG_PID", os.getpid()))
    except ValueError:
        return None
    if microseconds <= 0 or process != os.getpid():
        return None
    return microseconds / 1e6
