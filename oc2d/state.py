"""The state and the runtime directory: ours alone, one daemon at a time (promise 4 of DESIGN 1)."""

from __future__ import annotations

import fcntl
import os
import stat
from pathlib import Path

from oc2d.config import State
from oc2d.errors import StateError

__all__ = ["StateDirectories"]


class StateDirectories:
    """Prepares both directories and holds the lock that keeps a second daemon out."""

    def __init__(self, state: State) -> None:
        self.state = _prepared(state.directory, "state.directory", 0o700)
        self.runtime = _prepared(state.runtime_directory, "state.runtime_directory", 0o750)
        self._lock = _locked(self.state / "lock")

    def close(self) -> None:
        """Let another daemon have them."""
        os.close(self._lock)


def _prepared(path: Path, key: str, mode: int) -> Path:
    """Create the directory, or check that it is a real one, ours, and closed to others."""
    try:
        path.mkdir(mode=mode, parents=True, exist_ok=True)
        found = path.lstat()
        if not stat.S_ISDIR(found.st_mode):
            raise StateError(f"{key}: {path} is not a directory (symbolic links are refused)")
        if found.st_uid != os.geteuid():
            raise StateError(f"{key}: {path} belongs to another user (uid {found.st_uid})")
        if found.st_mode & 0o022:
            raise StateError(f"{key}: {path} can be written by others; chmod {mode:o} {path}")
        return path.resolve()
    except OSError as error:
        raise StateError(
            f"{key}: cannot use {path}: {error.strerror}; create it or set {key}"
        ) from error


def _locked(path: Path) -> int:
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise StateError(
            f"state.directory: cannot use {path}: {error.strerror}; "
            "it must be a file of the user that oc2d runs as, on a disk with room"
        ) from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        raise StateError(f"another oc2d runs on {path.parent}") from error
    return descriptor
