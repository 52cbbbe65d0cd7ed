"""The rules on disk: what was promised survives the process. One thread only: the worker's.

Two SQLite files of one schema: `slpf.db` in the state directory for what survives a reboot, and one
of the same name in the runtime directory for `persistent: false`, void when the boot id is another
(SLPF-18, AMB-54). Every change of a batch is committed, with its command key and outcome, as
*intended*; then the packet filter is told; then `settle` marks it in force, or `withdraw` takes all
of it back. What a crash leaves intended is put in force at the next start: its outcome was never
sent, and the command, run again with the same key, finds it here.

The last 100 000 outcomes are kept, by count and not by time, so that a host that was off for long
still finds them; the engine repeats only commands whose result it had not stored, of which it
accepts far fewer.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from enum import IntEnum
from pathlib import Path

from oc2d.errors import StateError
from oc2d_slpf.backend import Permit
from oc2d_slpf.rules import FIRST_AUTOMATIC, Rule, Shape, Verdict

__all__ = ["Entry", "Outcome", "State", "Store", "StoreError"]

_FILE = "slpf.db"
_VERSION = 1
_OUTCOMES = 100_000
_SLICE = 100  # outcomes forgotten in one transaction at most, beside the one it adds

_SCHEMA = """
CREATE TABLE meta(name TEXT PRIMARY KEY, value) WITHOUT ROWID;
CREATE TABLE rule(
  number INTEGER PRIMARY KEY, key TEXT NOT NULL UNIQUE, state INTEGER NOT NULL,
  verdict TEXT NOT NULL, shape TEXT NOT NULL, match BLOB NOT NULL,
  producer TEXT, start INTEGER, stop INTEGER);
CREATE TABLE outcome(
  seq INTEGER PRIMARY KEY AUTOINCREMENT, key TEXT NOT NULL UNIQUE,
  status INTEGER NOT NULL, text TEXT, number INTEGER);
CREATE TABLE spent(number INTEGER PRIMARY KEY);
CREATE TABLE endpoint(address TEXT, protocol INTEGER, port INTEGER);
"""
_VERDICTS = {verdict.value: verdict for verdict in Verdict}
_COLUMNS = "number, key, state, verdict, shape, match, producer, start, stop"


#: The store could not be written or read; the message is for the log.
StoreError = sqlite3.Error


class State(IntEnum):
    """How far a rule has come."""

    RESERVED = 0  # its command runs later; the number is its own
    INTENDED = 1
    IN_FORCE = 2
    LEAVING = 3


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a command was answered; `number` is its rule's, on success of allow and deny."""

    status: int
    text: str | None = None
    number: int | None = None


@dataclass(frozen=True, slots=True)
class Entry:
    """A rule with what came along with it; the window is in milliseconds, for information."""

    rule: Rule
    key: str
    persistent: bool
    producer: str | None = None
    start: int | None = None
    stop: int | None = None
    state: State = State.INTENDED


class Store:
    """Open both files; raises `StateError` when one cannot be used."""

    def __init__(self, state_directory: Path, runtime_directory: Path, boot_id: str) -> None:
        self._main = _open(state_directory / _FILE, "FULL")
        try:
            self._runtime = _open(runtime_directory / _FILE, "OFF")
        except StateError:
            self._main.close()
            raise
        self._files = {True: self._main, False: self._runtime}
        self._coming: dict[int, bool] = {}
        self._leaving: dict[int, bool] = {}
        self._unreserved: list[Entry] = []
        self._answered: list[str] = []
        self._next = FIRST_AUTOMATIC
        self._numbered = False
        try:
            self._reconcile(boot_id)
        except StoreError as error:
            self.close()
            raise StateError(f"{state_directory / _FILE}: {error}") from error

    def close(self) -> None:
        """Close both files; harmless when repeated."""
        for file in self._files.values():
            file.close()

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        """Commit what is done inside, durably, or nothing of it.

        The runtime file goes first: should the process die between the two, a rule that is there
        keeps its reservation beside it, which the next start clears up.
        """
        files = (self._runtime, self._main)
        try:
            for file in files:
                file.execute("BEGIN IMMEDIATE")
            yield
            if self._numbered:
                self._keep_next()
            for file in files:
                file.execute("COMMIT")
        except BaseException:
            for file in files:
                if file.in_transaction:
                    file.execute("ROLLBACK")
            self._forget_batch()
            raise

    # -- asking

    def outcome(self, key: str) -> Outcome | None:
        """Return what the command with this key was answered."""
        for file in self._files.values():
            query = "SELECT status, text, number FROM outcome WHERE key = ?"
            if row := file.execute(query, (key,)).fetchone():
                return Outcome(*row)
        return None

    def by_number(self, number: int) -> Entry | None:
        """Return the rule or reservation that has this number."""
        return self._find("number", number)

    def by_key(self, key: str) -> Entry | None:
        """Return the rule or reservation that the command with this key made."""
        return self._find("key", key)

    def rules(self) -> list[Rule]:
        """Return the rules that are or are about to be in force."""
        query = "SELECT number, verdict, shape, match FROM rule WHERE state IN (?, ?)"
        states = (State.INTENDED, State.IN_FORCE)
        return [
            Rule(number, _VERDICTS[verdict], Shape.parse(shape), match)
            for file in self._files.values()
            for number, verdict, shape, match in file.execute(query, states)
        ]

    def first(self, limit: int) -> list[Entry]:
        """Return the first rules in force, in order."""
        query = f"SELECT {_COLUMNS} FROM rule WHERE state = ? ORDER BY number LIMIT ?"  # noqa: S608 - constants
        found = [
            _entry(row, persistent=persistent)
            for persistent, file in self._files.items()
            for row in file.execute(query, (State.IN_FORCE, limit))
        ]
        return sorted(found, key=lambda entry: entry.rule.number)[:limit]

    def permits(self) -> frozenset[Permit]:
        """Return the endpoints last kept open."""
        query = "SELECT address, protocol, port FROM endpoint"
        return frozenset(Permit(*row) for row in self._main.execute(query))

    # -- changing, inside `transaction`

    def automatic(self) -> int:
        """Return the next automatic number: below all before it, and of no deleted rule."""
        number = self._next
        spent = "SELECT 1 FROM spent WHERE number = ?"
        while self.by_number(number) or self._main.execute(spent, (number,)).fetchone():
            number -= 1
        # a rollback does not undo this: a gap does no harm
        self._next = number - 1
        self._numbered = True
        return number

    def add(self, entry: Entry, reservation: Entry | None = None) -> None:
        """Intend a rule; the reservation that was made for it is used up."""
        if reservation is not None:
            self._unreserve(reservation)
        self._insert(entry)
        self._coming[entry.rule.number] = entry.persistent

    def reserve(self, entry: Entry) -> None:
        """Keep a number for a rule whose command runs later; it survives a reboot in any case."""
        self._insert(replace(entry, persistent=True, state=State.RESERVED))

    def remove(self, entry: Entry) -> None:
        """Intend that a rule goes; a reservation is gone at once."""
        number = entry.rule.number
        self._main.execute("INSERT OR IGNORE INTO spent VALUES (?)", (number,))
        if entry.state is State.RESERVED:
            self._unreserve(entry)
            return
        self._set_state(entry.persistent, number, State.LEAVING)
        self._leaving[number] = entry.persistent

    def remember(self, key: str, outcome: Outcome, *, persistent: bool = True) -> None:
        """Keep what the command was answered, in the file of the rule it is about."""
        file = self._files[persistent]
        added = file.execute(
            "INSERT INTO outcome(key, status, text, number) VALUES (?, ?, ?, ?)",
            (key, outcome.status, outcome.text, outcome.number),
        )
        self._answered.append(key)
        file.execute(
            "DELETE FROM outcome WHERE seq IN (SELECT seq FROM outcome WHERE seq <= ? LIMIT ?)",
            ((added.lastrowid or 0) - _OUTCOMES, _SLICE),
        )

    def keep_permits(self, permits: Collection[Permit]) -> None:
        """Keep these endpoints for the next start, and no others."""
        self._main.execute("DELETE FROM endpoint")
        rows = [(permit.address, permit.protocol, permit.port) for permit in permits]
        self._main.executemany("INSERT INTO endpoint VALUES (?, ?, ?)", rows)

    def forget(self, keys: Collection[str]) -> None:
        """Remove the rules of these commands: their time was over while the daemon was away."""
        for file in self._files.values():
            file.executemany("DELETE FROM rule WHERE key = ?", ((key,) for key in keys))

    # -- after the packet filter was told

    def settle(self) -> None:
        """Note that what was intended is in force and what was leaving is gone.

        Not synced: after a power failure the filter is loaded anew from what was intended.
        """
        if not self._coming and not self._leaving:
            self._forget_batch()
            return
        coming, leaving = dict(self._coming), dict(self._leaving)
        self._main.execute("PRAGMA synchronous = NORMAL")
        try:
            with self.transaction():
                for number, persistent in coming.items():
                    self._set_state(persistent, number, State.IN_FORCE)
                for number, persistent in leaving.items():
                    self._delete(persistent, number)
        except StoreError:
            self._coming, self._leaving = coming, leaving
            raise
        finally:
            self._main.execute("PRAGMA synchronous = FULL")
        self._forget_batch()

    def confirm(self) -> None:
        """Mark all that was intended as in force: at start, when all of it was loaded."""
        with self.transaction():
            for file in self._files.values():
                query = "UPDATE rule SET state = ? WHERE state = ?"
                file.execute(query, (State.IN_FORCE, State.INTENDED))

    def withdraw(self) -> None:
        """Take back all that was intended since the last `settle`, outcomes and all."""
        with self.transaction():
            for number, persistent in self._coming.items():
                self._delete(persistent, number)
            for number, persistent in self._leaving.items():
                self._set_state(persistent, number, State.IN_FORCE)
            for entry in self._unreserved:
                self._insert(entry)
            for file in self._files.values():
                file.executemany(
                    "DELETE FROM outcome WHERE key = ?", ((k,) for k in self._answered)
                )
        self._forget_batch()

    # -- inside

    def _reconcile(self, boot_id: str) -> None:
        """Void the runtime file of another boot, and clear up after a death between two commits."""
        with self.transaction():
            query = "SELECT value FROM meta WHERE name = 'boot_id'"
            if self._runtime.execute(query).fetchone() != (boot_id,):
                for table in ("meta", "rule", "outcome"):
                    self._runtime.execute(f"DELETE FROM {table}")  # noqa: S608 - constants
                self._runtime.execute("INSERT INTO meta VALUES ('boot_id', ?)", (boot_id,))
            kept = self._runtime.execute("SELECT key FROM rule").fetchall()
            self._main.executemany("DELETE FROM rule WHERE key = ?", kept)
            for file in self._files.values():
                file.execute("DELETE FROM rule WHERE state = ?", (State.LEAVING,))
                query = "SELECT value FROM meta WHERE name = 'next'"
                if row := file.execute(query).fetchone():
                    self._next = min(self._next, row[0])

    def _keep_next(self) -> None:
        """In both files: the runtime one may be committed alone, and does not survive a reboot."""
        for file in self._files.values():
            file.execute("REPLACE INTO meta VALUES ('next', ?)", (self._next,))
        self._main.execute("DELETE FROM spent WHERE number > ?", (self._next,))
        self._numbered = False

    def _find(self, column: str, value: object) -> Entry | None:
        query = f"SELECT {_COLUMNS} FROM rule WHERE {column} = ?"  # noqa: S608 - constants
        for persistent, file in self._files.items():
            if row := file.execute(query, (value,)).fetchone():
                return _entry(row, persistent=persistent)
        return None

    def _insert(self, entry: Entry) -> None:
        rule = entry.rule
        row = (rule.number, entry.key, entry.state, rule.verdict.value, rule.shape.name, rule.key)
        self._files[entry.persistent].execute(
            f"INSERT INTO rule({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",  # noqa: S608 - constants
            (*row, entry.producer, entry.start, entry.stop),
        )

    def _unreserve(self, entry: Entry) -> None:
        self._delete(entry.persistent, entry.rule.number)
        self._unreserved.append(entry)

    def _set_state(self, persistent: bool, number: int, state: State) -> None:  # noqa: FBT001 - names the file
        query = "UPDATE rule SET state = ? WHERE number = ?"
        self._files[persistent].execute(query, (state, number))

    def _delete(self, persistent: bool, number: int) -> None:  # noqa: FBT001 - names the file
        self._files[persistent].execute("DELETE FROM rule WHERE number = ?", (number,))

    def _forget_batch(self) -> None:
        self._coming, self._leaving, self._unreserved, self._answered = {}, {}, [], []


def _entry(row: tuple, *, persistent: bool) -> Entry:  # type: ignore[type-arg]  # a row of _COLUMNS
    number, key, state, verdict, shape, match, producer, start, stop = row
    rule = Rule(number, Verdict(verdict), Shape.parse(shape), match)
    return Entry(rule, key, persistent, producer, start, stop, State(state))


def _open(path: Path, synchronous: str) -> sqlite3.Connection:
    """Open or make one file; the daemon's lock on its directories keeps others away."""
    file: sqlite3.Connection | None = None
    try:
        file = sqlite3.connect(path, isolation_level=None)
        file.execute("PRAGMA journal_mode = WAL")
        file.execute(f"PRAGMA synchronous = {synchronous}")
        _prepare(file)
    except sqlite3.Error as error:
        if file is not None:
            file.close()
        raise StateError(
            f"{path} is damaged or cannot be used: {error};"
            " see to its owner and directory, or move it away to start without its rules"
        ) from error
    return file


def _prepare(file: sqlite3.Connection) -> None:
    version = file.execute("PRAGMA user_version").fetchone()[0]
    if version == 0:
        file.executescript(f"BEGIN; {_SCHEMA} PRAGMA user_version = {_VERSION}; COMMIT;")
    elif version != _VERSION:
        raise sqlite3.DatabaseError(f"made by another oc2d-slpf (version {version} of its tables)")
    damage = file.execute("PRAGMA quick_check(1)").fetchone()[0]
    if damage != "ok":
        raise sqlite3.DatabaseError(damage)
