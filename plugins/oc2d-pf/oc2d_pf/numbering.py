"""Which number a rule gets, and where in the order of the engine it stands. Worker only.

A number is never given a second time, so a priority runs out of them; the places of rules that are
gone are taken again. While a priority has numbers, a rule stands at the place of its number. After
that its rules get further numbers, which are above all others, and stand ahead of those that have
one of its own, the lowest first. So priority and number tell the order for good, and the place only
says it to the engine: where there is no gap, the rules of a priority move apart, in the same order.
"""

from __future__ import annotations

import sqlite3

from oc2d_pf.language import HIGHEST, MAX_NUMBER

__all__ = ["Numbering", "band"]

_PRIORITIES = 1000
_FIRST_BAND, _BAND = 1_000_000, 16_000
_FIRST_AUTOMATIC = 33_000_000
_LAST_AUTOMATIC = _FIRST_BAND + _PRIORITIES * _BAND
_FURTHER = range(MAX_NUMBER + 1, HIGHEST + 1)
# what counts down beside the priorities, in the table `next`
_WITHOUT, _BEYOND = -1, -2

_COUNTED = "SELECT number FROM next WHERE band = ?"
_AROUND = "SELECT {} FROM rule WHERE place BETWEEN ? AND ?"


def band(priority: int | None) -> range | None:
    """Return the numbers that rules of a priority have, None: it is none (PF-32)."""
    if priority is None:
        return range(_LAST_AUTOMATIC, _FIRST_AUTOMATIC + 1)
    if not 0 <= priority < _PRIORITIES:
        return None
    first = _FIRST_BAND + priority * _BAND
    return range(first, first + _BAND)


def _places(number: int, priority: int | None) -> range:
    """Return the places among which a rule has its own."""
    if number < _FIRST_BAND:
        return range(1, _FIRST_BAND)
    if _FIRST_AUTOMATIC < number <= MAX_NUMBER:
        return range(_FIRST_AUTOMATIC + 1, MAX_NUMBER + 1)
    places = band(priority if number in _FURTHER else _priority(number))
    assert places is not None  # noqa: S101 - `check` has looked
    return places


def _priority(number: int) -> int | None:
    """Return which automatic rules have such numbers."""
    found = (number - _FIRST_BAND) // _BAND
    return found if found < _PRIORITIES else None


def _counter(priority: int | None) -> int:
    return _WITHOUT if priority is None else priority


class Numbering:
    """The numbers and places of the rules in pf's file; all inside a transaction."""

    def __init__(self, file: sqlite3.Connection) -> None:
        self._file = file

    def automatic(self, priority: int | None) -> int | None:
        """Return the next number of a priority that no rule has or had; None: there is none."""
        numbers = band(priority)
        assert numbers is not None  # noqa: S101 - `check` has looked
        number = self._next(_counter(priority), numbers)
        return self._next(_BEYOND, _FURTHER) if number is None else number

    def _next(self, counter: int, numbers: range) -> int | None:
        found = self._one(_COUNTED, counter)
        number = numbers[-1] if found is None else found
        taken = "SELECT 1 FROM rule WHERE number = ? UNION ALL SELECT 1 FROM spent WHERE number = ?"
        while number >= numbers[0] and self._one(taken, number, number):
            number -= 1
        left = max(number, numbers[0]) - 1
        self._file.execute("REPLACE INTO next VALUES (?, ?)", (counter, left))
        # whatever was there, the counter has passed it
        self._file.execute(
            "DELETE FROM spent WHERE number > ? AND number <= ?", (left, numbers[-1])
        )
        return number if number > left else None

    def spend(self, number: int) -> None:
        """Note that a rule is gone: no automatic number will be its, if one still could."""
        if not _FIRST_BAND <= number <= _FIRST_AUTOMATIC:
            return
        counted = self._one(_COUNTED, _counter(_priority(number)))
        if counted is None or number <= counted:
            self._file.execute("INSERT OR IGNORE INTO spent VALUES (?)", (number,))

    def place(self, number: int, priority: int | None) -> int | None:
        """Return the place for a new rule; None: all of its priority are taken.

        Others may have moved for it.
        """
        places = _places(number, priority)
        first, end = places[0], places[-1] + 1
        if number in _FURTHER:
            found = self._one(_AROUND.format("min(place)"), first, end - 1)
        else:
            query = "SELECT place FROM rule WHERE number BETWEEN ? AND ? ORDER BY number LIMIT 1"
            found = self._one(query, number + 1, end - 1)
        behind = end if found is None else found
        found = self._one(_AROUND.format("max(place)"), first, behind - 1)
        ahead = first - 1 if found is None else found
        if ahead < number < behind:
            return number
        if behind - ahead == 1:
            return self._moved_apart(places, behind)
        return behind - 1 if number in _FURTHER else (ahead + behind) // 2

    def _moved_apart(self, places: range, behind: int) -> int | None:
        """Move the rules of a priority so that there is a place ahead of the one that is there.

        Half of what is free comes ahead of all, where the next rules go, the other between them.
        """
        rows = self._file.execute(
            f"{_AROUND.format('number, place')} ORDER BY place", (places[0], places[-1])
        ).fetchall()
        if len(rows) >= len(places):
            return None
        at: int = sum(place < behind for _, place in rows)
        rows.insert(at, (0, 0))
        step = 1 + (len(places) - len(rows)) // (2 * len(rows))
        to = [places[-1] - step * after for after in range(len(rows))][::-1]
        moved = [
            (-new, number)
            for new, (number, place) in zip(to, rows, strict=True)
            if number and new != place
        ]
        # below zero nothing is in the way
        self._file.executemany("UPDATE rule SET place = ? WHERE number = ?", moved)
        self._file.execute("UPDATE rule SET place = -place WHERE place < 0")
        self._file.executemany(
            "INSERT OR IGNORE INTO moved VALUES (?)", [(number,) for _, number in moved]
        )
        return to[at]

    def _one(self, query: str, *values: int) -> int | None:
        found: int | None
        (found,) = self._file.execute(query, values).fetchone() or (None,)
        return found
