"""What became of each request: for the log, the status, the metrics and the plugins."""

from __future__ import annotations

from collections import Counter, deque
from traceback import format_exception_only

import msgspec
import structlog

from oc2d.engine import events
from oc2d.engine.answers import ReplyTo, Written
from oc2d.engine.clock import Clock
from oc2d.engine.histogram import Histogram
from oc2d.engine.hooks import Hooks
from oc2d.hookspecs import Request

__all__ = ["Entry", "Ledger"]

_log = structlog.get_logger("oc2d.engine")
_LAST = 20
_LONGEST = 1000  # characters of a cause


class Entry(msgspec.Struct, frozen=True):
    """What is known of a request in the end.

    `written` is what was answered, None: nothing; `cause` the exception behind a refusal: for the
    log only.
    """

    request: Request | None
    to: ReplyTo
    topic: str
    written: Written | None
    duration_ms: float = 0.0
    duplicate: bool = False
    cause: BaseException | None = None


class Ledger:
    """Written by the engine's thread, read by others.

    `outcomes` counts by profile, action and status; `last` are the latest lines of the log.
    """

    def __init__(self, hooks: Hooks, clock: Clock) -> None:
        self._hooks = hooks
        self._clock = clock
        self.outcomes: Counter[tuple[str, str, int]] = Counter()
        self.durations = Histogram()
        self.last: deque[dict[str, object]] = deque(maxlen=_LAST)

    def enter(self, entry: Entry) -> None:
        """Log the one line of a request (DESIGN 2)."""
        request, written = entry.request, entry.written
        command = request.command if request else None
        line: dict[str, object] = {
            "request_id": entry.to.request_id,
            "producer": entry.to.producer,
            "topic": entry.topic,
            "profile": request.profile if request else None,
            "action": command.action.value if command else None,
            "target": command.target.name if command else None,
            "command_id": (command and command.command_id) or entry.to.request_id,  # LANG-5
            "status": None if written is None else int(written.status),
            "duration_ms": round(entry.duration_ms, 2),
            "duplicate": entry.duplicate,
        }
        why = {}
        if written is not None and written.refusal is not None:
            why["text"] = written.refusal
        if entry.cause is not None:
            why["cause"] = "".join(format_exception_only(entry.cause)).strip()[:_LONGEST]
        _log.info(events.REQUEST, **line, **why)
        self.last.append({"at": self._clock.wall(), **line})

    def tell(self, entry: Entry) -> None:
        """Count an outcome, and tell the hooks."""
        request, written = entry.request, entry.written
        if request is None or written is None:
            return
        status = int(written.status)
        self.outcomes[request.profile or "", request.command.action.value, status] += 1
        self.durations.add(entry.duration_ms)
        self._hooks.response(request, status, entry.duration_ms)
