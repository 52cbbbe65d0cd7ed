"""`oc2d status` for people: the daemon's snapshot as text.

The snapshot is a JSON object (`daemon.Daemon.snapshot`): first the plain members, then each nested
one under its name. Members that are called like a moment are shown as one, be they seconds or
milliseconds since the epoch.

A list of objects becomes a table with a column for each member. What came from Producers is
escaped where it could drive the terminal.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timezone
from typing import Any

from oc2d.terminal import printable

__all__ = ["render"]

#: Members that are moments, wherever they stand.
_MOMENTS = frozenset(
    {"at", "created", "next_attempt", "received", "since", "start_time", "started", "stop_time"}
)
#: Columns that mostly repeat another, and are left out when they do.
_ECHOES = {"command_id": "request_id"}
#: Members that are shown only when there is something to tell.
_RARE = frozenset({"plugins", "reload_refused"})
_SECONDS = 10**9  # what is smaller is a counter of the same name
_MILLISECONDS = 10**11


def render(snapshot: Mapping[str, Any]) -> str:
    """Write the snapshot as indented text, sections in the order of the snapshot."""
    return "\n".join(_lines(snapshot)) + "\n"


def _lines(members: Mapping[str, Any], indent: str = "") -> Iterator[str]:
    members = {key: value for key, value in members.items() if value or key not in _RARE}
    if isinstance(granted := members.get("subscriptions"), Mapping):
        members["subscriptions"] = {topic: _granted(qos) for topic, qos in granted.items()}
    plain = {key: value for key, value in members.items() if not _is_nested(value)}
    width = max((len(printable(key)) for key in plain), default=0) + 1
    for key, value in plain.items():
        yield f"{indent}{printable(key) + ':':<{width}} {_text(key, value)}"
    for key, value in members.items():
        if key in plain:
            continue
        if not indent:
            yield ""
        yield f"{indent}{printable(key)}:"
        if isinstance(value, Mapping):
            yield from _lines(value, indent + "  ")
        elif all(isinstance(row, Mapping) for row in value):
            if key == "plugins":  # they have no members in common
                yield from (line for row in value for line in _lines(row, indent + "  "))
            else:
                yield from _table(value, indent + "  ")
        else:
            yield from (f"{indent}  {_text(key, item)}" for item in value)


def _granted(qos: object) -> object:
    return f"QoS {qos}" if isinstance(qos, int) else qos


def _is_nested(value: object) -> bool:
    """Tell what gets lines of its own: members, tables, and lists of sentences."""
    if isinstance(value, Mapping):
        return bool(value)
    return isinstance(value, list) and any(
        isinstance(item, Mapping) or (isinstance(item, str) and " " in item) for item in value
    )


def _table(rows: Sequence[Mapping[str, Any]], indent: str) -> Iterator[str]:
    columns = list(dict.fromkeys(key for row in rows for key in row))
    columns = [
        key
        for key in columns
        if key not in _ECHOES or any(row.get(key) != row.get(_ECHOES[key]) for row in rows)
    ]
    cells = [[_text(key, row.get(key)) for key in columns] for row in rows]
    heads = [printable(key) for key in columns]
    widths = [max(len(line[at]) for line in [heads, *cells]) for at in range(len(columns))]
    for line in [heads, *cells]:
        padded = (f"{cell:<{width}}" for cell, width in zip(line, widths, strict=True))
        yield (indent + "  ".join(padded)).rstrip()


def _text(key: str, value: object) -> str:
    if value is None or value in ({}, [], ""):
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (int, float)):
        return _number(key, value)
    if isinstance(value, list):
        return ", ".join(_text(key, item) for item in value)
    if isinstance(value, Mapping):
        return ", ".join(f"{printable(name)} {_text(name, item)}" for name, item in value.items())
    return printable(str(value))


def _number(key: str, value: float) -> str:
    # A window may end beyond the calendar, and JSON of Python's has Infinity and NaN.
    with contextlib.suppress(OverflowError, OSError, ValueError):
        if key == "uptime":
            return f"{round(value)} s"
        if key in _MOMENTS and value >= _SECONDS:
            seconds = value / 1000 if value >= _MILLISECONDS else value
            return datetime.fromtimestamp(seconds, timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
    return str(round(value, 3))
