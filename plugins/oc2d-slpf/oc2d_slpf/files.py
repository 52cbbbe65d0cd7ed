"""Reads the file that an update names, below directories of the configuration (SLPF-46 to 52).

Each component of the path is opened below the one before it, so that neither `..` nor a symbolic
link leads anywhere else, whoever changes the directories meanwhile.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import PurePosixPath

from oc2d.errors import BadRequest, Failed, Forbidden
from oc2d.language.targets import File
from oc2d_slpf.language import NO_ACCESS, NOT_UPDATED

__all__ = ["MAX_BYTES", "places", "read"]

#: The largest file, in bytes: more than 100 000 rules.
MAX_BYTES = 16 * 2**20
_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC
_HASHES = ("md5", "sha1", "sha256")

#: A directory of the configuration, and the components below it; the last is the file.
Place = tuple[PurePosixPath, tuple[str, ...]]


def places(directories: Sequence[PurePosixPath], file: File) -> list[Place]:
    """Return where the file may be; `path` is the directory it is in. Pure.

    Raises `BadRequest` without a name, `Forbidden` for a place outside the directories.
    """
    if not file.name:
        raise BadRequest("the name of the file is missing")
    if "/" in file.name or "\0" in f"{file.name}{file.path}" or file.name in {".", ".."}:
        raise Forbidden("name is that of a file, without a directory")
    if file.path is None:
        return [(directory, (file.name,)) for directory in directories]
    path = PurePosixPath(file.path)
    found: list[Place] = [
        (directory, (*path.relative_to(directory).parts, file.name))
        for directory in directories
        if path.is_relative_to(directory) and ".." not in path.parts
    ]
    if not found:
        raise Forbidden("path is not in a directory for updates")
    return found


def read(directories: Sequence[PurePosixPath], file: File) -> bytes:
    """Return the content, from the first directory that has the file.

    Raises what `places` raises, `Forbidden` for a symbolic link, and `Failed` for what cannot be
    accessed or has another hash than the command says.
    """
    content = _first(places(directories, file))
    for name in _HASHES:
        wanted = getattr(file.hashes, name, None)
        if wanted and hashlib.new(name, content, usedforsecurity=False).digest() != wanted:
            raise Failed(f"{NOT_UPDATED}: the {name} of the file is another")
    return content


def _first(candidates: Sequence[Place]) -> bytes:
    missing: OSError | None = None
    for place in candidates:
        try:
            return _content(*place)
        except FileNotFoundError as error:
            missing = error
        except OSError as error:
            raise _refusal(error) from error
    raise Failed(f"{NO_ACCESS}: there is no such file") from missing


def _content(directory: PurePosixPath, components: tuple[str, ...]) -> bytes:
    *above, name = (component.encode() for component in components)
    with ExitStack() as stack:
        # the configured directory itself may be a link: who configures it knows
        at = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        stack.callback(os.close, at)
        for component in above:
            at = os.open(component, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=at)
            stack.callback(os.close, at)
            if stat.S_ISLNK(os.fstat(at).st_mode):
                raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
        # a FIFO without a writer would block
        fd = os.open(name, _FLAGS | os.O_NONBLOCK | os.O_NOCTTY, dir_fd=at)
        stack.callback(os.close, fd)
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise Failed(f"{NO_ACCESS}: it is not a regular file")
        return b"".join(_blocks(fd))


def _blocks(fd: int) -> Iterator[bytes]:
    left = MAX_BYTES
    while block := os.read(fd, 1 << 20):
        left -= len(block)
        if left < 0:
            raise Failed(f"{NO_ACCESS}: it has more than {MAX_BYTES} bytes")
        yield block


def _refusal(error: OSError) -> Failed | Forbidden:
    if error.errno == errno.ELOOP:
        return Forbidden("symbolic links are not followed")
    return Failed(f"{NO_ACCESS}: {os.strerror(error.errno or errno.EIO)}")
