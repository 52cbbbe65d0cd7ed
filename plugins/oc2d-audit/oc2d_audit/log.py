"""The log file: written at once, synced by a thread, rotated, never shortened but of a torn end.

A written line survives the death of the process, a synced one that of the machine. Behind each sync
the head (number and hash of the last synced record) goes into a file of its own, in another
directory: without it the end of a log could be cut off unseen.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec
import structlog

from oc2d.errors import PluginError
from oc2d_audit.chain import NOTHING, Link, link_of, seal

__all__ = [
    "AUDIT_BROKEN",
    "AUDIT_FAILED",
    "AUDIT_HEAD",
    "AUDIT_RECOVERED",
    "AuditLog",
    "read_head",
    "rotated",
]

AUDIT_BROKEN = "audit_broken"
AUDIT_FAILED = "audit_failed"
AUDIT_HEAD = "audit_head"
AUDIT_RECOVERED = "audit_recovered"
_log = structlog.get_logger("oc2d_audit")
_PERIOD = 0.1  # seconds between two syncs, at least
_RETRY = 1.0  # seconds between two attempts while the disk refuses
_MOST_UNWRITTEN = 16 << 20  # bytes kept in memory while the disk takes nothing
_TAIL = 1 << 20  # no line is as long as that


@dataclass(frozen=True, slots=True)
class _End:
    """How a log file ends: its last record, its length, and bytes of a line that is not whole."""

    link: Link | None
    size: int
    torn: bytes
    reason: str = ""
    clean: bool = True


class AuditLog:
    """One open log; `write` may be called by any thread."""

    def __init__(
        self,
        file: Path,
        head: Path,
        now: Callable[[], str],
        *,
        rotate_bytes: int,
        keep: int | None,
    ) -> None:
        self.file = file
        self.rotate_bytes = rotate_bytes
        self.keep = keep
        self.error: str | None = None
        self.unrecorded = 0
        self._head = head
        self._now = now
        self._lock = threading.Lock()
        self._syncing = threading.Lock()  # taken before the other
        self._dirty = threading.Event()
        self._stop = threading.Event()
        self._stuck = False
        self._unwritten = bytearray()
        try:
            self._fd = _open(file)
            self._link, self._size, told = self._resume()
        except OSError as error:
            raise PluginError(f"the audit log {file}: {error.strerror}") from None
        self.write({"event": "start", **told})
        self._thread = threading.Thread(target=self._work, name="audit", daemon=True)
        self._thread.start()

    @property
    def link(self) -> Link:
        """The last record and its hash."""
        return self._link

    @property
    def unwritten(self) -> int:
        """Bytes that the disk has not taken."""
        return len(self._unwritten)

    # -- to write

    def write(self, record: Mapping[str, Any]) -> None:
        """Append a record; what the disk does not take waits in memory, as far as there is room."""
        with self._lock:
            if len(self._unwritten) > _MOST_UNWRITTEN:
                self.unrecorded += 1
                return
            try:
                if self.unrecorded and not self._unwritten:
                    self._append({"event": "gap", "unrecorded": self.unrecorded})
                    self.unrecorded = 0
                self._append(record)
            except MemoryError:
                self.unrecorded += 1
                raise
            self._flush()
        self._dirty.set()

    def _append(self, record: Mapping[str, Any]) -> None:
        line, link = seal({"at": self._now(), **record}, self._link)
        self._unwritten += line  # before the link goes on: there may be no memory for it
        self._link = link

    def _flush(self) -> None:
        """Hand to the kernel what it takes; half a line is continued where it ended."""
        try:
            if self._unwritten and (what := self._disturbed()):
                self._go_on(what)
            while self._unwritten:
                written = os.write(self._fd, self._unwritten)
                del self._unwritten[:written]
                self._size += written
        except (OSError, PluginError) as error:
            self._failed(error)

    def _disturbed(self) -> str | None:
        """Say what others did to the file: what goes into one without a name is nowhere."""
        try:
            there = self.file.stat()
        except FileNotFoundError:
            return "the log was taken away while it was written"
        ours = os.fstat(self._fd)
        if (there.st_dev, there.st_ino) != (ours.st_dev, ours.st_ino):
            return "another file was put in the place of the log while it was written"
        if there.st_size != self._size:
            return f"the log had {there.st_size} bytes instead of {self._size} while it was written"
        return None

    def _go_on(self, what: str) -> None:
        """Go on where the log is now; the chain tells of it for ever."""
        if not what.startswith("the log had"):
            fresh = _open(self.file)
            old, self._fd = self._fd, fresh
            os.close(old)
        self._size = os.fstat(self._fd).st_size
        self._append({"event": "disturbed", "broken": what})
        _log.error(AUDIT_BROKEN, file=str(self.file), message=what)

    def _failed(self, error: Exception) -> None:
        said = getattr(error, "strerror", None) or str(error) or "failed"
        if self.error is None:
            _log.error(AUDIT_FAILED, file=str(self.file), error=said)
        self.error = said

    # -- to keep

    def _work(self) -> None:
        while not self._stop.is_set():
            self._dirty.wait()
            self._dirty.clear()
            try:
                self.sync()
            except MemoryError as error:
                self._failed(error)
            self._stop.wait(_PERIOD if self.error is None else _RETRY)
            if self.error is not None:
                self._dirty.set()

    def sync(self) -> None:
        """Bring to the disk what is written, then tell the head so; rotate a log that is long."""
        with self._syncing:
            self._sync()

    def _sync(self) -> None:
        with self._lock:
            self._flush()
            link, whole = self._link, not self._unwritten
        try:
            os.fdatasync(self._fd)
            if whole:
                self._keep_head(link)
        except OSError as error:
            self._failed(error)
            return
        with self._lock:
            if self._unwritten:
                return
            recovered, self.error = self.error is not None, None
        if recovered:
            _log.info(AUDIT_RECOVERED, file=str(self.file))
        if self._size >= self.rotate_bytes:
            self._rotate()

    def _keep_head(self, link: Link) -> None:
        fresh = self._head.with_suffix(".new")
        with fresh.open("wb") as stream:
            stream.write(msgspec.json.encode({"seq": link.seq, "hash": link.hash}) + b"\n")
            stream.flush()
            os.fdatasync(stream.fileno())
        fresh.replace(self._head)

    def _rotate(self) -> None:
        """Put the file aside under the number of its last record and go on in a new one.

        Where that cannot be, the log goes on as it is: long is better than silent.
        """
        try:
            with self._lock:
                if self._unwritten:
                    return
                os.fdatasync(self._fd)
                aside = self.file.rename(f"{self.file}.{self._link.seq:012}")
                try:
                    fresh = _open(self.file)
                except (OSError, PluginError):
                    aside.rename(self.file)  # or the next attempt would find nothing there
                    raise
                old, self._fd, self._size = self._fd, fresh, 0
                os.close(old)
            _log.info(AUDIT_HEAD, seq=self._link.seq, hash=self._link.hash)
            if self.keep is not None:
                for path in rotated(self.file)[: -self.keep]:
                    path.unlink()
            _sync_directory(self.file.parent)
            self._stuck = False
        except (OSError, PluginError) as error:
            if not self._stuck:
                _log.error(AUDIT_FAILED, file=str(self.file), error=f"not rotated: {error}")
            self._stuck = True

    def close(self) -> None:
        """Write the end and bring everything to the disk."""
        self.write({"event": "stop"})
        self._stop.set()
        self._dirty.set()
        self._thread.join(5)
        self.sync()
        _log.info(AUDIT_HEAD, seq=self._link.seq, hash=self._link.hash)
        with contextlib.suppress(OSError):
            os.close(self._fd)

    # -- to begin

    def _resume(self) -> tuple[Link, int, dict[str, Any]]:
        """Find the end of the chain; say what is not as it was left."""
        end = _end(self.file)
        if end.link is None and not end.size and (older := rotated(self.file)):
            end = replace(_end(older[-1]), size=0, torn=end.torn)
        told: dict[str, Any] = {"clean": end.clean}
        if end.torn:
            # Never synced, so never in the head: a crash of the machine.
            os.ftruncate(self._fd, end.size)
            told["torn"] = len(end.torn)
        head = read_head(self._head)
        last = end.link or NOTHING
        if end.reason:
            told["broken"] = end.reason
        if head is None:
            if last.seq:
                told["broken"] = "there is no head"
        elif last.seq < head.seq or (last.seq == head.seq and last != head):
            told["broken"] = f"the head is record {head.seq}, {head.hash}"
            last = Link(head.seq, last.hash)
        if "broken" in told:
            _log.error(AUDIT_BROKEN, file=str(self.file), message=told["broken"])
        return last, end.size, told


def _open(file: Path) -> int:
    """Open for appending, for us alone."""
    fd = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(fd)
        raise PluginError(f"the audit log {file} is in use by another daemon") from None
    return fd


def _end(file: Path) -> _End:
    """Read the end of a file that may have been cut off anywhere."""
    with file.open("rb") as stream:
        size = stream.seek(0, os.SEEK_END)
        stream.seek(max(0, size - _TAIL))
        data = stream.read()
    whole, _, torn = data.rpartition(b"\n")
    size -= len(torn)
    if not whole:
        return _End(None, size, torn, "no line could be read" if size else "")
    line = whole.rpartition(b"\n")[2] + b"\n"
    try:
        link, record = link_of(line)
        return _End(link, size, torn, clean=record.get("event") == "stop")
    except ValueError as error:
        return _End(None, size, torn, str(error))


def read_head(path: Path) -> Link | None:
    """Read the head; None: there is none that can be read."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=Link)
    except (OSError, msgspec.DecodeError):
        return None


def rotated(file: Path) -> list[Path]:
    """List the files that were put aside, oldest first."""
    return sorted(path for path in file.parent.glob(f"{file.name}.*") if path.suffix[1:].isdigit())


def _sync_directory(directory: Path) -> None:
    fd = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
