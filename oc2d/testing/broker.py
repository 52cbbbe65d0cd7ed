"""A mosquitto of one's own, for tests that want the real thing."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

__all__ = ["Broker", "NoBroker", "free_port"]

_START_TIME = 10.0


class NoBroker(Exception):  # noqa: N818 - it is no error to have none
    """mosquitto is not installed."""


def free_port() -> int:
    """Return a TCP port of 127.0.0.1 that was free just now."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


class Broker:
    """A mosquitto on 127.0.0.1; `options` are lines of its configuration.

    The port stays the same over restarts. With `persistent`, sessions outlive `stop` and, as it
    saves at each change, mostly `kill`.
    """

    def __init__(self, directory: Path, *options: str, persistent: bool = False) -> None:
        self.directory = directory
        self.port = free_port()
        self.log = directory / "mosquitto.log"
        self._process: subprocess.Popen[bytes] | None = None
        path = os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin"
        self._binary = shutil.which("mosquitto", path=path)
        lines = [f"listener {self.port} 127.0.0.1", *options]
        if not any(line.startswith("allow_anonymous") for line in options):
            lines.append("allow_anonymous true")
        if persistent:
            lines += ["persistence true", f"persistence_location {directory}/"]
            lines += ["autosave_on_changes true", "autosave_interval 1"]
        if os.geteuid() == 0:
            lines.append("user root")  # else it cannot read what the test wrote
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "mosquitto.conf").write_text("\n".join(lines) + "\n")

    def start(self) -> Broker:
        """Start it and wait until it listens.

        Raises `NoBroker` when mosquitto is not installed, AssertionError with its log when it does
        not listen within 10 s.
        """
        if self._binary is None:
            raise NoBroker("mosquitto is not installed")
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [self._binary, "-v", "-c", str(self.directory / "mosquitto.conf")],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        deadline = time.monotonic() + _START_TIME
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port)):
                return self
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise AssertionError(f"mosquitto did not start:\n{self.log.read_text()}")
            time.sleep(0.01)

    def stop(self) -> None:
        """End it in order."""
        self._end(lambda process: process.terminate())

    def kill(self) -> None:
        """End it as a crash would."""
        self._end(lambda process: process.kill())

    def signal(self, number: int) -> None:
        """Send it a signal."""
        if self._process is not None:
            self._process.send_signal(number)

    def _end(self, how: Callable[[subprocess.Popen[bytes]], None]) -> None:
        if self._process is not None:
            how(self._process)
            self._process.wait(10)
            self._process = None
