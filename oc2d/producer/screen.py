"""What a person sees while `oc2ctl` waits: replies as rows of a table, as they arrive."""

from __future__ import annotations

import sys
from collections import Counter

from oc2d.producer.replies import Reply
from oc2d.producer.text import reply_line
from oc2d.terminal import Colour, painted, printable

__all__ = ["Screen"]

_ERASED = "\r\x1b[K"
_NARROWEST = 8  # columns of who answers


class Screen:
    """Writes to stdout what was said; to stderr, if that is a terminal, what is waited for."""

    def __init__(self) -> None:
        self._people = sys.stdout.isatty()
        self._live = sys.stderr.isatty()
        self._width = _NARROWEST if self._people else 0
        self._shown: Counter[int | None] = Counter()
        self._waiting = ""

    def wait(self, topic: str, expect: int | None, timeout: float) -> None:
        """Say what is waited for, until it is there."""
        count = "responses" if expect is None else f"{expect} response{'s' * (expect > 1)}"
        self._waiting = f"{printable(topic)}: waiting for {count}, {timeout:g} s at most"
        self._tell()

    def show(self, reply: Reply) -> None:
        """Write one row; the first has a head above it."""
        self.clear()
        if self._people and not self._shown:
            head = f"{'FROM':<{self._width}}  STATUS"
            sys.stdout.write(painted(head, "dim", sys.stdout) + "\n")
        if self._people:
            self._width = max(self._width, len(printable(reply.sender or "?")))
        line = reply_line(
            reply, self._width, lambda text: painted(text, _colour(reply), sys.stdout)
        )
        sys.stdout.write(line + "\n")
        sys.stdout.flush()
        self._shown[reply.status] += 1
        self._tell()

    def close(self) -> None:
        """Nothing more is waited for: sum up what is more than a few."""
        self.clear()
        total = sum(self._shown.values())
        if self._people and total > 1:
            parts = (f"{count} x {status or 'none'}" for status, count in self._shown.items())
            text = f"{total} responses: {', '.join(parts)}"
            sys.stdout.write(painted(text, "dim", sys.stdout) + "\n")

    def clear(self) -> None:
        """Take away the line that says what is waited for: something else is to be written."""
        if self._live and self._waiting:
            sys.stderr.write(_ERASED)
            sys.stderr.flush()

    def _tell(self) -> None:
        if self._live and self._waiting:
            sys.stderr.write(painted(self._waiting, "dim", sys.stderr))
            sys.stderr.flush()


def _colour(reply: Reply) -> Colour:
    if reply.succeeded:
        return "green"
    return "yellow" if reply.interim else "red"
