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
from oc2d_slpf import storing
from oc2d_slpf.storing import Outcome, StoreError

__all__ = ["Outcome", "Row", "Store", "StoreError", "band"]

_SCHEMA = """
PRAGMA user_version = 1;
CREATE TABLE rule(
  number INTEGER PRIMARY KEY, key TEXT NOT NULL UNIQUE, state TEXT NOT NULL, boot TEXT,
  row BLOB NOT NULL);
CREATE TABLE outcome(
  seq INTEGER PRIMARY KEY AUTOINCREMENT, key TEXT NOT NULL UNIQUE,
  status INTEGER NOT NULL, text TEXT, number INTEGER);
CREATE TABLE next(band INTEGER PRIMARY KEY, number INTEGER NOT NULL);
CREATE TABLE spent(number INTEGER PRIMARY KEY);
"""
_OUTCOMES = 100_000
_PRIORITIES = 1000
_FIRST_BAND, _BAND = 1_000_000, 16_000
_FIRST_AUTOMATIC = 33_000_000
_LAST_AUTOMATIC = _FIRST_BAND + _PRIORITIES * _BAND


def band(priority: int | None) -> range | None:
    """Return the numbers that rules of a priority have, None: it is none (PF-32)."""
    if priority is None:
        return range(_LAST_AUTOMATIC, _FIRST_AUTOMATIC + 1)
    if not 0 <= priority < _PRIORITIES:
        return None
    first = _FIRST_BAND + priority * _BAND
    return range(first, first + _BAND)


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
            self._file.execute("PRAGMA journal_mode = WAL")
            self._file.execute("PRAGMA synchronous = FULL")
            if self._file.execute("PRAGMA user_version").fetchone()[0] == 0:
                self._file.executescript(f"BEGIN; {_SCHEMA} COMMIT;")
            # what was not to survive a reboot is gone from the engine too (PF-29)
            self._file.execute(
                "DELETE FROM rule WHERE boot != ? AND state != 'reserved'", (boot_id,)
            )
        except StoreError as error:
            raise StateError(f"{path}: {error}") from error

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

    def first(self, limit: int) -> list[Row]:
        """Return the first rules in order."""
        return list(self._rows("WHERE state = 'done' ORDER BY number LIMIT ?", limit))

    def count(self) -> int:
        """Tell how many rules there are."""
        query = "SELECT count(*) FROM rule WHERE state = 'done'"
        return int(self._file.execute(query).fetchone()[0])

    # -- changing, inside `transaction`

    def automatic(self, priority: int | None) -> int | None:
        """Return the next number of a priority that no rule has or had; None: there is none."""
        numbers = band(priority)
        assert numbers is not None  # noqa: S101 - `check` has looked
        place = -1 if priority is None else priority
        query = "SELECT number FROM next WHERE band = ?"
        found = self._file.execute(query, (place,)).fetchone()
        number = found[0] if found else numbers[-1]
        taken = "SELECT 1 FROM rule WHERE number = ? UNION ALL SELECT 1 FROM spent WHERE number = ?"
        while number >= numbers[0] and self._file.execute(taken, (number, number)).fetchone():
            number -= 1
        if number < numbers[0]:
            return None
        self._file.execute("REPLACE INTO next VALUES (?, ?)", (place, number - 1))
        return int(number)

    def put(self, row: Row) -> None:
        """Write a rule, or write it anew."""
        blob = msgspec.json.encode(row)
        boot = None if row.persistent else self._boot
        self._file.execute(
            "REPLACE INTO rule VALUES (?, ?, ?, ?, ?)", (row.number, row.key, row.state, boot, blob)
        )

    def drop(self, row: Row) -> None:
        """Take a rule out; no automatic number will be its."""
        self._file.execute("DELETE FROM rule WHERE number = ?", (row.number,))
        self._file.execute("INSERT OR IGNORE INTO spent VALUES (?)", (row.number,))

    def remember(self, key: str, outcome: Outcome) -> None:
        """Keep what the command was answered."""
        added = self._file.execute(
            "INSERT OR IGNORE INTO outcome(key, status, text, number) VALUES (?, ?, ?, ?)",
            (key, outcome.status, outcome.text, outcome.number),
        )
        self._file.execute(
            "DELETE FROM outcome WHERE seq <= ?", ((added.lastrowid or 0) - _OUTCOMES,)
        )

    def _rows(self, where: str, value: object) -> Iterator[Row]:
        for (blob,) in self._file.execute(f"SELECT row FROM rule {where}", (value,)):  # noqa: S608 - constants
            yield msgspec.json.decode(blob, type=Row)
