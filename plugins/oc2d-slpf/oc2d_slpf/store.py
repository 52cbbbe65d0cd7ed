"""The rules on disk: what was promised survives the process. One thread only: the worker's.

One SQLite file in the state directory. A change is written, carried into the packet filter, and
committed, in this order: what the file holds was in force, and a change that is not in the file was
never answered, so it is run again with the same key or has failed. `persistent: false` rules are in
the same file; they are void unless a mark in the runtime directory, which does not outlive a
reboot, names this boot (SLPF-18, AMB-54).

The last 100 000 outcomes are kept, by count and not by time, so that a host that was off for long
still finds them; the engine repeats only commands whose result it had not stored, of which it
accepts far fewer.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from oc2d.errors import StateError
from oc2d_slpf import opening, salvage, storing
from oc2d_slpf.backend import Permit
from oc2d_slpf.rules import FIRST_AUTOMATIC, Alike, Rule, Shape, judgement
from oc2d_slpf.storing import Outcome, StoreError

__all__ = ["Entry", "Outcome", "Store", "StoreError"]

_FILE = "slpf.db"
_MARK = "slpf.boot"
_OUTCOMES = 100_000
_SLICE = 1000  # outcomes forgotten in one transaction at most: more than one can add

_COLUMNS = "number, key, verdict, shape, match, persistent, reserved, producer, start, stop"


@dataclass(frozen=True, slots=True)
class Entry:
    """A rule with what came along with it; the window is in milliseconds, for information.

    `reserved`: its command runs later, and the number is kept for it.
    """

    rule: Rule
    key: str
    persistent: bool
    producer: str | None = None
    start: int | None = None
    stop: int | None = None
    reserved: bool = False


class Store:
    """Open the file; raises `StateError` when it cannot be used.

    One that is damaged is set aside and what can be read of it is kept; `damaged` names all that
    were set aside and are still there, `repaired` tells what was found wrong this time.
    """

    def __init__(self, state_directory: Path, runtime_directory: Path, boot_id: str) -> None:
        path = state_directory / _FILE
        self._file, read, self.repaired = opening.open_(path)
        self._read: tuple[int, list[Alike]] | None = (self._file.total_changes, read)
        self._next = FIRST_AUTOMATIC
        self._taken: int | None = None  # no number between it and `_next` is taken; None: unknown
        self._numbered = False
        self._added: dict[int, Entry] = {}  # within a transaction, not written yet
        self._told: dict[str, Outcome] = {}  # likewise
        self._reserved: set[str] | None = None  # the keys of all reservations; None: unknown
        try:
            self.damaged = salvage.set_aside(path)
            self._next = int(self._meta("next") or FIRST_AUTOMATIC)
            self._void_unless(runtime_directory / _MARK, boot_id)
        except (StoreError, OSError) as error:
            self.close()
            raise StateError(f"{path}: {error}") from error

    def close(self) -> None:
        """Close the file; harmless when repeated."""
        self._file.close()

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        """Commit what is done inside, durably, or nothing of it."""
        before = self._next
        try:
            with storing.transaction(self._file):
                yield
                self.write()
        except BaseException:
            self._added, self._told, self._reserved = {}, {}, None
            # the file has the `next` of before: what it keeps may be taken
            self._next, self._taken, self._numbered = min(self._next, before), None, True
            raise

    # -- asking

    def outcomes(self, keys: Collection[str]) -> dict[str, Outcome]:
        """Return what the commands with these keys were answered, of those that were."""
        return storing.outcomes(self._file, keys)

    def by_number(self, number: int) -> Entry | None:
        """Return the rule or reservation that has this number."""
        return self._added.get(number) or next(self._entries("WHERE number = ?", number), None)

    def by_key(self, key: str) -> Entry | None:
        """Return the rule or reservation that the command with this key made."""
        self._write_added()
        return next(self._entries("WHERE key = ?", key), None)

    def reservation(self, key: str) -> Entry | None:
        """Return the reservation that the command with this key made."""
        return self.by_key(key) if key in self._reservations() else None

    def is_reserved(self, number: int) -> bool:
        """Tell whether the number is kept for a rule that starts later."""
        held = self.by_number(number)
        return held is not None and held.reserved

    def rules(self) -> list[Alike]:
        """Return the rules that are in force; not within a transaction."""
        storing.settle(self._file)
        known, self._read = self._read, None
        if known is not None and known[0] == self._file.total_changes:
            return known[1]
        return opening.rules(self._file)

    def first(self, limit: int) -> list[Entry]:
        """Return the first rules in force, in order."""
        return list(self._entries("WHERE NOT reserved ORDER BY number LIMIT ?", limit))

    def permits(self) -> frozenset[Permit]:
        """Return the endpoints last kept open."""
        query = "SELECT address, protocol, port FROM endpoint"
        return frozenset(Permit(*row) for row in self._file.execute(query))

    def backends(self) -> frozenset[str]:
        """Return which packet filters may have rules of ours; none: that was not noted."""
        return frozenset((self._meta("backend") or "").split())

    def left(self) -> int:
        """Tell how many automatic numbers there still are."""
        self._write_added()
        query = (
            "SELECT (SELECT count(*) FROM rule WHERE number <= ?)"
            " + (SELECT count(*) FROM spent WHERE number <= ?)"
        )
        return max(0, self._next - int(self._file.execute(query, (self._next,) * 2).fetchone()[0]))

    # -- changing, inside `transaction`

    def automatic(self) -> int | None:
        """Return the next automatic number: below all before it, and of no deleted rule.

        None: there is none left.
        """
        number = self._next
        while number > 0 and (self._taken is None or number <= self._taken):
            self._taken = self._highest_taken(number)
            number -= number == self._taken
        if number <= 0:
            return None
        # a rollback does not undo this: a gap does no harm
        self._next = number - 1
        self._numbered = True
        return number

    def begin_anew(self) -> None:
        """Give automatic numbers from the first one on; all rules in force are about to go."""
        self._next, self._taken, self._numbered = FIRST_AUTOMATIC, None, True
        self._file.execute("DELETE FROM spent")

    def give_none(self) -> None:
        """Give no automatic numbers from now on: whoever puts rules in chooses all of them."""
        if self._next >= 0:
            self._next = -1
            self._numbered = True

    def renumber(self, numbers: Mapping[str, int]) -> list[Alike] | None:
        """Give the rules of these keys other numbers; return all in force, None: nothing is new."""
        self._write_added()
        changed = self._file.executemany(
            "UPDATE rule SET number = ? WHERE key = ? AND number != ?",
            [(-number, key, number) for key, number in numbers.items()],
        ).rowcount
        # below zero nothing was in the way
        self._file.execute("UPDATE rule SET number = -number WHERE number < 0")
        return opening.rules(self._file) if changed > 0 else None

    def add(self, entry: Entry) -> None:
        """Put a rule in; the reservation that was made for it is used up."""
        if entry.key in self._reservations():
            self._file.execute("DELETE FROM rule WHERE key = ? AND reserved", (entry.key,))
            self._reservations().discard(entry.key)
        number = entry.rule.number
        self._added[number] = entry
        if number <= self._next and self._taken is not None:
            self._taken = max(self._taken, number)

    def reserve(self, entry: Entry) -> None:
        """Keep a number for a rule whose command runs later; it survives a reboot in any case."""
        self.add(replace(entry, reserved=True))
        self._reservations().add(entry.key)

    def remove(self, entry: Entry) -> None:
        """Take a rule or a reservation out."""
        self._drop("number = ?", entry.rule.number)
        self._reservations().discard(entry.key)

    def clear(self) -> None:
        """Take all rules out; reservations stay."""
        self._drop("NOT reserved")

    def forget(self, keys: Collection[str]) -> None:
        """Take out the rules of these commands: their time was over while the daemon was away."""
        for key in keys:
            self._drop("key = ?", key)
        self._reservations().difference_update(keys)

    def remember(self, key: str, outcome: Outcome) -> None:
        """Keep what the command was answered; what it was answered first counts."""
        self._told.setdefault(key, outcome)

    def unsay(self, key: str) -> None:
        """Forget what the command was answered: it may be carried out anew."""
        self._told.pop(key, None)
        self._file.execute("DELETE FROM outcome WHERE key = ?", (key,))

    def keep_permits(self, permits: Collection[Permit]) -> None:
        """Keep these endpoints for the next start, and no others."""
        self._file.execute("DELETE FROM endpoint")
        rows = [(permit.address, permit.protocol, permit.port) for permit in permits]
        self._file.executemany("INSERT INTO endpoint VALUES (?, ?, ?)", rows)

    def keep_backends(self, names: Collection[str]) -> None:
        """Note which packet filters may have rules of ours."""
        self._file.execute("REPLACE INTO meta VALUES ('backend', ?)", (" ".join(names),))

    def write(self) -> None:
        """Write all that was put in: many rows cost less together."""
        self._write_added()
        if self._numbered:
            self._keep_next()
        if self._told:
            self._write_told()

    # -- inside

    def _write_added(self) -> None:
        if not self._added:
            return
        self._file.executemany(
            f"INSERT INTO rule({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",  # noqa: S608 - constants
            map(_row, self._added.values()),
        )
        self._added = {}

    def _reservations(self) -> set[str]:
        if self._reserved is None:
            found = self._file.execute("SELECT key FROM rule WHERE reserved")
            self._reserved = {key for (key,) in found}
        return self._reserved

    def _highest_taken(self, most: int) -> int:
        """Return the highest number up to this that a rule has or had; 0: there is none."""
        self._write_added()
        query = (
            "SELECT max((SELECT coalesce(max(number), 0) FROM rule WHERE number <= ?),"
            " (SELECT coalesce(max(number), 0) FROM spent WHERE number <= ?))"
        )
        return int(self._file.execute(query, (most, most)).fetchone()[0])

    def _void_unless(self, mark: Path, boot_id: str) -> None:
        """Remove what was not to survive a reboot, and its outcomes, unless this boot made it."""
        if mark.exists() and mark.read_text(encoding="utf-8") == boot_id:
            return
        gone = "NOT persistent AND NOT reserved"
        with self.transaction():
            self._file.execute(
                f"DELETE FROM outcome WHERE key IN (SELECT key FROM rule WHERE {gone})"  # noqa: S608 - a constant
            )
            self._drop(gone)
        mark.write_text(boot_id, encoding="utf-8")

    def _drop(self, where: str, *values: object) -> None:
        """Delete rules; no automatic number will be one of theirs (SLPF-25)."""
        self._write_added()
        self._file.execute(
            f"INSERT OR IGNORE INTO spent SELECT number FROM rule WHERE {where} AND number <= ?",  # noqa: S608 - constants
            (*values, self._next),
        )
        self._file.execute(f"DELETE FROM rule WHERE {where}", values)  # noqa: S608 - constants

    def _keep_next(self) -> None:
        self._file.execute("REPLACE INTO meta VALUES ('next', ?)", (self._next,))
        self._file.execute("DELETE FROM spent WHERE number > ?", (self._next,))
        self._numbered = False

    def _write_told(self) -> None:
        """Write outcomes, and forget the oldest."""
        self._file.executemany(
            "INSERT INTO outcome(key, status, text, number) VALUES (?, ?, ?, ?)",
            [(key, told.status, told.text, told.number) for key, told in self._told.items()],
        )
        self._told = {}
        self._file.execute(
            "DELETE FROM outcome WHERE seq IN (SELECT seq FROM outcome"
            " WHERE seq <= (SELECT max(seq) FROM outcome) - ? LIMIT ?)",
            (_OUTCOMES, _SLICE),
        )

    def _meta(self, name: str) -> Any:  # noqa: ANN401 - what was kept under that name
        row = self._file.execute("SELECT value FROM meta WHERE name = ?", (name,)).fetchone()
        return None if row is None else row[0]

    def _entries(self, where: str, value: object) -> Iterator[Entry]:
        query = f"SELECT {_COLUMNS} FROM rule {where}"  # noqa: S608 - constants
        for row in self._file.execute(query, (value,)):
            number, key, verdict, shape, match, persistent, reserved, producer, start, stop = row
            rule = Rule(number, judgement(verdict), Shape.parse(shape), match)
            yield Entry(rule, key, bool(persistent), producer, start, stop, bool(reserved))


def _row(entry: Entry) -> tuple[object, ...]:
    rule = entry.rule
    what = (rule.number, entry.key, rule.verdict.value, rule.shape.name, rule.key)
    return (*what, entry.persistent, entry.reserved, entry.producer, entry.start, entry.stop)
