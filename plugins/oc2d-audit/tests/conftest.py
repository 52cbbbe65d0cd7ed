"""Shared by the tests of audit: logs that are filled, read and verified."""

from __future__ import annotations

import itertools
import json

import pytest

from oc2d_audit.log import AuditLog, read_head
from oc2d_audit.verify import verify

_seconds = itertools.count()


def now():
    return f"2026-11-22T00:00:{next(_seconds) % 60:02}"


@pytest.fixture
def make(tmp_path):
    """A function that opens the log; all are closed at the end."""
    opened = []

    def make(name="audit.log", **options):
        log = AuditLog(
            tmp_path / name,
            tmp_path / "audit.head",
            now,
            **{"rotate_bytes": 1 << 20, "keep": None, **options},
        )
        opened.append(log)
        return log

    yield make
    for log in opened:
        if not log._stop.is_set():
            log.close()


def filled(make, count=5):
    log = make()
    for number in range(count):
        log.write({"event": "decision", "number": number})
    log.close()
    return log


def records(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def checked(log):
    head = read_head(log._head)
    return verify(log.file, *([head] if head else []))
