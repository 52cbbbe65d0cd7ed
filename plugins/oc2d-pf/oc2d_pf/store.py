"""What pf knows of a rule beyond the engine's store: target, arguments, places. Worker only.

A row is written before the engine is asked and completed when it has answered, with the outcome. A
death in between leaves a row that is not complete; the command comes again with its key, and the
engine, which knows the keys of what it did, answers as the first time.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from oc2d.errors import StateError
from oc2d_pf.numbering import Numbering
from oc2d_slpf import storing
from oc2d_slpf.storing import Outcome, StoreError

__all__ = ["Outcome", "Row", "Store", "StoreError"]

_VERSION = 2
_SCHEMA = """
CREATE TABLE rule(
  number INTEGER PRIMARY KEY, key TEXT NOT NULL UNIQUE, state TEXT NOT NULL, boot TEXT,
  row BLOB NOT NULL);
CREATE TABLE outcome(
  seq INTEGER PRIMARY KEY AUTOINCREMENT, key TEXT NOT NULL UNIQUE,
  status INTEGER NOT NULL, text TEXT, number INTEGER);
CREATE TABLE next(band INTEGER PRIMARY KEY, number INTEGER NOT NULL);
CREATE TABLE spent(number INTEGER PRIMARY KEY);
"""
# what version 1 had not; `moved`: rules that the engine may still have at another place
_PLACES = """
ALTER TABLE rule ADD COLUMN place INTEGER;
UPDATE rule SET place = number;
CREATE UNIQUE INDEX place ON rule(place);
CREATE TABLE moved(number INTEGER PRIMARY KEY);
DELETE FROM spent WHERE number < 1000000;
"""
_OUTCOMES = 100_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A rule of pf; `slots` are its places: the engine's key and the address, of a name only.

    `state`: `reserved` for a command that begins later, `begun` while the engine works, `done`.
    `turn` counts
    the changes of a name's addresses: no key is ever used for another one.
    """

    number: int
    key: str
    state: str
    action: str
    target_name: str
    target: Any
    args: dict[str, Any]
    persistent: bool = True
    producer: str | None = None
    start: int | None = None
    stop: int | None = None
    slots: Mapping[int, tuple[str, str]] = field(default_factory=dict)
    turn: int = 0

    @property
    def addresses(self) -> list[str]:
        """The addresses that a name has."""
        return [address for _, address in self.slots.values() if address]


class Store:
    """Open the file; raises `StateError` when it cannot be used."""

    def __init__(self, directory: Path, boot_id: str) -> None:
        path = directory / "pf.db"
        self._boot = boot_id
        try:
            self._file = sqlite3.connect(path, isolation_level=None)
            try:
                self._open()
            except BaseException:
                self._file.close()
                raise
        except StoreError as error:
            raise StateError(f"{path}: {error}") from error

    def _open(self) -> None:
        self._file.execute("PRAGMA journal_mode = WAL")
        self._file.execute("PRAGMA synchronous = FULL")
        self._prepare()
        self._numbering = Numbering(self._file)
        # what was not to survive a reboot is gone from the engine too (PF-29)
        with self.transaction():
            for row in list(self._rows("WHERE boot != ? AND state != 'reserved'", self._boot)):
                self.void(row)

    def _prepare(self) -> None:
        version = self._file.execute("PRAGMA user_version").fetchone()[0]
        if version > _VERSION:
            raise sqlite3.OperationalError(f"made by another oc2d-pf (version {version})")
        if version < _VERSION:
            schema = _PLACES if version else _SCHEMA + _PLACES
            done = f"PRAGMA user_version = {_VERSION};"
            self._file.executescript(f"BEGIN; {schema} {done} COMMIT;")

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def transaction(self) -> AbstractContextManager[None]:
        """Commit what is done inside, durably, or nothing of it."""
        return storing.transaction(self._file)

    # -- asking

    def outcome(self, key: str) -> Outcome | None:
        """Return what the command with this key was answered."""
        return storing.outcomes(self._file, (key,)).get(key)

    def by_number(self, number: int) -> Row | None:
        """Return the rule or reservation with this number."""
        return next(self._rows("WHERE number = ?", number), None)

    def by_key(self, key: str) -> Row | None:
        """Return the rule or reservation that this command made."""
        return next(self._rows("WHERE key = ?", key), None)

    def names(self) -> list[Row]:
        """Return the rules of names that are in force."""
        return [
            row for row in self._rows("WHERE state = ?", "done") if row.target_name == "domain_name"
        ]

    def loose(self) -> Iterator[Row]:
        """Yield the rules that are not to last, and those of commands that came to no end."""
        where = "WHERE state = 'begun' OR (state = 'done' AND boot IS NOT NULL)"
        return self._rows(where)

    def is_empty(self) -> bool:
        """Tell whether there is no rule and no reservation."""
        return next(self._rows("LIMIT 1"), None) is None

    def first(self, limit: int) -> list[Row]:
        """Return the first rules in order."""
        return list(self._rows("WHERE state != 'reserved' ORDER BY place LIMIT ?", limit))

    def count(self) -> int:
        """Tell how many rules there are."""
        query = "SELECT count(*) FROM rule WHERE state != 'reserved'"
        return int(self._file.execute(query).fetchone()[0])

    def place(self, number: int) -> int:
        """Return where in the order the rule with this number stands."""
        query = "SELECT place FROM rule WHERE number = ?"
        return int(self._file.execute(query, (number,)).fetchone()[0])

    def moved(self) -> list[Row]:
        """Return the rules that the engine may still have at another place."""
        return list(self._rows("WHERE number IN (SELECT number FROM moved)"))

    # -- changing, inside `transaction`

    def automatic(self, priority: int | None) -> int | None:
        """Return the next number of a priority that no rule has or had; None: there is none."""
        return self._numbering.automatic(priority)

    def put(self, row: Row) -> bool:
        """Write a rule, or write it anew; False: there is no place for it in the order."""
        blob = msgspec.json.encode(row)
        boot = None if row.persistent else self._boot
        known = self._file.execute(
            "UPDATE rule SET state = ?, boot = ?, row = ? WHERE number = ? AND key = ?",
            (row.state, boot, blob, row.number, row.key),
        )
        if known.rowcount:
            return True
        if (place := self._numbering.place(row.number, row.args.get("priority"))) is None:
            return False
        self._file.execute(
            "INSERT INTO rule(number, key, state, boot, row, place) VALUES (?, ?, ?, ?, ?, ?)",
            (row.number, row.key, row.state, boot, blob, place),
        )
        return True

    def drop(self, row: Row) -> None:
        """Take a rule out; no automatic number will be its."""
        self._file.execute("DELETE FROM rule WHERE number = ?", (row.number,))
        self._numbering.spend(row.number)

    def void(self, row: Row) -> None:
        """Take a rule out that has ended of itself; its command may be carried out anew."""
        self.drop(row)
        self._file.execute("DELETE FROM outcome WHERE key = ?", (row.key,))

    def settled(self) -> None:
        """Note that the engine has all rules where they are."""
        self._file.execute("DELETE FROM moved")

    def remember(self, key: str, outcome: Outcome) -> None:
        """Keep what the command was answered; what it was answered first counts."""
        self._file.execute(
            "INSERT OR IGNORE INTO outcome(key, status, text, number) VALUES (?, ?, ?, ?)",
            (key, outcome.status, outcome.text, outcome.number),
        )
        self._file.execute(
            "DELETE FROM outcome WHERE seq <= (SELECT max(seq) FROM outcome) - ?", (_OUTCOMES,)
        )

    def _rows(self, where: str, *values: object) -> Iterator[Row]:
        for (blob,) in self._file.execute(f"SELECT row FROM rule {where}", values):  # noqa: S608 - constants
            yield msgspec.json.decode(blob, type=Row)
