"""The plugins' hooks as the engine calls them: whatever they raise, the engine goes on."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Protocol

import pluggy
import structlog

from oc2d.engine import events
from oc2d.errors import Forbidden, Refusal
from oc2d.hookspecs import Request

__all__ = ["Hooks"]

_log = structlog.get_logger("oc2d.engine")


class _Judge(Protocol):
    def oc2d_authorise(self, *, request: Request) -> str | Refusal | None: ...


class Hooks:
    """Calls `oc2d_authorise`, `oc2d_request` and `oc2d_response` of all plugins."""

    def __init__(self, manager: pluggy.PluginManager) -> None:
        self._judge: _Judge = manager.hook
        # with no plugin behind it, a call costs as much as parsing a command
        self._judged = bool(manager.hook.oc2d_authorise.get_hookimpls())
        self._on_request = _one_by_one(manager, "oc2d_request")
        self._on_response = _one_by_one(manager, "oc2d_response")

    def authorise(self, request: Request) -> Refusal | None:
        """Return why the command is refused; an error refuses too: it must not open a door."""
        if not self._judged:
            return None
        try:
            reason = self._judge.oc2d_authorise(request=request)
        except BaseException:  # noqa: BLE001 - any plugin, any error
            _log.exception(events.HOOK_FAILED, hook="oc2d_authorise")
            return Forbidden("not permitted")
        return reason if reason is None or isinstance(reason, Refusal) else Forbidden(str(reason))

    def request(self, request: Request) -> None:
        """Tell that a request was accepted."""
        for tell in self._on_request:
            tell(request=request)

    def response(self, request: Request, status: int, duration_ms: float) -> None:
        """Tell the outcome of a request."""
        for tell in self._on_response:
            tell(request=request, status=status, duration_ms=duration_ms)


def _one_by_one(manager: pluggy.PluginManager, hook: str) -> list[Callable[..., None]]:
    """Return what tells each plugin alone: what one raises keeps no other from being told."""
    found = reversed(getattr(manager.hook, hook).get_hookimpls())  # in pluggy's order
    return [partial(_tell, one, hook) for one in found]


def _tell(one: pluggy.HookImpl, hook: str, **told: object) -> None:
    try:
        one.function(*(told[name] for name in one.argnames))
    except BaseException:  # noqa: BLE001 - any plugin, any error
        _log.exception(events.HOOK_FAILED, hook=hook, plugin=one.plugin_name)
