from __future__ import annotations

import io
import json
import logging
import logging.config
import os
import re
import shutil
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path

import pytest
import structlog

from oc2d import logs

pytestmark = pytest.mark.usefixtures("own_log")


@pytest.fixture(autouse=True)
def _by_nobody(monkeypatch):
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    monkeypatch.delenv("JOURNAL_STREAM", raising=False)


@pytest.fixture
def log(monkeypatch, tmp_path):
    """Configure, run `say` with a logger, and return what was written."""
    monkeypatch.setattr(logs, "_JOURNAL_SOCKET", tmp_path / "none")

    def log(mode, say, level="info"):
        stream = io.StringIO()
        logs.configure(mode, level, stream)
        say(structlog.get_logger())
        return stream.getvalue()

    return log


def broken(log):
    try:
        int("at\nlast")
    except ValueError:
        log.exception("it_broke", at="x")


def test_json_is_one_object_a_line_with_an_iso_time(log):
    (line,) = log("json", lambda log: log.info("request", status=200, topic="a")).splitlines()
    entry = json.loads(line)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d+Z", entry.pop("timestamp"))
    assert entry == {"event": "request", "level": "info", "status": 200, "topic": "a"}


def test_the_console_is_one_plain_line_where_there_is_no_terminal(log):
    text = log("console", lambda log: log.info("request", status=200))
    assert re.fullmatch(r"\S+Z \[info +\] request +status=200\n", text)


def test_people_are_spared_echoes_and_what_is_absent_or_usual(log):
    fields = {"request_id": "a", "profile": None, "duplicate": False, "session_present": False}
    text = log("console", lambda log: log.info("request", command_id="a", **fields))
    assert text.rstrip().endswith("] request request_id=a session_present=false")
    text = log("console", lambda log: log.info("request", command_id="b", request_id="a"))
    assert text.rstrip().endswith("] request command_id=b request_id=a")
    (line,) = log("json", lambda log: log.info("request", command_id="a", **fields)).splitlines()
    assert json.loads(line).keys() >= {*fields, "command_id"}


def test_a_terminal_gets_colours_unless_it_does_not_want_them(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    for expected in (True, False):
        stream = Terminal()
        logs.configure("console", stream=stream)
        structlog.get_logger().info("request")
        assert ("\x1b[" in stream.getvalue()) is expected
        monkeypatch.setenv("NO_COLOR", "1")


@pytest.mark.parametrize("mode", ["console", "journal", "json"])
def test_no_producer_can_forge_a_line_or_drive_the_terminal(log, mode):
    evil = "x\nerror: forged\r\x1b[2J\x9b"
    text = log(mode, lambda log: log.info("request", producer=evil))
    assert len(text.splitlines()) == 1
    assert text[:-1].isprintable()


def test_a_value_with_spaces_is_quoted_on_plain_lines(log):
    text = log("journal", lambda log: log.info("request", request_id="x status=200", status=501))
    assert text == 'info: request request_id="x status=200" status=501\n'


@pytest.mark.parametrize("mode", ["console", "journal", "json"])
def test_less_than_the_level_is_not_written(log, mode):
    def say(log):
        log.debug("a")
        log.info("b")

    assert log(mode, say, "warning") == ""
    assert len(log(mode, say, "debug").splitlines()) == 2


@pytest.mark.parametrize("mode", ["console", "journal"])
def test_people_see_a_traceback_at_debug_only(log, mode):
    text = log(mode, broken)
    assert "ValueError: invalid literal" in text
    assert "Traceback" not in text
    assert "Traceback" in log(mode, broken, "debug")


@pytest.mark.parametrize("mode", ["console", "journal", "json"])
@pytest.mark.parametrize("raised", [RuntimeError, SystemExit])
def test_an_exception_that_cannot_say_what_it_is_stops_nothing(log, mode, raised):
    class SpeechlessError(Exception):
        def __str__(self):
            raise raised

    text = log(mode, lambda log: log.error("it_broke", exc_info=SpeechlessError()))
    assert "it_broke" in text
    assert "SpeechlessError" in text


def test_json_has_the_traceback_in_one_field(log):
    (line,) = log("json", broken).splitlines()
    assert json.loads(line)["exception"].startswith("Traceback")


@pytest.mark.req("MQTT-68")
@pytest.mark.parametrize("mode", ["console", "journal", "json"])
def test_what_is_called_a_secret_is_not_written(log, mode):
    text = log(mode, lambda log: log.info("x", password="hunter2", key_password_file="/a/b"))
    assert "hunter2" not in text
    assert "/a/b" in text


def test_libraries_are_heard_from_warning_up(log):
    def say(_log):
        library = logging.getLogger("some.library")
        library.info("no")
        library.warning("pay %s", "attention")

    lines = [json.loads(line) for line in log("json", say).splitlines()]
    assert [(line["event"], line["logger"], line["message"]) for line in lines] == [
        (logs.LIBRARY, "some.library", "pay attention")
    ]


def test_an_entry_of_a_library_that_cannot_be_formatted_stops_nothing(log, capsys):
    def say(_log):
        (forward,) = [h for h in logging.getLogger().handlers if isinstance(h, logs._Forward)]
        forward.handle(logging.makeLogRecord({"msg": "%d", "args": ("x",), "levelname": "ERROR"}))

    assert log("json", say) == ""
    assert "Logging error" in capsys.readouterr().err


def test_configuring_again_hands_libraries_on_once(log):
    log("json", lambda _log: None)
    text = log("json", lambda _log: logging.getLogger("a").error("once"))
    assert len(text.splitlines()) == 1


def test_bound_context_goes_into_each_entry(log):
    def say(log):
        with structlog.contextvars.bound_contextvars(request_id="r"):
            log.info("x")

    assert json.loads(log("json", say))["request_id"] == "r"


def test_a_log_that_cannot_be_written_stops_nothing():
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "w") as stream:
        logs.configure("json", stream=stream)
        structlog.get_logger().info("nobody hears this")
        with pytest.raises(BrokenPipeError):
            stream.close()


def test_an_odd_value_is_written_somehow(log):
    for mode in ("console", "journal", "json"):
        assert log(mode, lambda log: log.info("x", a=object(), b="\ud800", c=b"\xff", d={1: 2}))


def test_under_systemd_without_native_fields_it_says_once_what_to_install(log, monkeypatch):
    monkeypatch.setenv("NOTIFY_SOCKET", "/run/systemd/notify")
    text = log("journal", lambda log: log.info("x"))
    assert text.count("python3-systemd") == 1
    assert logs.NO_NATIVE_FIELDS in text
    monkeypatch.delenv("NOTIFY_SOCKET")
    assert logs.NO_NATIVE_FIELDS not in log("journal", lambda log: log.info("x"))


def test_lines_into_the_journal_begin_with_the_priority(monkeypatch, tmp_path):
    monkeypatch.setattr(logs, "_JOURNAL_SOCKET", tmp_path / "none")
    with (tmp_path / "err").open("w+") as stream:
        status = os.fstat(stream.fileno())
        monkeypatch.setenv("JOURNAL_STREAM", f"{status.st_dev}:{status.st_ino}")
        logs.configure("journal", stream=stream)
        structlog.get_logger().error("bad", a=1)
        assert (tmp_path / "err").read_text() == "<3>bad a=1\n"


JOURNAL = """
import json, os, socket, struct
os.makedirs("/run/systemd/journal")
end = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
end.bind("/run/systemd/journal/socket")
import structlog
from oc2d import logs
logs.configure("journal")
log = structlog.get_logger()
log.warning("request", request_id="r 1", status=200, text="two\\nlines")
try:
    1 / 0
except ZeroDivisionError:
    log.exception("broke")
for _ in range(2):
    data, fields = end.recv(1 << 20), {}
    while data:
        line, _, rest = data.partition(b"\\n")
        key, equals, value = line.partition(b"=")
        if not equals:
            (size,) = struct.unpack_from("<Q", rest)
            value, rest = rest[8 : 8 + size], rest[9 + size :]
        fields[key.decode()] = value.decode()
        data = rest
    print(json.dumps(fields))
end.close()
"""


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root for a mount namespace")
@pytest.mark.skipif(not shutil.which("unshare"), reason="needs unshare")
def test_journald_gets_native_fields():
    pytest.importorskip("systemd.journal", reason="needs systemd-python")
    unshare = ["unshare", "--mount", "sh", "-ec", 'mount -t tmpfs none /run; exec "$@"', "sh"]
    done = subprocess.run(
        [*unshare, sys.executable, "-c", JOURNAL],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    first, second = (json.loads(line) for line in done.stdout.splitlines())
    assert (
        first.items()
        >= {
            "MESSAGE": 'request request_id="r 1" status=200 text=two\\nlines',
            "PRIORITY": "4",
            "SYSLOG_IDENTIFIER": "oc2d",
            "OC2_EVENT": "request",
            "OC2_REQUEST_ID": "r 1",
            "OC2_STATUS": "200",
            "OC2_TEXT": "two\nlines",
        }.items()
    )
    assert second["MESSAGE"] == "broke"
    assert second["PRIORITY"] == "3"
    assert second["OC2_EXCEPTION"].startswith("Traceback")


def test_what_is_logged_together_is_written_in_one_go_even_before_an_error():
    written = []

    class Stream(io.StringIO):
        def write(self, text: str) -> int:
            written.append(text)
            return len(text)

    logs.configure("json", stream=Stream())
    log = structlog.get_logger()
    others = threading.Thread(target=log.info, args=("other_thread",))
    with suppress(KeyError), logs.together():
        log.info("first")
        others.start()
        others.join()
        log.info("second")
        raise KeyError
    log.info("after")
    events = [[json.loads(line)["event"] for line in text.splitlines()] for text in written]
    assert events == [["other_thread"], ["first", "second"], ["after"]]


def test_lines_logged_together_that_cannot_be_written_stop_nothing():
    with Path(os.devnull).open() as nowhere:
        logs.configure("json", stream=nowhere)
        with logs.together():
            structlog.get_logger().info("nobody hears this")


# -- what thinks that it is the application


def prints():
    structlog.configure(
        processors=[structlog.processors.KeyValueRenderer()],
        logger_factory=structlog.PrintLoggerFactory(),
        cache_logger_on_first_use=False,
    )


def goes_through_logging():
    structlog.configure(
        processors=[structlog.stdlib.render_to_log_kwargs],
        wrapper_class=structlog.stdlib.BoundLogger,
        logger_factory=structlog.stdlib.LoggerFactory(),
    )


def keeps_silent():
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))


def all_anew():
    structlog.stdlib.recreate_defaults()


def forgets():
    structlog.reset_defaults()


def wants_no_library():
    logging.config.dictConfig({"version": 1, "root": {"level": "DEBUG", "handlers": []}})


@pytest.mark.req("MQTT-68")
@pytest.mark.parametrize("mode", ["console", "json", "journal"])
@pytest.mark.parametrize(
    "setup",
    [prints, goes_through_logging, keeps_silent, all_anew, forgets, wants_no_library],
)
def test_whatever_a_plugin_sets_up_the_log_stays_as_it_is(log, monkeypatch, capsys, mode, setup):
    for module, name in logs._SET_UP:
        monkeypatch.setattr(module, name, getattr(module, name))  # put back afterwards
    logs._say_ignored.cache_clear()

    def say(logger):
        logs.keep()
        for _ in range(2):
            setup()
        threads = [threading.Thread(target=logger.info, args=("from_a_thread",))]
        threads.append(threading.Thread(target=setup))
        for thread in threads:
            thread.start()
            thread.join()
        logger.warning("told", message="x", broker_password="hunter2")
        structlog.get_logger("another").info("told_too")

    lines = log(mode, say).splitlines()
    ignored = [line for line in lines if logs.SETUP_IGNORED in line]
    assert len(ignored) == (setup is not wants_no_library)  # once of each caller
    rest = [line for line in lines if line not in ignored]
    for line, word in zip(rest, ("from_a_thread", "told", "told_too"), strict=True):
        assert word in line
        assert {"console": " [", "json": '"level": ', "journal": ": "}[mode] in line
    assert "(hidden)" in rest[1]
    assert capsys.readouterr().out == ""
