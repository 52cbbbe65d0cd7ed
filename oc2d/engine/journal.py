"""The journal: what was received, what came of it, what is still to be sent (DESIGN 4).

SQLite in WAL mode, written by the engine's thread alone, everything that waits in one transaction,
and what is alike in it together: each statement lets another thread have the interpreter.
A request is RECEIVED, then STARTED, then has its RESULT; it is DONE when its row in `outbox` is
gone. A durable commit survives power loss, any other a kill -9.
"""

from __future__ import annotations

import secrets
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import msgspec

from oc2d.engine.journal_file import last_counted, open_
from oc2d.engine.ports import Outgoing
from oc2d.engine.records import Known, Origin, Pending, Phase, Timer, command_key
from oc2d.errors import StateError
from oc2d.language.codec import Encoding

__all__ = ["Journal"]

_LEAP = 1 << 40  # there are ids for 8 million starts
_ROOM = 1 << 16  # bytes that a disk should take before it is trusted again

_KNOWN = """
SELECT id, response FROM
  (SELECT id, response FROM requests WHERE key = ? ORDER BY id DESC LIMIT 1)
UNION ALL
SELECT 0, NULL FROM (SELECT 1 FROM requests WHERE key BETWEEN ? AND ? LIMIT 1)
"""
_WORTH_IT = 4  # keys: fewer are as quickly looked for one by one
_TOGETHER = 16
_FAMILIAR = (
    f"SELECT column1 FROM (VALUES {', '.join(['(?, ?)'] * _TOGETHER)})"  # noqa: S608 - marks
    " WHERE EXISTS (SELECT 1 FROM requests WHERE key BETWEEN column1 AND column2)"
)
_FINISH = """
UPDATE requests SET phase = 2, response = coalesce(?, response), origin = NULL WHERE id = ?
"""

_encode = msgspec.msgpack.Encoder().encode
_decode_origin = msgspec.msgpack.Decoder(Origin).decode


def _range(low: bytes) -> tuple[bytes, bytes]:
    """Return the first and the last key of a producer and request id."""
    return low + bytes(8), low + b"\xff" * 8


def _these(numbers: Iterable[int]) -> str:
    return msgspec.json.encode([*numbers]).decode()


class Journal:
    """All SQL of the engine. One thread; writing methods only between `begin` and `commit`."""

    def __init__(self, path: Path) -> None:
        self._path = path
        with self._usable():
            self._db = open_(path)
        try:
            with self._usable():
                self.epoch = self._meta("epoch", secrets.token_hex(6))
                (self.remembered,) = self._db.execute("SELECT count(*) FROM requests").fetchone()
                (newest,) = self._db.execute("SELECT coalesce(max(id), 0) FROM requests").fetchone()
                self._last = max(int(newest), int(self._meta("last", "0")), last_counted(self._db))
                # should this be an older copy that was put back: no id that was given since
                self._last += secrets.randbelow(_LEAP)
                place = "SELECT coalesce(max(place), 0) FROM outbox"
                (self._place,) = self._db.execute(place).fetchone()
        except BaseException:
            self._db.close()
            raise
        self._clear()
        self._synced = True
        self._before = (self.remembered, self._place, self._last)

    def _clear(self) -> None:
        """Have nothing that waits for `commit`."""
        self._added: list[tuple[object, ...]] = []
        self._fresh: dict[bytes, dict[bytes, Known]] = {}  # of those, by `from` and id, and by key
        self._strange: set[bytes] = set()  # `from` and id of which the file has none
        self._finished: list[tuple[bytes | None, int]] = []
        self._posted: list[tuple[object, ...]] = []

    @contextmanager
    def _usable(self) -> Iterator[None]:
        """Turn sqlite's errors into ours, where there is nobody to try again: at the start."""
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            raise StateError(f"cannot use the journal {self._path}: {error}") from error
        except UnicodeDecodeError as error:  # sqlite quotes what it cannot read
            quoted = error.object.decode(errors="replace")
            raise StateError(f"cannot use the journal {self._path}: {quoted}") from error

    def _meta(self, name: str, default: str) -> str:
        self._db.execute("INSERT OR IGNORE INTO meta VALUES(?, ?)", (name, default))
        row = self._db.execute("SELECT value FROM meta WHERE name = ?", (name,)).fetchone()
        return str(row[0])

    def noted(self, name: str) -> str:
        """Return what was last noted under this name; empty: nothing."""
        with self._usable():
            row = self._db.execute("SELECT value FROM meta WHERE name = ?", (name,)).fetchone()
        return "" if row is None else str(row[0])

    def close(self) -> None:
        """Close the file; everything committed stays."""
        self._db.close()

    # -- transactions

    def begin(self, *, durable: bool) -> None:
        """Begin a transaction; a durable one is on the disk when `commit` returns."""
        if self._db.in_transaction:  # a rollback that the disk refused
            self._db.execute("ROLLBACK")
        if durable != self._synced:
            self._db.execute(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")
            self._synced = durable
        self._before = (self.remembered, self._place, self._last)
        self._db.execute("BEGIN IMMEDIATE")

    def commit(self) -> None:
        """End the transaction."""
        self._write_waiting()
        if self._posted:
            self._db.executemany("INSERT INTO outbox VALUES(?, ?, ?, ?, ?, ?, 0)", self._posted)
        self._clear()
        self._db.execute("COMMIT")

    def rollback(self) -> None:
        """Forget the transaction; raises nothing: `begin` tries again."""
        self.remembered, self._place, self._last = self._before
        self._clear()
        if self._db.in_transaction:
            with suppress(sqlite3.Error, MemoryError):
                self._db.execute("ROLLBACK")

    def try_out(self) -> None:
        """Raise what the disk has against some more bytes: to know before the work is done."""
        for text in ("x" * _ROOM, ""):
            self.begin(durable=True)
            try:
                self._db.execute("REPLACE INTO meta VALUES('room', ?)", (text,))
                self.commit()
            except sqlite3.Error:
                self.rollback()
                raise

    def note(self, name: str, value: str) -> None:
        """Keep something small that belongs to no request."""
        self._db.execute("REPLACE INTO meta VALUES(?, ?)", (name, value))

    # -- requests

    def look_for(self, keys: Sequence[bytes]) -> None:
        """Find out at once which of them `known` need not look for."""
        for at in range(0, len(keys) if len(keys) >= _WORTH_IT else 0, _TOGETHER):
            lows = [key[:8] for key in keys[at : at + _TOGETHER]]
            ranges = [_range(low) for low in (lows * _TOGETHER)[:_TOGETHER]]
            rows = self._db.execute(_FAMILIAR, [end for ends in ranges for end in ends])
            self._strange.update(lows)
            self._strange.difference_update(first[:8] for (first,) in rows)

    def known(self, key: bytes) -> tuple[Known | None, bool]:
        """Find the newest request with this key (AMB-21).

        None: it is new; then, whether another came under the same producer and request id.
        """
        low = key[:8]
        fresh = self._fresh.get(low, {})
        if key in fresh:
            return fresh[key], False
        row = None
        if low not in self._strange:
            if self._finished:  # it may be one of them, and be told its outcome
                self._write_waiting()
            row = self._db.execute(_KNOWN, (key, *_range(low))).fetchone()
        if row is None:
            return None, bool(fresh)
        return (Known(*row), False) if row[0] else (None, True)

    def delivery(self, packet_id: int, digest: bytes) -> Known | None:
        """Find the request without an id that was delivered under this packet id (AMB-21)."""
        row = self._execute(
            "SELECT r.id, r.response FROM deliveries d JOIN requests r ON r.id = d.request"
            " WHERE d.packet_id = ? AND d.digest = ?",
            (packet_id, digest),
        ).fetchone()
        return None if row is None else Known(*row)

    def delivered(self, packet_id: int, digest: bytes, request: int) -> None:
        """Remember under which packet id a request without an id came.

        Nobody can ask any more for the one that came under it before.
        """
        self._execute(
            "UPDATE requests SET expires = 0 WHERE id ="
            " (SELECT request FROM deliveries WHERE packet_id = ?)",
            (packet_id,),
        )
        self._execute(
            "INSERT OR REPLACE INTO deliveries VALUES(?, ?, ?)", (packet_id, digest, request)
        )

    def forget_deliveries(self) -> None:
        """Packet ids start anew: the broker lost the session."""
        self._execute(
            "UPDATE requests SET expires = 0 WHERE id IN (SELECT request FROM deliveries)"
        )
        self._execute("DELETE FROM deliveries")
        self._execute("UPDATE outbox SET released = 0")

    def add(
        self,
        key: bytes | None,
        expires: int,
        actuator: str,
        origin: Origin,
        *,
        started: bool = False,
    ) -> int:
        """Write down a request that is RECEIVED, or STARTED at once; returns its id."""
        new, phase = self._new(key, None), Phase.STARTED if started else Phase.RECEIVED
        self._added.append((new, key, phase, started, expires, actuator, _encode(origin), None))
        return new

    def add_answered(self, key: bytes | None, expires: int, response: bytes | None) -> int:
        """Write down a request for which there is no more to do; returns its id."""
        new = self._new(key, response)
        self._added.append((new, key, Phase.RESULT, 0, expires, None, None, response))
        return new

    def next_key(self) -> str:
        """Return the key of the command that is added next."""
        return command_key(self.epoch, self._last + 1)

    def _new(self, key: bytes | None, response: bytes | None) -> int:
        self._last += 1
        self.remembered += 1
        if key is not None:
            self._fresh.setdefault(key[:8], {})[key] = Known(self._last, response)
        return self._last

    def _execute(self, statement: str, values: Sequence[object] = ()) -> sqlite3.Cursor:
        """Run a statement that may be about what was just added or finished."""
        self._write_waiting()
        return self._db.execute(statement, values)

    def _write_waiting(self) -> None:
        if self._added:
            self._db.executemany(
                "INSERT INTO requests"
                "(id, key, phase, attempts, expires, actuator, origin, response)"
                " VALUES(?, ?, ?, ?, ?, ?, ?, ?)",
                self._added,
            )
            self._added = []
        if self._finished:
            self._db.executemany(_FINISH, self._finished)
            self._finished = []

    def reoriginate(self, request: int, origin: Origin) -> None:
        """Keep what changed of a request: its reserved results, or when there is what to undo."""
        self._execute("UPDATE requests SET origin = ? WHERE id = ?", (_encode(origin), request))

    def started(self, requests: Iterable[int]) -> None:
        """Mark requests as STARTED, and count the attempt."""
        self._step(requests, Phase.STARTED, 1)

    def postponed(self, requests: Iterable[int]) -> None:
        """Take back `started`: these were not begun."""
        self._step(requests, Phase.RECEIVED, -1)

    def _step(self, requests: Iterable[int], phase: Phase, attempts: int) -> None:
        self._execute(
            "UPDATE requests SET phase = ?, attempts = attempts + ?"
            " WHERE id IN (SELECT value FROM json_each(?))",
            (phase, attempts, _these(requests)),
        )

    def respond(self, request: int, response: bytes) -> None:
        """Keep the response that a duplicate will be told."""
        self._execute("UPDATE requests SET response = ? WHERE id = ?", (response, request))

    def finish(self, request: int, *, keep: bool, response: bytes | None = None) -> None:
        """Mark the RESULT as known; `keep` its origin while the end of a window is to come.

        `response` is what a duplicate will be told from now on; None: as before.
        """
        if keep:
            self._execute(
                "UPDATE requests SET phase = 2, response = coalesce(?, response) WHERE id = ?",
                (response, request),
            )
        else:
            self._finished.append((response, request))

    def forget(self, request: int, *, keep: bool) -> None:
        """Remove a request that is answered 503: the same one may be tried again.

        `keep` what it takes to undo it.
        """
        self._execute("DELETE FROM timers WHERE request = ?", (request,))
        if keep:
            self._execute(
                "UPDATE requests SET phase = 2, key = NULL, expires = 0 WHERE id = ?", (request,)
            )
            self._execute("DELETE FROM deliveries WHERE request = ?", (request,))
        else:
            cursor = self._execute("DELETE FROM requests WHERE id = ?", (request,))
            self._removed(cursor.rowcount)

    def expire(self, now: int, most: int) -> None:
        """Forget at most `most` requests whose time (seconds since 1970) has come."""
        cursor = self._execute(
            "DELETE FROM requests WHERE id IN"
            " (SELECT id FROM requests WHERE expires < ? AND origin IS NULL LIMIT ?)",
            (now, most),
        )
        self._removed(cursor.rowcount)

    def _removed(self, count: int) -> None:
        """Keep the last id where the newest row may be gone: ids are part of command keys."""
        if count:
            self.remembered -= count
            self._db.execute("REPLACE INTO meta VALUES('last', ?)", (str(self._last),))

    def pending(self) -> Iterator[Pending]:
        """All requests with something left to do, in order of arrival."""
        rows = self._db.execute(
            "SELECT id, phase, attempts, actuator, origin, response FROM requests"
            " WHERE origin IS NOT NULL ORDER BY id"
        )
        for request, phase, attempts, actuator, blob, response in rows:
            try:
                origin = _decode_origin(blob)
            except msgspec.MsgspecError as error:
                raise StateError(f"the journal's request {request} is damaged: {error}") from error
            yield Pending(request, Phase(phase), attempts, actuator, origin, response)

    # -- windows

    def arm(self, request: int, *, revert: bool) -> None:
        """Write down an event of a window."""
        self._execute(
            "INSERT OR REPLACE INTO timers(request, revert) VALUES(?, ?)", (request, revert)
        )

    def disarm(self, request: int, *, revert: bool) -> None:
        """Remove an event that has happened."""
        self._execute("DELETE FROM timers WHERE request = ? AND revert = ?", (request, revert))

    def reverting(self, request: int) -> None:
        """Count an attempt to revert."""
        self._execute(
            "UPDATE timers SET attempts = attempts + 1 WHERE request = ? AND revert = 1", (request,)
        )

    def revert_failed(self, request: int) -> None:
        """Count from the beginning: the process outlived the attempt."""
        self._execute("UPDATE timers SET attempts = 0 WHERE request = ? AND revert = 1", (request,))

    def timers(self) -> list[Timer]:
        """All events to come."""
        rows = self._db.execute("SELECT request, revert, attempts FROM timers")
        return [Timer(request, bool(revert), attempts) for request, revert, attempts in rows]

    # -- responses on their way

    def post(self, message: Outgoing) -> None:
        """Write down a response that is to be sent."""
        self._place += 1
        where = (message.handle, self._place, message.topic)
        what = (message.payload, message.encoding.value, message.correlation)
        self._posted.append(where + what)

    def released(self, handles: Iterable[int]) -> None:
        """Remember that the broker has taken these (PUBREC)."""
        self._execute(
            "UPDATE outbox SET released = 1 WHERE handle IN (SELECT value FROM json_each(?))",
            (_these(handles),),
        )

    def sent(self, handles: Iterable[int]) -> None:
        """DONE: the broker is responsible now."""
        self._execute(
            "DELETE FROM outbox WHERE handle IN (SELECT value FROM json_each(?))",
            (_these(handles),),
        )

    def outbox(self) -> list[Outgoing]:
        """All responses that an earlier process left on their way, in order."""
        rows = self._db.execute(
            "SELECT handle, topic, payload, encoding, correlation, released FROM outbox"
            " ORDER BY place"
        )
        return [
            Outgoing(
                handle,
                topic,
                payload,
                Encoding(encoding),
                correlation,
                again=True,
                released=bool(released),
            )
            for handle, topic, payload, encoding, correlation, released in rows
        ]
