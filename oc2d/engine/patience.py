"""How long those who asked have waited without a word (LANG-30, AMB-18)."""

from __future__ import annotations

from collections import OrderedDict
from itertools import takewhile

from oc2d.language.vocabulary import ResponseType

__all__ = ["Patience"]

_STATUS_AFTER = 0.1  # seconds until `status` is told that a command still runs (AMB-18)


class Patience:
    """When each open request is due an interim answer; on the engine's thread.

    One line for each delay, so that each is in order.
    """

    def __init__(self) -> None:
        self._lines: dict[ResponseType, OrderedDict[int, float]] = {
            ResponseType.STATUS: OrderedDict(),
            ResponseType.COMPLETE: OrderedDict(),
        }

    def begin(self, request: int, kind: ResponseType, now: float, interim_after: float) -> None:
        """Count from now on (monotonic, seconds), if this kind of request is ever due one."""
        if (line := self._lines.get(kind)) is not None:
            line[request] = now + (_STATUS_AFTER if kind is ResponseType.STATUS else interim_after)

    def end(self, request: int, kind: ResponseType) -> None:
        """Count no longer."""
        if line := self._lines.get(kind):
            line.pop(request, None)

    def due(self, now: float) -> list[int]:
        """Tell who has waited long enough."""
        return [
            request
            for line in self._lines.values()
            for request, _ in takewhile(lambda item: item[1] <= now, line.items())
        ]

    def next(self) -> float | None:
        """When somebody will have (monotonic); None: never as things are."""
        firsts = (next(iter(line.values()), None) for line in self._lines.values())
        return min((due for due in firsts if due is not None), default=None)
