from __future__ import annotations

import structlog

from oc2d.progress import IN_PROGRESS, Progress
from tests.waiting import wait_until


def test_what_takes_long_is_logged_for_as_long_as_it_does():
    told = iter([None, {"starting": "slpf"}, {"waiting": 700}])
    left = []
    with structlog.testing.capture_logs() as logs, Progress(lambda: next(told, left), 0.01):
        wait_until(lambda: len(logs) == 2)
    assert logs == [
        {"event": IN_PROGRESS, "log_level": "info", "starting": "slpf"},
        {"event": IN_PROGRESS, "log_level": "info", "waiting": 700},
    ]


def test_what_is_quick_is_not_mentioned():
    with structlog.testing.capture_logs() as logs, Progress(lambda: {"waiting": 1}, 60):
        pass
    assert logs == []
