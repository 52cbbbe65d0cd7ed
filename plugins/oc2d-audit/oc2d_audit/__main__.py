"""`python -m oc2d_audit verify FILE`: whether a log is whole and unchanged."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from oc2d_audit.chain import Link
from oc2d_audit.log import read_head
from oc2d_audit.verify import verify

__all__ = ["main"]

_HEAD = Path("/var/lib/oc2d/audit.head")


def main(arguments: Sequence[str] | None = None) -> int:
    """Tell the first line that is wrong; 0: none is, 1: one is, 2: it could not be read."""
    parser = argparse.ArgumentParser(prog="python -m oc2d_audit")
    commands = parser.add_subparsers(required=True)
    command = commands.add_parser("verify", help="tell the first line that is wrong")
    command.add_argument("file", type=Path, metavar="FILE", help="the log; rotated ones are found")
    command.add_argument("--head", type=Path, default=_HEAD, help=f"default: {_HEAD}")
    command.add_argument(
        "--expect", type=_link, metavar="SEQ:HASH", action="append", default=[],
        help="a record that was noted elsewhere; may be repeated",
    )  # fmt: skip
    options = parser.parse_args(arguments)
    head = read_head(options.head)
    expected = [*options.expect, *([head] if head else [])]
    try:
        report = verify(options.file, *expected)
    except OSError as error:
        print(f"{error.filename}: {error.strerror}", file=sys.stderr)  # noqa: T201 - a command
        return 2
    if head is None:
        report.notes.append(f"{options.head} cannot be read: an end that was cut off is not seen")
    for note in report.notes:
        print(f"note: {_printable(note)}")  # noqa: T201 - a command
    if report.wrong:
        print(f"WRONG: {_printable(report.wrong)}")  # noqa: T201 - a command
        return 1
    if report.first is None or report.last is None:
        print("empty")  # noqa: T201 - a command
    else:
        print(f"ok: records {report.first.seq} to {report.last.seq}, {report.last.hash}")  # noqa: T201 - a command
    return 0


def _printable(text: str) -> str:
    """Escape what could drive the terminal: a forged log may say anything."""
    return "".join(one if one.isprintable() else ascii(one)[1:-1] for one in text)


def _link(text: str) -> Link:
    seq, _, digest = text.partition(":")
    return Link(int(seq), digest)


if __name__ == "__main__":
    raise SystemExit(main())
