"""Verification: whether the chain holds from its first record to its head."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from oc2d_audit.chain import NOTHING, Link, link_of
from oc2d_audit.log import rotated

__all__ = ["Report", "verify"]


@dataclass(slots=True)
class Report:
    """What was found: the first thing that is wrong, if any, and what else is worth knowing."""

    wrong: str | None = None
    notes: list[str] = field(default_factory=list)
    first: Link | None = None
    last: Link | None = None


def verify(file: Path, *expected: Link) -> Report:
    """Read the log and the files it was rotated from; `expected` must stand in it: the head.

    A copy of number and hash that was kept elsewhere is as good as the head, or better.
    """
    report = Report()
    missing = {link.seq: link.hash for link in expected if link != NOTHING}
    for path, place, line in _lines(file):
        whole = line.endswith(b"\n")
        if not whole and path == file:
            report.notes.append(f"{place}: the line is not whole: being written, or a crash")
            break
        try:
            if not whole:
                raise ValueError("the line is not whole")
            link, record = link_of(line)
            _follows(report.last, link, record)
            if "broken" in record:
                raise ValueError(f"the log was not as it was left: {record['broken']}")
            if missing.pop(link.seq, link.hash) != link.hash:
                raise ValueError(f"record {link.seq} is not what it was")
        except ValueError as error:
            report.wrong = f"{place}: {error}"
            return report
        _note(report, place, link, record)
    if missing:
        begins = report.first.seq if report.first else 0
        ends = report.last.seq if report.last else 0
        for seq in sorted(missing):
            if seq >= begins:
                report.wrong = f"{file}: ends with record {ends}, but there was a record {seq}"
            else:
                report.notes.append(f"record {seq} was before what is here")
    return report


def _lines(file: Path) -> Iterator[tuple[Path, str, bytes]]:
    for path in [*rotated(file), file]:
        with path.open("rb") as stream:
            for number, line in enumerate(stream, 1):
                yield path, f"{path}:{number}", line


def _follows(last: Link | None, link: Link, record: dict[str, Any]) -> None:
    if last is None:
        if link.seq == 1 and record.get("prev") != NOTHING.hash:
            raise ValueError("the first record names one before it")
        return
    if link.seq != last.seq + 1:
        raise ValueError(f"record {link.seq} follows on record {last.seq}")
    if record.get("prev") != last.hash:
        raise ValueError("the line before is not the one that was there")


def _note(report: Report, place: str, link: Link, record: dict[str, Any]) -> None:
    if report.first is None:
        report.first = link
        if link.seq > 1:
            report.notes.append(f"{place}: begins with record {link.seq}; what was before is gone")
    report.last = link
    if record.get("clean") is False:
        report.notes.append(f"{place}: the daemon before did not end in order")
    if record.get("event") == "gap":
        report.notes.append(f"{place}: {record.get('unrecorded')} decisions were not recorded")
