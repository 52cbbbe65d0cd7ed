"""`oc2d status --watch`: the daemon's state on a terminal, drawn anew each second."""

from __future__ import annotations

import os
import select
import sys
import termios
import time
import tty
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from oc2d.errors import Oc2dError, UsageError

__all__ = ["watch"]

_INTERVAL = 1.0  # seconds
_ENTER, _LEAVE = "\x1b[?1049h\x1b[?25l", "\x1b[?25h\x1b[?1049l"  # a screen of its own, no cursor
_HOME, _END_OF_LINE, _END_OF_SCREEN = "\x1b[H", "\x1b[K", "\x1b[J"


def watch(tell: Callable[[], str]) -> int:
    """Show what `tell` returns, or why it cannot, until `q` or Ctrl-C; the exit code.

    Raises `UsageError` without a terminal.
    """
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise UsageError("--watch needs a terminal; scripts use `oc2d status --json`")
    with suppress(KeyboardInterrupt), _screen():
        quits = False
        while not quits:
            begun = time.monotonic()
            try:
                text = tell()
            except Oc2dError as error:  # it may come back
                text = f"{error}\n"
            _draw(text)
            quits = _quits(begun + _INTERVAL)
    return 0


@contextmanager
def _screen() -> Iterator[None]:
    """Take keys one by one, on a screen that leaves no trace."""
    before = termios.tcgetattr(sys.stdin)
    tty.setcbreak(sys.stdin)
    _write(_ENTER)
    try:
        yield
    finally:
        _write(_LEAVE)
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)


def _draw(text: str) -> None:
    """Draw over what is there, which does not flicker; what does not fit is left out."""
    size = os.get_terminal_size(sys.stdout.fileno())
    width, height = size.columns or 80, size.lines or 24
    head = f"{time.strftime('%H:%M:%S')}  oc2d status, each second; q ends"
    lines = [head, "", *text.splitlines()]
    if len(lines) > height:
        lines[height - 1 :] = [f"… {len(lines) - height + 1} more lines: oc2d status"]
    shown = (line[:width] + _END_OF_LINE for line in lines)
    _write(_HOME + "\r\n".join(shown) + _END_OF_SCREEN)


def _quits(until: float) -> bool:
    while (left := until - time.monotonic()) > 0:
        if select.select([sys.stdin], [], [], left)[0]:
            key = os.read(sys.stdin.fileno(), 1)
            if key in (b"q", b"Q", b""):  # the last: the terminal is gone
                return True
    return False


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()
