"""What the stores of both languages of this engine do alike: change a file, keep outcomes in it."""

from __future__ import annotations

import contextlib
import json
import sqlite3
from collections.abc import Collection, Iterator
from dataclasses import dataclass

from oc2d.errors import Refusal
from oc2d.language.vocabulary import StatusCode

__all__ = ["Outcome", "StoreError", "outcomes", "settle", "transaction"]

#: The store could not be written or read; the message is for the log.
StoreError = sqlite3.Error


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a command was answered; `number` is its rule's, on success of allow and deny."""

    status: int
    text: str | None = None
    number: int | None = None

    @property
    def refusal(self) -> Refusal | None:
        """The refusal that this is; None: it is a success."""
        if self.status == StatusCode.OK:
            return None
        kind = next(kind for kind in Refusal.__subclasses__() if kind.status == self.status)
        return kind(self.text or "")


@contextlib.contextmanager
def transaction(file: sqlite3.Connection) -> Iterator[None]:
    """Commit what is done inside, durably, or nothing of it."""
    settle(file)
    file.execute("BEGIN IMMEDIATE")
    try:
        yield
        file.execute("COMMIT")
    except BaseException:
        with contextlib.suppress(StoreError):
            settle(file)
        raise


def settle(file: sqlite3.Connection) -> None:
    """End a transaction that failed, for nobody may read what it wrote; the disk may refuse that.

    Raises `StoreError`: then it is still to be done.
    """
    if file.in_transaction:
        file.execute("ROLLBACK")


def outcomes(file: sqlite3.Connection, keys: Collection[str]) -> dict[str, Outcome]:
    """Return what the commands with these keys were answered, of those that were."""
    query = (
        "SELECT key, status, text, number FROM outcome"
        " WHERE key IN (SELECT value FROM json_each(?))"
    )
    rows = file.execute(query, (json.dumps([*keys]),))
    return {key: Outcome(*row) for key, *row in rows}
