"""What a terminal is sent: text that cannot drive it, and colours where it has them.

No colours where NO_COLOR is set (https://no-color.org).
"""

from __future__ import annotations

import os
import sys
from typing import Literal, TextIO

__all__ = ["Colour", "fill_closed", "has_colours", "painted", "printable"]

Colour = Literal["bold", "dim", "red", "green", "yellow"]
_CODES: dict[Colour, int] = {"bold": 1, "dim": 2, "red": 31, "green": 32, "yellow": 33}


def fill_closed() -> None:
    """Put the null device where a standard stream was closed when we were started.

    Else its number would go to a file or socket of ours, and there what a library complains of.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115, PTH123  stays open; the lowest free number


def has_colours(stream: TextIO) -> bool:
    """Tell whether to write colours to `stream`."""
    return stream.isatty() and "NO_COLOR" not in os.environ and os.environ.get("TERM") != "dumb"


def painted(text: str, colour: Colour, stream: TextIO) -> str:
    """Return `text` as it is to be written to `stream`."""
    return f"\x1b[{_CODES[colour]}m{text}\x1b[0m" if has_colours(stream) else text


def printable(text: str) -> str:
    """Escape what could drive a terminal or forge a line."""
    if text.isprintable():
        return text
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode() for char in text
    )
