"""The file of the journal: its tables, and how it is opened."""

from __future__ import annotations

import os
import sqlite3
from contextlib import suppress
from pathlib import Path

from oc2d.errors import StateError

__all__ = ["last_counted", "open_"]

_VERSION = 1
_SCHEMA = """
CREATE TABLE meta(name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE requests(
  id INTEGER PRIMARY KEY,      -- never used again; AUTOINCREMENT would double the cost of a row
  key BLOB,                    -- 8 bytes of (from, request_id), 8 of the body; NULL: no request id
  phase INTEGER NOT NULL,
  attempts INTEGER NOT NULL DEFAULT 0,
  expires INTEGER NOT NULL,    -- seconds since 1970
  actuator TEXT,
  origin BLOB,                 -- NULL once nothing more is to be done for it
  response BLOB                -- the last one sent, as JSON; NULL: none
);
CREATE INDEX requests_key ON requests(key) WHERE key IS NOT NULL;
CREATE INDEX requests_open ON requests(id) WHERE origin IS NOT NULL;
CREATE INDEX requests_expires ON requests(expires) WHERE origin IS NULL;
CREATE TABLE outbox(
  handle INTEGER PRIMARY KEY,
  place INTEGER NOT NULL,      -- order of sending
  topic TEXT NOT NULL,
  payload BLOB NOT NULL,
  encoding TEXT NOT NULL,
  correlation BLOB,
  released INTEGER NOT NULL DEFAULT 0
);
CREATE TABLE timers(
  request INTEGER NOT NULL,
  revert INTEGER NOT NULL,     -- 0: execute at the start, 1: revert at the end of the window
  attempts INTEGER NOT NULL DEFAULT 0,
  PRIMARY KEY(request, revert)
) WITHOUT ROWID;
CREATE TABLE deliveries(
  packet_id INTEGER PRIMARY KEY,
  digest BLOB NOT NULL,
  request INTEGER NOT NULL
);
"""


def open_(path: Path) -> sqlite3.Connection:
    """Open or create the file; the caller turns errors into ours."""
    for old in (path, path.with_name(f"{path.name}-wal")):
        # what an earlier process wrote, and was killed before syncing, we will act on
        with suppress(FileNotFoundError), old.open("rb") as file:
            os.fsync(file.fileno())
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=2)
    try:
        # One process at a time: no shared memory file, and a second one is told so.
        connection.execute("PRAGMA locking_mode = EXCLUSIVE")
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        if version == 0:
            connection.executescript(f"BEGIN;{_SCHEMA}PRAGMA user_version = {_VERSION};COMMIT")
        elif version != _VERSION:
            raise StateError(f"{path} was written by another version of oc2d (format {version})")
    except BaseException:
        connection.close()
        raise
    return connection


def last_counted(connection: sqlite3.Connection) -> int:
    """Return the last id that SQLite noted, in files of versions that used AUTOINCREMENT."""
    noted = "SELECT 1 FROM sqlite_master WHERE name = 'sqlite_sequence'"
    if connection.execute(noted).fetchone() is None:
        return 0
    query = "SELECT coalesce(max(seq), 0) FROM sqlite_sequence WHERE name = 'requests'"
    return int(connection.execute(query).fetchone()[0])
