"""The whole extension contract of oc2d beside `oc2d.actuator`, in the order of a daemon's life.

A plugin is an entry point of the group `oc2d`: an `Actuator` subclass, or a module or object whose
functions are marked with `hookimpl`. A hook may take fewer arguments than its specification. What
it raises is logged and stops nothing, unless its docstring says otherwise. Each plugin is called by
itself: there is nothing that a `wrapper` of pluggy could wrap.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pluggy

from oc2d.actuator import Actuator
from oc2d.errors import Refusal
from oc2d.language.command import OpenC2Command

__all__ = ["ENTRY_POINT_GROUP", "Hooks", "Place", "Request", "hookimpl", "hookspec"]

ENTRY_POINT_GROUP = "oc2d"
hookspec = pluggy.HookspecMarker("oc2d")
hookimpl = pluggy.HookimplMarker("oc2d")


@dataclass(frozen=True, slots=True)
class Request:
    """What hooks are told of a request: who asked what, and where it came in.

    To be read only: what a hook changes in a profile's own target, arguments or specifiers, which
    are plain trees here, is carried out as changed.
    """

    request_id: str | None
    producer: str | None
    """What the message says of its sender (`from`), as is `request_id`; None: it says nothing."""
    topic: str
    profile: str | None
    """Which one carries it out; None: `query features`, and what nobody here can."""
    command: OpenC2Command


@dataclass(frozen=True, slots=True)
class Place:
    """Where a plugin of hooks lives: whose daemon it is, and where it may keep files of its own."""

    device_id: str
    state_directory: Path
    runtime_directory: Path


class Hooks:
    """The hook specifications; see each for its moment and its thread."""

    @hookspec
    def oc2d_actuators(self) -> Iterable[type[Actuator]]:
        """Return the actuator classes of this plugin. Main thread, whenever plugins are loaded.

        If it raises, the plugin is not loaded, and `oc2d plugins` says why.
        """
        raise NotImplementedError

    @hookspec
    def oc2d_parse_config(self, table: Mapping[str, Any]) -> Any:  # noqa: ANN401 - the plugin's own type
        """Turn `[plugins.<entry point>]` into the plugin's typed config; `ConfigError` if wrong.

        Main thread, at start, at reload and by `oc2d check`; pure, but it may read files that the
        table names. Anything else it raises is told as a mistake of the table. With this hook a
        plugin is on only when its table is there.
        """
        raise NotImplementedError

    @hookspec
    def oc2d_configure(self, config: Any, place: Place) -> None:  # noqa: ANN401 - the plugin's own type
        """Work by what `oc2d_parse_config` returned (None without that hook) from now on.

        Main thread, before anything else of the daemon runs, and again after each reload that was
        accepted. Raising stops the daemon from starting; at a reload it is logged, and the table
        waits for a restart.
        """

    @hookspec(firstresult=True)
    def oc2d_authorise(self, request: Request) -> str | Refusal | None:
        """Return a reason to refuse the command with 403, or None to leave it to others.

        A `Refusal` is answered as it is: 401, or 503, after which the same may be sent again.
        Engine thread, before the request is accepted: be quick and do not block. Raising refuses
        with 403: an error must not open a door.
        """

    @hookspec
    def oc2d_request(self, request: Request) -> None:
        """Observe a request that was accepted, after it is durable. Engine thread."""

    @hookspec
    def oc2d_response(self, request: Request, status: int, duration_ms: float) -> None:
        """Observe the outcome of a request, after it is durable. Engine thread.

        `status` is that of the response, `duration_ms` the milliseconds from acceptance to outcome.
        Also of what `[policy]`, a limit or `oc2d_authorise` refused.
        """

    @hookspec
    def oc2d_status(self) -> Mapping[str, Any]:
        """Contribute JSON-able members to `oc2d status`. Status thread.

        If it raises, the kind of the error is shown in its place.
        """
        raise NotImplementedError

    @hookspec
    def oc2d_stop(self) -> None:
        """Close what `oc2d_configure` opened: nothing follows. Main thread, at the very end."""
