"""`oc2d status` for people: the daemon's snapshot as text.

The snapshot is JSON of this shape; every member may be absent, and further ones are shown as
`name: value` where they stand. Times are milliseconds since the epoch::

    {"version": "0.1.0", "pid": 4711, "started": 1, "device_id": "fw-7", "profiles": ["slpf"],
     "warnings": ["actuators.x-foo: no plugin ..."],
     "connection": {"connected": true, "since": 1, "broker": "192.0.2.1:8883", ...},
     "subscriptions": {"oc2/cmd/all": 2, "oc2/cmd/ap/slpf": "not authorized"},
     "counters": {"received": 7, ...},
     "queue": {"waiting": 0, "limit": 10000, ...},
     "commands": [{"received": 1, "request_id": "...", "producer": "soc", "profile": "slpf",
                   "action": "deny", "target": "ipv4_net", "status": 200, "duration_ms": 1.2}],
     "actuators": {"slpf": {"state": "running", "rules": [{"number": 1, "verdict": "deny",
                   "match": "203.0.113.0/24", "window": "..."}], ...}}}

A list of objects becomes a table with a column for each member. What came from Producers is
escaped where it could drive the terminal.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timezone
from typing import Any

__all__ = ["render"]

#: Members that are times, wherever they stand.
_TIMES = frozenset({"started", "since", "received", "start_time", "stop_time", "next_attempt"})
_LARGEST_COUNT = 10**11  # what is smaller is a counter that happens to be called `received`


def render(snapshot: Mapping[str, Any]) -> str:
    """Write the snapshot as indented text, sections in the order of the snapshot."""
    return "\n".join(_lines(snapshot)) + "\n"


def _lines(members: Mapping[str, Any], indent: str = "") -> Iterator[str]:
    plain = {key: value for key, value in members.items() if not _is_nested(value)}
    width = max((len(_escaped(key)) for key in plain), default=0) + 1
    for key, value in plain.items():
        yield f"{indent}{_escaped(key) + ':':<{width}} {_text(key, value)}"
    for key, value in members.items():
        if key in plain:
            continue
        if not indent:
            yield ""
        yield f"{indent}{_escaped(key)}:"
        if isinstance(value, Mapping):
            yield from _lines(value, indent + "  ")
        elif all(isinstance(row, Mapping) for row in value):
            yield from _table(value, indent + "  ")
        else:
            yield from (f"{indent}  {_text(key, item)}" for item in value)


def _is_nested(value: object) -> bool:
    """Tell what gets lines of its own: members, tables, and lists of sentences."""
    if isinstance(value, Mapping):
        return bool(value)
    return isinstance(value, list) and any(
        isinstance(item, Mapping) or (isinstance(item, str) and " " in item) for item in value
    )


def _table(rows: Sequence[Mapping[str, Any]], indent: str) -> Iterator[str]:
    columns = list(dict.fromkeys(key for row in rows for key in row))
    cells = [[_text(key, row.get(key)) for key in columns] for row in rows]
    heads = [_escaped(key) for key in columns]
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
        return ", ".join(f"{_escaped(name)} {_text(name, item)}" for name, item in value.items())
    return _escaped(str(value))


def _number(key: str, value: float) -> str:
    if key in _TIMES and value >= _LARGEST_COUNT:
        moment = datetime.fromtimestamp(value / 1000, timezone.utc)
        return moment.strftime("%Y-%m-%dT%H:%M:%SZ")
    return str(round(value, 3))


def _escaped(text: str) -> str:
    if text.isprintable():
        return text
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode() for char in text
    )
