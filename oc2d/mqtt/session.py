"""The session with the broker: one thread that owns paho and the socket."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from oc2d.engine.ports import Intake, Outgoing, Token
from oc2d.mqtt.settings import LinkSettings
from oc2d.mqtt.status import LinkObserver, LinkStatus

__all__ = ["Session", "Shorten"]

#: Makes a response fit: called with it and the largest payload the broker takes, in bytes.
Shorten = Callable[[Outgoing, int], "Outgoing | None"]


class Session:
    """One client of one broker; implements `oc2d.engine.ports.Transfer`."""

    def __init__(
        self,
        settings: LinkSettings,
        intake: Intake,
        observer: LinkObserver | None = None,
        shorten: Shorten | None = None,
    ) -> None: ...

    def start(self) -> None: ...

    def stop(self, timeout: float) -> None: ...

    def acknowledge(self, tokens: Sequence[Token]) -> None: ...

    def send(self, messages: Sequence[Outgoing]) -> None: ...

    def release(self, handles: Sequence[int]) -> None: ...

    def reconfigure(self, settings: LinkSettings) -> None: ...

    def status(self) -> LinkStatus: ...

    def ping(self) -> None: ...

    def progress(self) -> float: ...
