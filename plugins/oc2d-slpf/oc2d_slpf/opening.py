"""The file of the store opened, checked and read, in as little time as a start should take.

SQLite keeps no checksums. So the whole file is looked through before anything in it is trusted: by
a second connection on a thread of its own, while the rules are read. Both take about 0.1 s for
100 000 rules, and SQLite lets go of the interpreter while it looks.
"""

from __future__ import annotations

import sqlite3
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

from oc2d.errors import StateError
from oc2d_slpf import salvage
from oc2d_slpf.rules import Alike, Key, Shape, judgement, unpack

__all__ = ["open_", "rules"]

_VERSION = 1
# `twin` finds rules by key, and holds all of them a second time, should the table be damaged.
_SCHEMA = f"""
PRAGMA user_version = {_VERSION};
CREATE TABLE meta(name TEXT PRIMARY KEY, value) WITHOUT ROWID;
CREATE TABLE rule(
  number INTEGER PRIMARY KEY, key TEXT NOT NULL, verdict TEXT NOT NULL, shape TEXT NOT NULL,
  match BLOB NOT NULL, persistent INTEGER NOT NULL, reserved INTEGER NOT NULL,
  producer TEXT, start INTEGER, stop INTEGER);
CREATE INDEX twin ON rule(
  key, verdict, shape, match, persistent, reserved, producer, start, stop);
CREATE TABLE outcome(
  seq INTEGER PRIMARY KEY AUTOINCREMENT, key TEXT NOT NULL UNIQUE,
  status INTEGER NOT NULL, text TEXT, number INTEGER);
CREATE TABLE spent(number INTEGER PRIMARY KEY);
CREATE TABLE endpoint(address TEXT, protocol INTEGER, port INTEGER);
"""

#: Numbers, descending, and keys of the rules in force, by verdict and shape as they are stored.
_Read = dict[tuple[str, str], tuple[list[int], list[Key]]]


class _Damage(Exception):  # noqa: N818 - what was found, not what went wrong
    """The file holds what was never written to it."""


def open_(path: Path) -> tuple[sqlite3.Connection, list[Alike], str | None]:
    """Open the file, make it or repair it; return the rules in force and what was wrong with it.

    Raises `StateError`. The daemon's lock on its directories keeps others away.
    """
    try:
        salvage.finish(path)
        salvage.sync(path)
        try:
            return *_connect(path), None
        except _Damage as damage:
            salvage.rebuild(path, _SCHEMA, _is_sound)
            return *_connect(path), str(damage)
    except (sqlite3.Error, OSError, _Damage) as error:
        raise StateError(
            f"{path} cannot be used: {error}; see to its owner, its directory and its disk"
        ) from error


def rules(file: sqlite3.Connection) -> list[Alike]:
    """Read the rules that are in force from a file that was checked."""
    return _alike(_read(file))


def _connect(path: Path) -> tuple[sqlite3.Connection, list[Alike]]:
    if path.exists() and not path.stat().st_size:
        raise _Damage("it is empty")
    file = sqlite3.connect(path, isolation_level=None)
    try:
        file.execute("PRAGMA journal_mode = WAL")
        file.execute("PRAGMA synchronous = FULL")
        _prepare(file)
        with ThreadPoolExecutor(1) as beside:
            checked = beside.submit(_check, path)
            try:
                read = _read(file)
            finally:
                checked.result()  # if the file is damaged, this is what to say about it
        return file, _alike(read)
    except BaseException as error:
        file.close()
        if found := _damage(error):
            raise _Damage(found) from error
        raise


def _damage(error: BaseException) -> str | None:
    """Tell what is damaged, if that is what the error means."""
    if isinstance(error, UnicodeDecodeError):  # SQLite quotes what it cannot read
        return salvage.text(error.object)
    found = str(error)
    if isinstance(error, sqlite3.OperationalError):
        return found if found.startswith("no such ") else None
    return found if isinstance(error, sqlite3.DatabaseError) else None


def _prepare(file: sqlite3.Connection) -> None:
    version = file.execute("PRAGMA user_version").fetchone()[0]
    if version == 0:
        file.executescript(f"BEGIN; {_SCHEMA} COMMIT;")
    elif version != _VERSION:
        raise sqlite3.OperationalError(f"made by another oc2d-slpf (version {version})")


def _check(path: Path) -> None:
    """Look through the whole file, and at each kind of rule, with a match of the same length."""
    query = "SELECT DISTINCT verdict, shape, typeof(match), length(match) FROM rule"
    with closing(sqlite3.connect(path, isolation_level=None)) as file:
        found = file.execute("PRAGMA quick_check(1)").fetchone()[0]
        if found != "ok":
            raise _Damage(found)
        file.text_factory = salvage.text
        for verdict, shape, type_, length in file.execute(query):
            if type_ != "blob" or not _is_sound(verdict, shape, bytes(length)):
                raise _Damage("a rule makes no sense")


def _is_sound(verdict: str, shape: str, match: bytes) -> bool:
    """Tell whether a rule can be read back."""
    try:
        judgement(verdict)
        read = Shape.parse(shape)
        return len(unpack(read, match)) == read.fields
    except (ValueError, TypeError, IndexError):
        return False


def _read(file: sqlite3.Connection) -> _Read:
    """Read rules without a look at what they say."""
    found: _Read = defaultdict(lambda: ([], []))
    columns = "verdict, shape, number, match"
    query = f"SELECT {columns} FROM rule WHERE NOT reserved ORDER BY number DESC"  # noqa: S608 - constants
    for verdict, shape, number, match in file.execute(query):
        numbers, keys = found[verdict, shape]
        numbers.append(number)
        keys.append(match)
    return found


def _alike(read: _Read) -> list[Alike]:
    return [
        Alike(Shape.parse(shape), judgement(verdict), numbers, keys)
        for (verdict, shape), (numbers, keys) in read.items()
    ]
