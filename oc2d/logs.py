"""Where log entries go: a person's terminal, the journal with native fields, or lines of JSON.

Everything else calls `structlog.get_logger()` and binds what it knows; only this module decides
what becomes of it. Strings in entries come from Producers too, so nothing that could forge a line
or drive a terminal gets through, and what cannot be written is dropped: a full disk or a closed
pipe behind the log must not stop the daemon.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from functools import lru_cache
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, TextIO

import structlog
from structlog import configure as set_up
from structlog.typing import Processor

from oc2d.terminal import has_colours, printable

__all__ = [
    "LEVELS",
    "LIBRARY",
    "NO_NATIVE_FIELDS",
    "SETUP_IGNORED",
    "Format",
    "Level",
    "configure",
    "keep",
    "together",
]

Format = Literal["console", "journal", "json"]
Level = Literal["debug", "info", "warning", "error"]
LEVELS: tuple[Level, ...] = ("debug", "info", "warning", "error")

#: A library said something through `logging`: `logger`, `message`.
LIBRARY = "library_message"
#: systemd runs us, but entries go out without native fields: `hint` says what to install.
NO_NATIVE_FIELDS = "journal_fields_unavailable"
#: A plugin, or a library of one, wanted to set up structlog, and was not heeded: `by`.
SETUP_IGNORED = "log_setup_ignored"

_SET_UP = (
    (structlog, "configure"),
    (structlog, "configure_once"),
    (structlog, "reset_defaults"),
    (structlog.stdlib, "recreate_defaults"),
)
_PRIORITIES = {"debug": 7, "info": 6, "warning": 4, "error": 3, "critical": 2}
_JOURNAL_SOCKET = Path("/run/systemd/journal/socket")
_SECRET = re.compile(r"password|passwd|secret|credential", re.IGNORECASE)
_CONSTANTS = {None: "null", True: "true", False: "false"}
_FIRST = ("status", "action", "target")  # what a person looks for in a line

_Event = MutableMapping[str, Any]


def configure(mode: Format, level: Level = "info", stream: TextIO | None = None) -> None:
    """Set up structlog and `logging` for this process.

    `console` is for people, `json` one object a line; both write to `stream` (stderr). `journal`
    sends native fields (`request_id` as `OC2_REQUEST_ID`) to journald; where systemd-python or
    journald is missing it writes plain lines to `stream`. Entries of libraries pass at WARNING.
    """
    stream = stream or sys.stderr
    native = _native_journal() if mode == "journal" else None
    whole = level == "debug" or mode == "json" or native is not None
    processors: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        _hide_secrets,
        structlog.processors.format_exc_info if whole else _name_exception,
    ]
    if mode != "journal":
        processors.append(_stamp)
    processors += _renderers(mode, stream, native is not None)
    set_up(
        processors=processors,
        wrapper_class=structlog.make_filtering_bound_logger(getattr(logging, level.upper())),
        logger_factory=lambda *_: _Sink(native or _line_writer(stream)),
        cache_logger_on_first_use=True,
    )
    _take_over_logging()
    if mode == "journal" and native is None and "NOTIFY_SOCKET" in os.environ:
        structlog.get_logger().warning(
            NO_NATIVE_FIELDS,
            hint="install systemd-python (Debian: python3-systemd; pip: oc2d[systemd])",
        )


def keep() -> None:
    """Leave the log as `configure` made it, whoever in this process sets up structlog from now on.

    Plugins bring what takes itself for the application: its configuration made the daemon's entries
    vanish, show secrets or fail, each in the middle of what it was doing. No entry goes through
    `logging`, so what is set up there concerns the messages of libraries alone.
    """
    for module, name in _SET_UP:
        setattr(module, name, _ignore)


def _ignore(*_args: object, **_options: object) -> None:
    caller = sys._getframe(1)  # noqa: SLF001 - `inspect` is slow to import, and calls the same
    _say_ignored(str(caller.f_globals.get("__name__")))


@lru_cache(maxsize=64)
def _say_ignored(by: str) -> None:
    """Say it once of each."""
    structlog.get_logger().warning(SETUP_IGNORED, by=by)


def _renderers(mode: Format, stream: TextIO, native: bool) -> list[Processor]:  # noqa: FBT001 - private
    if mode == "json":
        return [structlog.processors.JSONRenderer(serializer=json.dumps, default=repr)]
    if native:
        return [_to_fields]
    if mode == "journal":
        return [_printable, _to_line if not _is_journal(stream) else _to_priority_line]
    if has_colours(stream):
        return [_printable, _for_people, structlog.dev.ConsoleRenderer(sort_keys=False)]
    return [_printable, _for_people, _to_plain_line]  # a fifth of the time


class _Sink:
    """The end of the pipeline: hands on what the last processor made."""

    def __init__(self, write: Callable[[Any], None]) -> None:
        self._write = write

    def info(self, entry: object) -> None:
        with contextlib.suppress(OSError, ValueError):
            self._write(entry)

    debug = warning = error = critical = info


class _Lines(threading.local):
    waiting: dict[TextIO, list[str]] | None = None


_lines = _Lines()


@contextlib.contextmanager
def together() -> Iterator[None]:
    """Write the lines that this thread logs within in one go: each write lets another thread run.

    Entries with native fields go out one by one all the same.
    """
    waiting: dict[TextIO, list[str]] = {}
    _lines.waiting = waiting
    try:
        yield
    finally:
        _lines.waiting = None
        for stream, lines in waiting.items():
            with contextlib.suppress(OSError, ValueError):
                _write(stream, "\n".join(lines))


def _line_writer(stream: TextIO) -> Callable[[str], None]:
    def write(line: str) -> None:
        if _lines.waiting is None:
            _write(stream, line)
        else:
            _lines.waiting.setdefault(stream, []).append(line)

    return write


def _write(stream: TextIO, text: str) -> None:
    # one call for all of it: threads log at the same time
    stream.write(f"{text}\n")
    stream.flush()


def _native_journal() -> Callable[[Mapping[str, bytes]], None] | None:
    """Return what sends fields to journald, or None where there is none to take them."""
    if not _JOURNAL_SOCKET.exists():
        return None
    try:
        from systemd.journal import sendv  # noqa: PLC0415 - optional, and slow to import
    except ImportError:
        return None

    def send(fields: Mapping[str, bytes]) -> None:
        sendv(*(name.encode() + b"=" + value for name, value in fields.items()))

    return send


def _to_fields(
    logger: object, method: str, event: _Event
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Make journal fields: MESSAGE for people, `OC2_<KEY>` of every key for queries."""
    level = event.pop("level", "info")
    fields = {
        "PRIORITY": str(_PRIORITIES.get(level, 6)).encode(),
        "SYSLOG_IDENTIFIER": b"oc2d",
    }
    for key, value in event.items():
        fields[_field_name(key)] = _text(value).encode("utf-8", "backslashreplace")
    event.pop("exception", None)
    fields["MESSAGE"] = _sentence(_printable(logger, method, event)).encode(
        "utf-8", "backslashreplace"
    )
    return (fields,), {}


@lru_cache(maxsize=256)
def _field_name(key: str) -> str:
    return "OC2_" + re.sub(r"[^A-Z0-9_]", "_", key.upper())


def _to_plain_line(_logger: object, _method: str, event: _Event) -> str:
    """Make what a terminal shows, without colours; a traceback follows on lines of its own."""
    when, level = event.pop("timestamp"), event.pop("level")
    exception = event.pop("exception", None)
    line = f"{when} [{level:<8}] {_sentence(event)}"
    return line if exception is None else f"{line}\n{exception}"


def _to_line(_logger: object, _method: str, event: _Event) -> str:
    return f"{event.pop('level', 'info')}: {_sentence(event)}"


def _to_priority_line(_logger: object, _method: str, event: _Event) -> str:
    """Begin with the priority, which journald takes off again (sd-daemon(3))."""
    return f"<{_PRIORITIES.get(event.pop('level', 'info'), 6)}>{_sentence(event)}"


def _sentence(event: Mapping[str, Any]) -> str:
    words = [str(event.get("event", ""))]
    for key, value in event.items():
        if key != "event":
            words.append(f"{key}={_word(value) if type(value) is str else _text(value)}")
    return " ".join(words)


def _word(value: str) -> str:
    """Quote what could be taken for more than one word."""
    whole = value and " " not in value and "=" not in value and '"' not in value
    return value if whole else json.dumps(value)


def _text(value: object) -> str:
    if isinstance(value, str):
        return value
    if value is None or isinstance(value, bool):
        return _CONSTANTS[value]
    kind = type(value)
    return repr(value) if kind is int or kind is float else json.dumps(value, default=repr)


def _is_journal(stream: TextIO) -> bool:
    """Tell whether `stream` ends in journald, by what systemd says of its file (systemd.exec)."""
    try:
        status = os.fstat(stream.fileno())
    except (OSError, ValueError):
        return False
    return os.environ.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"


def _stamp(_logger: object, _method: str, event: _Event) -> _Event:
    """Say when, in UTC, as ISO 8601 has it."""
    seconds, nanoseconds = divmod(time.time_ns(), 1_000_000_000)
    event["timestamp"] = f"{_whole_second(seconds)}.{nanoseconds // 1000:06d}Z"
    return event


@lru_cache(maxsize=1)
def _whole_second(seconds: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))


def _hide_secrets(_logger: object, _method: str, event: _Event) -> _Event:
    """Guard against a slip (MQTT-68): nothing logs secrets on purpose."""
    for key in _secrets(tuple(event)):
        event[key] = "(hidden)"
    return event


@lru_cache(maxsize=256)
def _secrets(keys: tuple[str, ...]) -> list[str]:
    return [key for key in keys if _SECRET.search(key) and not key.endswith("_file")]


def _name_exception(_logger: object, _method: str, event: _Event) -> _Event:
    """Put the kind and the message of an exception in the place of its traceback."""
    given = event.pop("exc_info", None)
    error = given[1] if isinstance(given, tuple) else given
    if given is True:
        error = sys.exc_info()[1]
    if isinstance(error, BaseException):
        event.setdefault("error", f"{type(error).__name__}: {_words(error)}")
    return event


def _words(error: BaseException) -> str:
    """Say what an exception says, if it can: a plugin's may fail at that too."""
    try:
        return str(error)
    except BaseException:  # noqa: BLE001 - any plugin, any error
        return "(says nothing)"


def _printable(_logger: object, _method: str, event: _Event) -> _Event:
    """Escape what would break the line or drive the terminal; tracebacks keep their lines."""
    for key, value in event.items():
        if isinstance(value, str) and not value.isprintable():
            lines = value.split("\n") if key == "exception" else [value]
            event[key] = "\n".join(map(printable, lines))
    return event


def _for_people(_logger: object, _method: str, event: _Event) -> _Event:
    """Begin with the outcome, leave out what tells nothing: an echo, the absent, the usual."""
    kept = {key: event[key] for key in _FIRST if key in event}
    kept.update(event)
    if event.get("command_id") == event.get("request_id"):
        kept.pop("command_id", None)
    if event.get("duplicate") is False:
        del kept["duplicate"]
    for key in [key for key, value in kept.items() if value is None]:
        del kept[key]
    return kept


class _Forward(logging.Handler):
    """Hands what libraries log to structlog, so that there is one log."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            method = getattr(structlog.get_logger(), record.levelname.lower(), None)
            error: tuple[type[BaseException], BaseException, TracebackType | None] | None = None
            if record.exc_info and record.exc_info[0] is not None:
                error = record.exc_info
            if method is not None:
                method(LIBRARY, logger=record.name, message=record.getMessage(), exc_info=error)
        except Exception:  # noqa: BLE001 - logging's own rule for a handler
            self.handleError(record)


def _take_over_logging() -> None:
    root = logging.getLogger()
    for handler in list(root.handlers):
        if isinstance(handler, _Forward):
            root.removeHandler(handler)
    root.addHandler(_Forward(logging.WARNING))
    root.setLevel(logging.WARNING)
