"""Tells a person in front of the terminal that something takes long, and what."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import Any

import structlog

__all__ = ["IN_PROGRESS", "Progress"]

_log = structlog.get_logger("oc2d.daemon")

#: What is not done yet: `starting` (an actuator) or `waiting` (commands).
IN_PROGRESS = "in_progress"


class Progress:
    """Logs what `report` tells each `interval` seconds, if anything, while the context is entered.

    `report` is called on a thread of its own.
    """

    def __init__(
        self, report: Callable[[], Mapping[str, Any] | None], interval: float = 3.0
    ) -> None:
        self._report = report
        self._interval = interval
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="progress", daemon=True)

    def __enter__(self) -> Progress:  # noqa: PYI034 - Self needs Python 3.11
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stopping.wait(self._interval):
            if told := self._report():
                _log.info(IN_PROGRESS, **told)
