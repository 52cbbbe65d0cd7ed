"""The plugins' hooks as the engine calls them: whatever they raise, the engine goes on."""

from __future__ import annotations

from collections.abc import Callable
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


class Hooks:
    """Calls `oc2d_authorise`, `oc2d_request` and `oc2d_response` of all plugins."""

    def __init__(self, manager: pluggy.PluginManager) -> None:
        self._relay: _Relay = manager.hook
        hook = manager.hook
        # with no plugin behind it, a call costs as much as parsing a command
        self._judged = bool(hook.oc2d_authorise.get_hookimpls())
        self._observers = {name: _each(manager, name) for name in ("oc2d_request", "oc2d_response")}

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
        self._tell("oc2d_request", request=request)

    def response(self, request: Request, status: int, duration_ms: float) -> None:
        """Tell the outcome of a request."""
        self._tell("oc2d_response", request=request, status=status, duration_ms=duration_ms)

    def _tell(self, hook: str, **what: object) -> None:
        """Tell each plugin by itself: one that raises takes the news from no other."""
        for plugin, observe in self._observers[hook]:
            try:
                observe(**what)
            except BaseException:  # noqa: BLE001 - any plugin, any error
                _log.exception(events.HOOK_FAILED, hook=hook, plugin=plugin)


def _each(manager: pluggy.PluginManager, hook: str) -> list[tuple[str, Callable[..., object]]]:
    """Return a caller for each plugin alone, in the order in which pluggy calls them."""
    found = {
        one.plugin_name: one.plugin for one in reversed(getattr(manager.hook, hook).get_hookimpls())
    }
    return [
        (name, manager.subset_hook_caller(hook, [p for p in found.values() if p is not plugin]))
        for name, plugin in found.items()
    ]
