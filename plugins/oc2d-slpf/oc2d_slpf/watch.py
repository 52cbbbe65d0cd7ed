"""Notice what others do to our table, where the kernel cannot keep them from it."""

from __future__ import annotations

import ctypes
import errno
import os
import select
import socket
import struct
import threading
from collections.abc import Callable

import structlog

from oc2d_slpf.netlink import INET, NETLINK_NETFILTER, SOL_NETLINK, attributes

__all__ = ["Watch"]

_log = structlog.get_logger("oc2d.slpf")

NETLINK_ADD_MEMBERSHIP, NETLINK_DROP_MEMBERSHIP = 1, 2
NFNLGRP_NFTABLES = 7
SO_ATTACH_FILTER = 26
_BUFFER = 1 << 16
_PAUSE, _LONGEST = 1000, 60_000  # milliseconds until it is read again


class Watch:
    """Call `changed`, on a thread of its own, after changes to the table by others than `port`.

    The thread sleeps until there are some: what `port` does is kept back in the kernel.
    Raises OSError.
    """

    def __init__(self, port: int, table: str, changed: Callable[[], None]) -> None:
        self._table = table.encode() + b"\0"
        self._changed = changed
        self._stop, self._stopped = os.pipe()
        kind = socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
        self._socket = socket.socket(socket.AF_NETLINK, kind, NETLINK_NETFILTER)
        _leave_out(self._socket, port)
        self._socket.bind((0, 0))
        self.listen(on=True)
        self._thread = threading.Thread(target=self._run, name="oc2d-slpf-watch", daemon=True)
        self._thread.start()

    def listen(self, *, on: bool) -> None:
        """Be told of changes or not; what was told before is still heard. Any thread."""
        option = NETLINK_ADD_MEMBERSHIP if on else NETLINK_DROP_MEMBERSHIP
        self._socket.setsockopt(SOL_NETLINK, option, NFNLGRP_NFTABLES)

    def close(self) -> None:
        """End the thread and close the socket."""
        os.close(self._stopped)
        self._thread.join()
        os.close(self._stop)
        self._socket.close()

    def _run(self) -> None:
        poll = select.poll()
        poll.register(self._socket, select.POLLIN)
        poll.register(self._stop, select.POLLIN)
        stop = select.poll()
        stop.register(self._stop, select.POLLIN)
        pause = _PAUSE
        while all(fd != self._stop for fd, _ in poll.poll()):
            try:
                found = self._read()
            except Exception as error:  # noqa: BLE001 - without us nobody would be told any more
                _log.error("slpf_watch_failed", error=repr(error))
                self._changed()  # for all we know
                if stop.poll(pause):
                    return
                pause = min(2 * pause, _LONGEST)
                continue
            pause = _PAUSE
            if found:
                self._changed()

    def _read(self) -> bool:
        """Read all that is there; tell whether any of it is about our table."""
        found = False
        while True:
            try:
                data = self._socket.recv(_BUFFER)
            except BlockingIOError:
                return found
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                found = True  # some were lost: they may have been about us
            else:
                found = found or self._is_ours(data)

    def _is_ours(self, data: bytes) -> bool:
        """Look at nfgen_family and at the attribute 1 of each message: its table, in all kinds."""
        at = 0
        while at + 20 <= len(data):
            (size,) = struct.unpack_from("=I", data, at)
            body = data[at + 20 : at + size]
            if data[at + 16] == INET and next(attributes(body), None) == (1, self._table):
                return True
            at += max(size, 20) + 3 & ~3
        return False


def _leave_out(sock: socket.socket, port: int) -> None:
    """Attach a socket filter (classic BPF): drop what has `port` as its nlmsg_pid, at offset 12."""
    # the load takes the four bytes as big-endian, netlink wrote them in host order
    (as_read,) = struct.unpack(">I", struct.pack("=I", port))
    program = b"".join(
        struct.pack("=HBBI", *instruction)
        for instruction in (
            (0x20, 0, 0, 12),  # BPF_LD | BPF_W | BPF_ABS
            (0x15, 0, 1, as_read),  # BPF_JMP | BPF_JEQ | BPF_K: not equal, skip one
            (0x06, 0, 0, 0),  # BPF_RET: nothing
            (0x06, 0, 0, 0xFFFFFFFF),  # BPF_RET: all of it
        )
    )
    held = ctypes.create_string_buffer(program, len(program))
    sock.setsockopt(
        socket.SOL_SOCKET, SO_ATTACH_FILTER, struct.pack("@HP", 4, ctypes.addressof(held))
    )
