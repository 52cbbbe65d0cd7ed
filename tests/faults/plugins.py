"""To come."""

from __future__ import annotations

from tests.faults.scenario import Run


def run(this: Run) -> None:
    del this
