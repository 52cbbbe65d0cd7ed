"""The status socket: the daemon tells whoever may connect how it is, in one JSON object.

A connection is the question; the answer is the object, and the end of the stream. What is in it
is described at `oc2d.status_text`.
"""

from __future__ import annotations

import contextlib
import errno
import grp
import json
import os
import selectors
import socket
import stat
import struct
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

import structlog

from oc2d.errors import Oc2dError, StateError

__all__ = ["SOCKET_NAME", "STATUS_FAILED", "StatusServer", "fetch"]

SOCKET_NAME = "status.sock"
#: The snapshot for `oc2d status` could not be made: `error`.
STATUS_FAILED = "status_failed"

_MODE = 0o660
_BACKLOG = 16
_PATIENCE = 5.0  # seconds a client has to read its answer
_LONGEST_ANSWER = 16 << 20  # bytes; a thousand rules and much else are one
_LONGEST_ADDRESS = 107  # bytes of sun_path, less the final NUL (unix(7))


class StatusServer:
    """Answers on `status.sock` in `directory` from a thread of its own, from `start` to `stop`.

    `snapshot` is called on that thread, once per client; what it raises is logged and told as
    `{"error": ...}`. A client that does not read is dropped after five seconds and delays nobody.
    """

    def __init__(self, directory: Path, snapshot: Callable[[], Mapping[str, Any]]) -> None:
        self._path = directory / SOCKET_NAME
        self._snapshot = snapshot
        self._answers: dict[socket.socket, tuple[memoryview, float]] = {}
        self._undo = contextlib.ExitStack()

    def start(self) -> None:
        """Begin to answer. Raises StateError: another daemon answers there, or no socket."""
        listener = self._undo.enter_context(_listen(self._path))
        self._undo.callback(_remove, self._path, _identity(self._path))
        wake, waker = socket.socketpair()
        self._undo.enter_context(wake)
        thread = threading.Thread(
            target=self._run, args=(listener, wake), name="status", daemon=True
        )
        thread.start()
        self._undo.callback(thread.join)
        self._undo.enter_context(waker)

    def stop(self) -> None:
        """Stop answering and remove the socket, unless another daemon took its place."""
        self._undo.close()

    def _run(self, listener: socket.socket, wake: socket.socket) -> None:
        with selectors.DefaultSelector() as selector:
            selector.register(listener, selectors.EVENT_READ)
            selector.register(wake, selectors.EVENT_READ)
            while True:
                ready = [key.fileobj for key, _ in selector.select(self._next_deadline())]
                if wake in ready:
                    break
                if listener in ready:
                    self._accept(listener, selector)
                for client in list(self._answers):
                    if client in ready:
                        self._answer(client, selector)
                self._drop_late(selector)
            for client in list(self._answers):
                self._drop(client, selector)

    def _next_deadline(self) -> float | None:
        deadlines = [deadline for _, deadline in self._answers.values()]
        return max(0.0, min(deadlines) - time.monotonic()) if deadlines else None

    def _accept(self, listener: socket.socket, selector: selectors.BaseSelector) -> None:
        try:
            client, _ = listener.accept()
        except OSError:  # the client is gone again, or no file descriptor is left
            time.sleep(0.01)
            return
        client.settimeout(0)
        if len(self._answers) >= _BACKLOG:
            self._drop(next(iter(self._answers)), selector)
        self._answers[client] = (memoryview(self._told()), time.monotonic() + _PATIENCE)
        selector.register(client, selectors.EVENT_WRITE)

    def _told(self) -> bytes:
        try:
            told = json.dumps(self._snapshot(), default=str)
        except Exception as error:  # noqa: BLE001 - plugins contribute; the next client may fare better
            structlog.get_logger().exception(STATUS_FAILED)
            told = json.dumps({"error": f"cannot tell the state: {type(error).__name__}"})
        return told.encode() + b"\n"

    def _answer(self, client: socket.socket, selector: selectors.BaseSelector) -> None:
        rest, deadline = self._answers[client]
        try:
            rest = rest[client.send(rest) :]
        except BlockingIOError:
            return
        except OSError:
            rest = rest[:0]
        self._answers[client] = (rest, deadline)
        if not rest:
            self._drop(client, selector)

    def _drop_late(self, selector: selectors.BaseSelector) -> None:
        now = time.monotonic()
        for client, (_, deadline) in list(self._answers.items()):
            if deadline <= now:
                self._drop(client, selector)

    def _drop(self, client: socket.socket, selector: selectors.BaseSelector) -> None:
        del self._answers[client]
        selector.unregister(client)
        client.close()


def _identity(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_dev, status.st_ino


def _remove(path: Path, identity: tuple[int, int]) -> None:
    with contextlib.suppress(OSError):
        if _identity(path) == identity:
            path.unlink()


def _listen(path: Path) -> socket.socket:
    """Bind beside `path` and rename into place, so that it is never there with other rights."""
    if len(os.fsencode(path)) > _LONGEST_ADDRESS - 8:
        raise StateError(f"the path of the status socket is too long for one: {path}")
    draft = path.with_name(f"{path.name}.{os.getpid() % 10**7}")
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        _refuse_occupied(path)
        draft.unlink(missing_ok=True)
        listener.bind(str(draft))
        draft.chmod(_MODE)
        listener.listen(_BACKLOG)
        listener.settimeout(0)
        draft.replace(path)
    except OSError as error:
        listener.close()
        with contextlib.suppress(OSError):
            draft.unlink()
        raise StateError(f"cannot make the status socket {path}: {error.strerror}") from error
    except StateError:
        listener.close()
        raise
    return listener


def _refuse_occupied(path: Path) -> None:
    """Let a socket that nobody listens on be replaced, and nothing else."""
    try:
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise StateError(f"{path} is in the place of the status socket: remove it")
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(0)
        problem = probe.connect_ex(str(path))
    # EAGAIN: its queue of clients is full, so somebody listens.
    if problem in (0, errno.EAGAIN):
        raise StateError(f"another oc2d answers on {path}: it is running already")


def _who_may(path: Path) -> str:
    """Say who may connect: the owner, and the group of the runtime directory."""
    try:
        group = grp.getgrgid(path.parent.stat().st_gid).gr_name
    except (OSError, KeyError):
        return "be root or a member of its group"
    if group == "root":  # started by hand: nobody else should become a member
        return "be root"
    return f"be root or a member of the group {group} (usermod -aG {group} NAME, log in again)"


class _TooLongError(Exception):
    """Whoever answers does not come to an end."""


def _read(link: socket.socket, deadline: float) -> bytes:
    """Read until the other side closes; raises TimeoutError however busily it writes."""
    chunks: list[bytes] = []
    size = 0
    while (left := deadline - time.monotonic()) > 0:
        link.settimeout(left)
        chunk = link.recv(1 << 16)
        if not chunk:
            return b"".join(chunks)
        size += len(chunk)
        if size > _LONGEST_ANSWER:
            raise _TooLongError
        chunks.append(chunk)
    raise TimeoutError


def fetch(path: Path, timeout: float = 10.0) -> dict[str, Any]:
    """Ask the daemon behind the socket `path`; seconds for the whole answer. Raises Oc2dError.

    Whoever answers there may be no daemon, or one that somebody took over: what is read is bounded.
    """
    deadline = time.monotonic() + timeout
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as link:
            # Blocking, with a bound: under settimeout a full queue would fail at once.
            bound = struct.pack("@ll", *divmod(int(timeout * 1_000_000), 1_000_000))
            link.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, bound)
            link.connect(str(path))
            told = json.loads(_read(link, deadline))
    except (FileNotFoundError, ConnectionRefusedError):
        raise Oc2dError(
            f"oc2d is not running: nobody answers on {path}; "
            "the service: systemctl start oc2d, journalctl -u oc2d"
        ) from None
    except PermissionError:
        raise Oc2dError(f"no permission to ask oc2d on {path}: {_who_may(path)}") from None
    except (BlockingIOError, TimeoutError):
        raise Oc2dError(f"oc2d did not answer on {path} within {timeout:g} seconds") from None
    except OSError as error:
        raise Oc2dError(f"cannot ask oc2d on {path}: {error.strerror or error}") from None
    except _TooLongError:
        limit = f"it is longer than {_LONGEST_ANSWER >> 20} MiB"
        raise Oc2dError(f"the answer on {path} is none of oc2d's: {limit}") from None
    except (ValueError, RecursionError):
        raise Oc2dError(f"the answer on {path} was cut off or is none of oc2d's") from None
    if not isinstance(told, dict):
        raise Oc2dError(f"the answer on {path} is none of oc2d's")
    return cast(dict[str, Any], told)
