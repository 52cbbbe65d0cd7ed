"""What became of each request: for the log, the status, the metrics and the plugins."""

from __future__ import annotations

from collections import Counter, deque
from traceback import format_exception_only

import structlog

from oc2d.engine import events
from oc2d.engine.answers import ReplyTo, Written
from oc2d.engine.clock import Clock
from oc2d.engine.histogram import Histogram
from oc2d.engine.hooks import Hooks
from oc2d.hookspecs import Request

__all__ = ["Ledger"]

_log = structlog.get_logger("oc2d.engine")
_LAST = 20
_LONGEST = 1000  # characters of a cause


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

    def enter(  # noqa: PLR0913 - the canonical line
        self,
        request: Request | None,
        to: ReplyTo,
        topic: str,
        written: Written | None,
        duration_ms: float,
        *,
        duplicate: bool = False,
        cause: BaseException | None = None,
    ) -> None:
        """Log the one line of a request (DESIGN 2), count it, tell the hooks.

        `written` is what was answered, `cause` the exception behind a refusal: for the log only.
        """
        command = request.command if request else None
        status = None if written is None else int(written.status)
        line: dict[str, object] = {
            "request_id": to.request_id,
            "producer": to.producer,
            "topic": topic,
            "profile": request.profile if request else None,
            "action": command.action.value if command else None,
            "target": command.target.name if command else None,
            "command_id": (command and command.command_id) or to.request_id,  # LANG-5
            "status": status,
            "duration_ms": round(duration_ms, 2),
            "duplicate": duplicate,
        }
        why = {}
        if written is not None and written.refusal is not None:
            why["text"] = written.refusal
        if cause is not None:
            why["cause"] = "".join(format_exception_only(cause)).strip()[:_LONGEST]
        _log.info(events.REQUEST, **line, **why)
        self.last.append({"at": self._clock.wall(), **line})
        if request is not None and status is not None:
            key = (request.profile or "", request.command.action.value, status)
            self.outcomes[key] += 1
            self.durations.add(duration_ms)
            self._hooks.response(request, status, duration_ms)
