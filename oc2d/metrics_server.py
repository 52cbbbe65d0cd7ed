"""Gives the metrics to a monitor of this host: HTTP on loopback or on a Unix socket."""

from __future__ import annotations

import http.server
import selectors
import socket
import socketserver
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import structlog

from oc2d.errors import StateError
from oc2d.metrics import CONTENT_TYPE

__all__ = ["METRICS_FAILED", "MetricsServer"]

#: The answer to a monitor could not be made: `error`.
METRICS_FAILED = "metrics_failed"

_MODE = 0o660
_PATIENCE = 2.0  # seconds a client has to ask and to read
_PAUSE = 0.1  # seconds
_FAILED = 500


class MetricsServer:
    """Answers `GET /metrics` at `listen` (`127.0.0.1:9464`, `unix:PATH`) from `start` to `stop`.

    One client after the other: each has two seconds. `tell` is called for each, on a thread of
    its own.
    """

    def __init__(self, listen: str, tell: Callable[[], str]) -> None:
        self._listen = listen
        self._tell = tell
        self._undo = ExitStack()

    def start(self) -> None:
        """Begin to answer. Raises StateError."""
        try:
            server = self._make()
        except OSError as error:
            raise StateError(
                f"metrics.listen: cannot listen on {self._listen}: {error.strerror or error}"
            ) from error
        self._undo.callback(server.server_close)
        wake, waker = socket.socketpair()
        self._undo.enter_context(wake)
        thread = threading.Thread(target=_serve, args=(server, wake), name="metrics", daemon=True)
        thread.start()
        self._undo.callback(thread.join)
        self._undo.enter_context(waker)

    def stop(self) -> None:
        """Stop answering."""
        self._undo.close()

    def _make(self) -> socketserver.TCPServer:
        handler = _handler(self._tell)
        if self._listen.startswith("unix:"):
            path = Path(self._listen.removeprefix("unix:"))
            if path.is_socket():  # a daemon that was killed left it there
                path.unlink()
            server = _UnixServer(str(path), handler)
            path.chmod(_MODE)
            self._undo.callback(path.unlink, missing_ok=True)
            return server
        host, _, port = self._listen.rpartition(":")
        family = socket.AF_INET6 if host.startswith("[") else socket.AF_INET
        kind = type("Server", (_TcpServer,), {"address_family": family})
        made: socketserver.TCPServer = kind((host.strip("[]"), int(port)), handler)
        return made


class _Quiet(socketserver.BaseServer):
    def get_request(self) -> tuple[Any, Any]:
        """Wait a moment after a failure: without descriptors the client would be there for ever."""
        try:
            return super().get_request()
        except OSError:
            time.sleep(_PAUSE)
            raise

    def handle_error(self, *_: object) -> None:
        """Say nothing of a client that is gone: the original writes tracebacks to stderr."""


class _TcpServer(_Quiet, socketserver.TCPServer):
    allow_reuse_address = True
    request_queue_size = 16
    timeout = 0  # of `handle_request`: a client is there when it is called


class _UnixServer(_Quiet, socketserver.UnixStreamServer):
    request_queue_size = 16
    timeout = 0


def _serve(server: socketserver.TCPServer, wake: socket.socket) -> None:
    """Answer until the other end of `wake` is closed; `serve_forever` would look twice a second."""
    with selectors.DefaultSelector() as selector:
        selector.register(server, selectors.EVENT_READ)
        selector.register(wake, selectors.EVENT_READ)
        while all(key.fileobj is not wake for key, _ in selector.select()):
            server.handle_request()


def _hang_up(client: socket.socket) -> None:
    with suppress(OSError):  # it has gone
        client.shutdown(socket.SHUT_RDWR)


def _handler(tell: Callable[[], str]) -> type[http.server.BaseHTTPRequestHandler]:
    class Handler(http.server.BaseHTTPRequestHandler):
        timeout = _PATIENCE  # for each read; a client that trickles would never reach it

        def handle(self) -> None:
            late = threading.Timer(_PATIENCE, _hang_up, (self.connection,))
            late.daemon = True
            late.start()
            try:
                super().handle()
            finally:
                late.cancel()

        def do_GET(self) -> None:
            if self.path.partition("?")[0] != "/metrics":
                self.send_error(404, "only /metrics is here")
                return
            try:
                body = tell().encode()
            except Exception as error:  # noqa: BLE001 - plugins contribute; the next may fare better
                structlog.get_logger().exception(METRICS_FAILED)
                self.send_error(_FAILED, f"cannot tell the state: {type(error).__name__}")
                return
            self.send_response(200)
            self.send_header("Content-Type", CONTENT_TYPE)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:  # noqa: ANN401 - http.server's
            """Nothing: who asks is of no interest."""

    return Handler
