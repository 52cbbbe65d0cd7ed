"""What a disk may hold after a power loss, from what `disk.c` noted of a daemon that ran on it.

A write is sure to be there once its file was synced, and a name (made, renamed or removed) once its
directory was. Of everything later each sector may be there or not, in any order, and of the names
as many as come first. That is less than ext4 or XFS promise, so what survives here survives there.
"""

from __future__ import annotations

import os
import random
import struct
import subprocess
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path

__all__ = ["Disk", "build_recorder"]

_HEAD = struct.Struct("=c3xiqII")
_SECTOR = 512
_CREATE, _TRUNCATE = os.O_CREAT, os.O_TRUNC
_KEEP = (0.0, 0.0, 0.5, 0.9, 1.0)  # how much of what was not synced is there all the same


def build_recorder(directory: Path) -> Path:
    """Compile `disk.c` for LD_PRELOAD."""
    made = directory / "disk.so"
    source = Path(__file__).with_name("disk.c")
    command = ["gcc", "-shared", "-fPIC", "-O2", "-o", str(made), str(source), "-ldl", "-lpthread"]
    subprocess.run(command, check=True)
    return made


@dataclass
class _File:
    """`now`: as processes see it; `sure`: as it was when last synced; `later`: what came after."""

    now: bytearray
    sure: bytes
    later: list[tuple[int, bytes | None]] = field(default_factory=list)  # None: cut off here

    def write(self, at: int, data: bytes) -> None:
        _put(self.now, at, data)
        self.later.append((at, data))

    def truncate(self, size: int) -> None:
        _cut(self.now, size)
        self.later.append((size, None))

    def sync(self) -> None:
        self.sure = bytes(self.now)
        self.later.clear()

    def after(self, rnd: random.Random, keep: float) -> bytes:
        """What may be left of it; a file that grew without its data reads as zeros."""
        left = bytearray(self.sure)
        for at, data in self.later:
            if data is None:
                if rnd.random() < keep:
                    _cut(left, at)
                continue
            for start, piece in _sectors(at, data):
                if rnd.random() < keep:
                    _put(left, start, piece)
        return bytes(left)


def _put(content: bytearray, at: int, data: bytes) -> None:
    if len(content) < at:
        content.extend(bytes(at - len(content)))
    content[at : at + len(data)] = data


def _cut(content: bytearray, size: int) -> None:
    del content[size:]
    content.extend(bytes(size - len(content)))


def _sectors(at: int, data: bytes) -> Iterator[tuple[int, bytes]]:
    end = at + len(data)
    while at < end:
        stop = min(end, (at // _SECTOR + 1) * _SECTOR)
        yield at, data[: stop - at]
        data, at = data[stop - at :], stop


@dataclass
class Disk:
    """A directory of files; those that `skip` names are of another, better disk."""

    directory: Path
    log: Path
    skip: tuple[str, ...] = (".effects",)
    names: dict[str, _File] = field(default_factory=dict)
    sure: dict[str, _File] = field(default_factory=dict)
    later: list[tuple[str, str, _File | None]] = field(default_factory=list)  # old, new, file
    syncs: int = 0
    lost: int = 0

    def __post_init__(self) -> None:
        self._begin({})

    def _begin(self, content: dict[str, bytes]) -> None:
        """All of it is on the disk."""
        self.names = {name: _File(bytearray(data), data) for name, data in content.items()}
        self.sure, self.later = dict(self.names), []
        self.log.unlink(missing_ok=True)

    def environment(self, recorder: Path) -> dict[str, str]:
        """What makes a process note what it does."""
        paths = {"OC2D_DISK": str(self.directory), "OC2D_DISK_LOG": str(self.log)}
        return {**paths, "LD_PRELOAD": str(recorder)}

    def lose_power(self, rnd: random.Random) -> None:
        """Put into the directory what is left; checks first that nothing escaped the recorder."""
        self._play()
        keep = rnd.choice(_KEEP)
        names = dict(self.sure)
        for old, new, file in self.later[: rnd.randrange(len(self.later) + 1)]:
            names.pop(old, None)
            if file is not None:
                names[new] = file
        self.lost += sum(bool(file.later) for file in self.names.values())
        content = {
            name: file.after(rnd, keep)
            for name, file in names.items()
            if not self._is_skipped(name)
        }
        for path in self._files():
            path.unlink()
        for name, data in content.items():
            target = self.directory / name
            target.write_bytes(data)
            target.chmod(0o600)
        self._begin(content)

    def _is_skipped(self, name: str) -> bool:
        return name.endswith((*self.skip, "-shm"))  # -shm: mapped, and made anew at each start

    def _files(self) -> list[Path]:
        found = self.directory.iterdir() if self.directory.exists() else ()
        return [one for one in found if one.is_file() and not one.name.endswith(self.skip)]

    def _play(self) -> None:
        data = self.log.read_bytes() if self.log.exists() else b""
        opened: dict[int, tuple[str, _File | None]] = {}
        before: dict[str, bytes] = {}
        at, last = 0, 0
        for at, *_ in _records(data):
            last = at
        for at, op, fd, where, first, second in _records(data):
            if at == last:
                before = self._content()
            self._one(opened, op, fd, where, first, second)
        actual = {
            path.name: path.read_bytes() for path in self._files() if path.suffix != ".db-shm"
        }
        actual = {name: text for name, text in actual.items() if not self._is_skipped(name)}
        seen = self._content()
        assert actual in (before, seen), "the recorder missed what was written"
        self.log.unlink(missing_ok=True)

    def _content(self) -> dict[str, bytes]:
        return {
            name: bytes(file.now)
            for name, file in deepcopy(self.names).items()
            if not self._is_skipped(name)
        }

    def _one(
        self,
        opened: dict[int, tuple[str, _File | None]],
        op: str,
        fd: int,
        at: int,
        first: bytes,
        second: bytes,
    ) -> None:
        name = self._name(first) if op in "our" else ""
        path, file = opened.get(fd, ("", None))
        match op:
            case "p":
                opened.clear()
            case "o":
                opened[fd] = name, self._open(name, at)
            case "c":
                opened.pop(fd, None)
            case "w" if file is not None:
                file.write(at, first)
            case "t" if file is not None:
                file.truncate(at)
            case "s" if file is not None:
                self.syncs += 1
                file.sync()
            case "s" if path == ".":
                self.sure, self.later = dict(self.names), []
            case "u" if name in self.names:
                del self.names[name]
                self.later.append((name, "", None))
            case "r" if name in self.names:
                new = self._name(second)
                self.names[new] = self.names.pop(name)
                self.later.append((name, new, self.names[new]))

    def _open(self, name: str, flags: int) -> _File | None:
        if name == ".":
            return None
        if name not in self.names and flags & _CREATE:
            self.names[name] = _File(bytearray(), b"")
            self.later.append(("", name, self.names[name]))
        file = self.names.get(name)
        if file is not None and flags & _TRUNCATE and file.now:
            file.truncate(0)
        return file

    def _name(self, path: bytes) -> str:
        return str(Path(path.decode()).relative_to(self.directory))


def _records(data: bytes) -> Iterator[tuple[int, str, int, int, bytes, bytes]]:
    at = 0
    while at + _HEAD.size <= len(data):
        op, fd, where, first, second = _HEAD.unpack_from(data, at)
        middle = at + _HEAD.size + first
        end = middle + second
        if end > len(data):
            return
        yield at, op.decode(), fd, where, data[at + _HEAD.size : middle], data[middle:end]
        at = end
