"""A damaged store: what can still be read moves into a new file, the old one is set aside.

The new file is complete before the old one gives up its name, so that a death on the way loses
nothing: the next start goes on from there.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path
from typing import Any

from oc2d_slpf.rules import FIRST_AUTOMATIC

__all__ = ["finish", "rebuild", "set_aside", "sync", "text"]

_ASIDE = ".damaged-"
_TABLES = ("rule", "outcome", "spent", "endpoint")
_LISTED = "SELECT type, name, tbl_name, rootpage, sql FROM sqlite_master"
# SQLite quotes what it cannot read, and that may be no text
_UNREADABLE = (sqlite3.Error, UnicodeDecodeError)
_LOST = 1_000_000  # numbers that rules nobody can read any more may have had


def rebuild(path: Path, schema: str, is_sound: Callable[[Any, Any, Any], bool]) -> None:
    """Make a new file of what can be read in `path`, and set that one aside.

    `is_sound(verdict, shape, match)` judges a rule. Raises `sqlite3.Error` and OSError, and then
    nothing has changed.
    """
    fresh = _fresh(path)
    fresh.unlink(missing_ok=True)
    with ExitStack() as stack:
        new = stack.enter_context(closing(_plain(fresh)))
        new.executescript(f"BEGIN; {schema} COMMIT;")
        sources = [stack.enter_context(closing(_plain(path)))]
        if _listed(sources[0]) != _listed(new):
            sources.insert(0, stack.enter_context(_with_list(path, fresh)))
        new.execute("BEGIN")
        for table in _TABLES:
            # not of both: a column that lost its name or kind brings the same under other numbers
            found = next(filter(None, (_readable(old, table) for old in sources)), {})
            for row in found.values():
                if table == "rule" and not is_sound(*row[2:5]):
                    continue
                with suppress(sqlite3.Error):  # twice the same, or a NULL where none may be
                    _insert(new, table, row)
        _insert(new, "meta", ("next", _next(sources, new)))
        new.execute("COMMIT")
    aside = path.with_name(path.name + _ASIDE + time.strftime("%Y%m%dT%H%M%SZ", time.gmtime()))
    path.rename(aside)
    with suppress(FileNotFoundError):
        _beside(path, "-wal").rename(_beside(aside, "-wal"))
    finish(path)


def sync(path: Path) -> None:
    """Write to the disk what an earlier process was killed before syncing: we will act on it."""
    for old in (path, _beside(path, "-wal")):
        with suppress(FileNotFoundError), old.open("rb") as file:
            os.fsync(file.fileno())


def finish(path: Path) -> None:
    """Give a new file the name of the one that was set aside; does nothing when that is done."""
    fresh = _fresh(path)
    if path.exists():
        fresh.unlink(missing_ok=True)
    elif fresh.exists():
        for suffix in ("-wal", "-shm"):
            _beside(path, suffix).unlink(missing_ok=True)
        fresh.rename(path)


def set_aside(path: Path) -> tuple[str, ...]:
    """Name the damaged files that are still there."""
    found = {name.name.removesuffix("-wal") for name in path.parent.glob(f"{path.name}{_ASIDE}*")}
    return tuple(sorted(found))


def text(stored: bytes) -> str:
    """Read text that may not be any."""
    return stored.decode(errors="replace")


def _fresh(path: Path) -> Path:
    return _beside(path, ".new")


def _beside(path: Path, suffix: str) -> Path:
    return path.with_name(path.name + suffix)


def _plain(path: Path) -> sqlite3.Connection:
    file = sqlite3.connect(path, isolation_level=None)
    file.text_factory = text
    return file


def _listed(file: sqlite3.Connection) -> set[tuple[Any, ...]]:
    """Read which tables there are, and where."""
    with suppress(*_UNREADABLE):
        return set(file.execute(_LISTED))
    return set()


@contextmanager
def _with_list(path: Path, fresh: Path) -> Iterator[sqlite3.Connection]:
    """Open a copy of the file with the first page of a new one: it lists the tables, and no more.

    They begin on the same pages in each file, for they were made by the same statements.
    """
    place = _beside(path, ".copy")
    shutil.rmtree(place, ignore_errors=True)  # of one who died here
    place.mkdir()
    try:
        copy = place / path.name
        shutil.copyfile(path, copy)
        with suppress(FileNotFoundError):
            shutil.copyfile(_beside(path, "-wal"), _beside(copy, "-wal"))
        page = bytearray(fresh.read_bytes())
        size = int.from_bytes(page[16:18], "big")
        page[28:32] = (copy.stat().st_size // size).to_bytes(4, "big")  # how many there are
        with copy.open("r+b") as file:
            file.write(page[:size])
        with closing(_plain(copy)) as opened:
            yield opened
    finally:
        shutil.rmtree(place, ignore_errors=True)


def _readable(file: sqlite3.Connection, table: str) -> dict[int, tuple[Any, ...]]:
    """Return by rowid each row that can be read.

    A walk stops at the first bad page: so from both ends, and by the index likewise, row by row
    where that does not hold all of it.
    """
    rows: dict[int, tuple[Any, ...]] = {}
    found: set[int] = set()
    for walk in (
        *("NOT INDEXED ORDER BY rowid", "NOT INDEXED ORDER BY rowid DESC"),
        *("ORDER BY key", "ORDER BY key DESC"),
    ):
        with suppress(*_UNREADABLE):
            for rowid, *row in file.execute(f"SELECT rowid, * FROM {table} {walk}"):  # noqa: S608 - constants
                rows.setdefault(rowid, tuple(row))
        with suppress(*_UNREADABLE):
            found.update(row for (row,) in file.execute(f"SELECT rowid FROM {table} {walk}"))  # noqa: S608 - constants
    for rowid in found - rows.keys():
        with suppress(*_UNREADABLE):
            query = f"SELECT * FROM {table} WHERE rowid = ?"  # noqa: S608 - constants
            rows[rowid] = file.execute(query, (rowid,)).fetchone()
    return {rowid: row for rowid, row in sorted(rows.items()) if row}


def _insert(file: sqlite3.Connection, table: str, row: tuple[Any, ...]) -> None:
    file.execute(f"INSERT INTO {table} VALUES ({', '.join('?' * len(row))})", row)  # noqa: S608 - constants


def _next(sources: Iterable[sqlite3.Connection], new: sqlite3.Connection) -> int:
    """Return the next automatic number: well below all that are known, if it was not noted."""
    for old in sources:
        with suppress(*_UNREADABLE):
            for (value,) in old.execute("SELECT value FROM meta WHERE name = 'next'"):
                if isinstance(value, int) and 0 < value <= FIRST_AUTOMATIC:
                    return value
    # numbers that Producers chose are rarely in the upper half
    query = """
        SELECT min(number) FROM (
            SELECT number FROM rule UNION ALL SELECT number FROM outcome
            UNION ALL SELECT number FROM spent)
        WHERE number > ? / 2 AND number <= ?"""
    (lowest,) = new.execute(query, (FIRST_AUTOMATIC, FIRST_AUTOMATIC)).fetchone()
    return int(lowest or FIRST_AUTOMATIC) - _LOST
