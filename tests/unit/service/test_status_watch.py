"""`oc2d status --watch` on a terminal of its own."""

from __future__ import annotations

import os
import re
import signal
import sys

import pytest

from oc2d.status import StatusServer
from tests.terminal import Terminal
from tests.waiting import wait_until


@pytest.fixture
def watching(write, tmp_path):
    config = write(
        f'device_id = "fw-7"\n[broker]\nhost = "h"\n[state]\nruntime_directory = "{tmp_path}"\n'
    )
    made = Terminal(sys.executable, "-m", "oc2d", "status", "--watch", "--config", str(config))
    yield made
    made.close()


def test_the_view_lives_while_the_daemon_comes_and_goes_until_q(watching, tmp_path):
    watching.until("oc2d is not running")
    counted = iter(range(1000))
    server = StatusServer(
        tmp_path, lambda: {"n": next(counted), "wide": "x" * 99, "l": ["a b"] * 9}
    )
    server.start()
    watching.until("n:    0")
    watching.until("n:    1")
    server.stop()
    seen = len(watching.seen)
    wait_until(lambda: "oc2d is not running" in watching.read()[seen:])
    os.write(watching.main, b"q")
    assert watching.process.wait(10) == 0
    assert watching.read().endswith("\x1b[?25h\x1b[?1049l")  # as it was before
    for screen in watching.seen.split("\x1b[H")[1:-1]:
        lines = re.sub(r"\x1b\[[?0-9]*[a-zA-Z]", "", screen).replace("\r", "").split("\n")
        assert len(lines) <= 10
        assert max(map(len, lines)) <= 40
    assert "more lines: oc2d status" in watching.seen


def test_ctrl_c_ends_the_view_without_complaint(watching):
    watching.until("oc2d is not running")
    watching.process.send_signal(signal.SIGINT)
    assert watching.process.wait(10) == 0
    assert "Traceback" not in watching.read()


def test_without_a_terminal_it_is_a_wrong_command_line(oc2d, write):
    done = oc2d("status", "--watch", "--config", write())
    assert done.returncode == 2
    assert "needs a terminal" in done.stderr
    assert oc2d("status", "--watch", "--json", "--config", write()).returncode == 2
