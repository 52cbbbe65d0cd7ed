"""The plugins' hooks as the engine calls them: whatever they raise, the engine goes on."""

from __future__ import annotations

from typing import Protocol

import pluggy
import structlog

from oc2d.engine import events
from oc2d.errors import Forbidden, Refusal
from oc2d.hookspecs import Request

__all__ = ["Hooks"]

_log = structlog.get_logger("oc2d.engine")


class _Relay(Protocol):
    def oc2d_authorise(self, *, request: Request) -> str | Refusal | None: ...

    def oc2d_request(self, *, request: Request) -> object: ...

    def oc2d_response(self, *, request: Request, status: int, duration_ms: float) -> object: ...


class Hooks:
    """Calls `oc2d_authorise`, `oc2d_request` and `oc2d_response` of all plugins."""

    def __init__(self, manager: pluggy.PluginManager) -> None:
        self._relay: _Relay = manager.hook
        hook = manager.hook
        # with no plugin behind it, a call costs as much as parsing a command
        self._judged = bool(hook.oc2d_authorise.get_hookimpls())
        self._observed = bool(
            hook.oc2d_request.get_hookimpls() + hook.oc2d_response.get_hookimpls()
        )

    def authorise(self, request: Request) -> Refusal | None:
        """Return why the command is refused; an error refuses too: it must not open a door."""
        if not self._judged:
            return None
        try:
            reason = self._relay.oc2d_authorise(request=request)
        except BaseException:  # noqa: BLE001 - any plugin, any error
            _log.exception(events.HOOK_FAILED, hook="oc2d_authorise")
            return Forbidden("not permitted")
        return reason if reason is None or isinstance(reason, Refusal) else Forbidden(str(reason))

    def request(self, request: Request) -> None:
        """Tell that a request was accepted."""
        if not self._observed:
            return
        try:
            self._relay.oc2d_request(request=request)
        except BaseException:  # noqa: BLE001 - any plugin, any error
            _log.exception(events.HOOK_FAILED, hook="oc2d_request")

    def response(self, request: Request, status: int, duration_ms: float) -> None:
        """Tell the outcome of a request."""
        if not self._observed:
            return
        try:
            self._relay.oc2d_response(request=request, status=status, duration_ms=duration_ms)
        except BaseException:  # noqa: BLE001 - any plugin, any error
            _log.exception(events.HOOK_FAILED, hook="oc2d_response")
