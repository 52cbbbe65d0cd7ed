"""A plugin as a third party brings it: an actuator, and a hook that hangs when it is told to."""

from __future__ import annotations

import time
from pathlib import Path
from types import SimpleNamespace

from oc2d.actuator import Actuator, Command, Response, pair
from oc2d.hookspecs import Request, hookimpl

HANG_ONCE = Path("/var/lib/oc2d/hang-once")


class Door(Actuator):
    """It is always open."""

    profile = "x-door"

    @pair("query", "device")
    def state(self, command: Command) -> Response:  # noqa: ARG002 - every device is this one
        """Tell."""
        return Response(text="the door is open")


@hookimpl
def oc2d_authorise(request: Request) -> None:  # noqa: ARG001 - whatever it is
    """Stop the engine's thread, once."""
    if HANG_ONCE.exists():
        HANG_ONCE.unlink()
        time.sleep(3600)


guard = SimpleNamespace(oc2d_authorise=oc2d_authorise)
