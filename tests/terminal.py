"""A terminal for tests: what a person at it would see of a program."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import struct
import subprocess
import termios

from tests.waiting import wait_until


class Terminal:
    """A process on a terminal of 10 lines and 40 columns; `seen` is all it wrote."""

    def __init__(self, *command: str, **environment: str) -> None:
        self.main, side = pty.openpty()
        fcntl.ioctl(self.main, termios.TIOCSWINSZ, struct.pack("HHHH", 10, 40, 0, 0))
        self.process = subprocess.Popen(
            command,
            stdin=side,
            stdout=side,
            stderr=side,
            start_new_session=True,
            env={**os.environ, "TERM": "xterm", **environment},
        )
        os.close(side)
        os.set_blocking(self.main, False)
        self.seen = ""

    def read(self) -> str:
        with contextlib.suppress(OSError):
            while data := os.read(self.main, 1 << 16):
                self.seen += data.decode()
        return self.seen

    def until(self, words: str) -> None:
        wait_until(lambda: words in self.read(), what=f"{words!r} in {self.seen!r}")

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        os.close(self.main)
