"""Reaching the broker: resolve, connect, TLS, on a thread that lives just as long.

The network thread must never wait for a name server or a handshake.
"""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Callable, Sequence
from typing import Any

import structlog

from oc2d.errors import Oc2dError
from oc2d.mqtt import events
from oc2d.mqtt.settings import LinkSettings
from oc2d.mqtt.status import Address
from oc2d.mqtt.tls import make_context
from oc2d.mqtt.tls_failure import tls_failure

__all__ = ["Dial"]

_log = structlog.get_logger("oc2d.mqtt")
_MOST_ADDRESSES = 16  # of thousands that do not answer, one attempt would take a day


class Dial(threading.Thread):
    """One attempt to reach the broker at any of its addresses.

    `resolving` is called before name servers are asked, `changing` with all addresses before the
    first connect; both are waited for. At the end `done` is called with this object, on this
    thread: `sock` is the connected socket and `password` the broker password as it is now, or
    `error` says why not.
    """

    def __init__(
        self,
        settings: LinkSettings,
        resolving: Callable[[], None],
        changing: Callable[[Sequence[Address]], None],
        done: Callable[[Dial], None],
    ) -> None:
        super().__init__(name="oc2d-dial", daemon=True)
        self.settings = settings
        self.sock: socket.socket | None = None
        self.address: Address | None = None
        self.password: str | None = None
        self.error: str | None = None
        self._resolving = resolving
        self._changing = changing
        self._done = done
        self._abandoned = threading.Event()

    def abandon(self) -> None:
        """Give up as soon as can be; what was reached is closed."""
        self._abandoned.set()

    def close(self) -> None:
        """Close the socket that nobody wants."""
        if self.sock is not None:
            self.sock.close()
            self.sock = None

    def run(self) -> None:
        """Try; never raises."""
        try:
            self._reach()
        except (OSError, Oc2dError, UnicodeError) as error:
            self.error = _describe(error)
        except Exception:  # noqa: BLE001  the caller waits for an answer
            _log.exception(events.LOOP_ERROR, where="dial")
            self.error = "internal error"
        if self._abandoned.is_set():
            self.close()
        self._done(self)

    def _reach(self) -> None:
        settings = self.settings
        self.password = settings.password()
        context = None if settings.tls is None else make_context(settings.tls)
        self._resolving()
        found = socket.getaddrinfo(settings.host, settings.port, type=socket.SOCK_STREAM)
        addresses = {info[4][:2]: info for info in found[:_MOST_ADDRESSES]}
        if self._abandoned.is_set():
            return  # nobody may think that the link goes where it will not
        self._changing(tuple(Address(str(host), int(port)) for host, port in addresses))
        failures = []
        for (host, port), (family, kind, protocol, _, target) in addresses.items():
            if self._abandoned.is_set():
                return
            address = Address(str(host), int(port))
            try:
                sock = socket.socket(family, kind, protocol)  # perhaps there is no IPv6 here
                self.sock = _connected(sock, target, settings, context)
            except OSError as error:
                failures.append(f"{address}: {_describe(error)}")
                continue
            self.address = address
            return
        self.error = "; ".join(failures)


def _connected(
    sock: socket.socket,
    target: Any,  # noqa: ANN401 - as the family has it
    settings: LinkSettings,
    context: ssl.SSLContext | None,
) -> socket.socket:
    """Connect, and speak TLS; closes the socket where that fails."""
    try:
        sock.settimeout(settings.connect_timeout)
        sock.connect(target)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return sock if context is None else _secured(sock, context, settings.host)
    except BaseException:
        sock.close()
        raise


def _secured(sock: socket.socket, context: ssl.SSLContext, host: str) -> socket.socket:
    try:
        return context.wrap_socket(sock, server_hostname=host)
    except ConnectionError as error:
        what = f"{error.strerror} in the TLS handshake (no TLS is spoken there: see broker.port)"
        raise ConnectionError(error.errno, what) from error


def _describe(error: Exception) -> str:
    if isinstance(error, ssl.SSLError):
        return tls_failure(error)
    if isinstance(error, socket.gaierror):
        return f"cannot resolve the broker's name: {error.strerror} (broker.host)"
    if isinstance(error, ConnectionRefusedError):
        return f"{error.strerror} (nothing listens there: broker.host, broker.port)"
    if isinstance(error, TimeoutError):
        return "no answer in time"
    return getattr(error, "strerror", None) or str(error)
