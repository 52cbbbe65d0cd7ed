"""What the journal keeps of a request."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import msgspec

from oc2d.engine.ports import kept
from oc2d.engine.window import Window
from oc2d.language.codec import Encoding

__all__ = ["Known", "Origin", "Pending", "Phase", "Timer", "command_key"]


def command_key(epoch: str, request: int) -> str:
    """Return what no other command has, ever: of a request and the journal that it is in."""
    return f"{epoch}-{request}"


class Phase(IntEnum):
    """How far a request has come."""

    RECEIVED = 0
    STARTED = 1
    RESULT = 2


class Origin(msgspec.Struct, frozen=True):
    """All that is needed to run a request later and to answer it, as the journal keeps it."""

    request_id: str | None
    producer: str | None
    topic: str
    encoding: Encoding
    correlation: bytes | None
    payload: bytes
    accepted: int  # wall clock, ms
    window: Window
    reserved: bytes | None = None

    @property
    def size(self) -> int:
        """Bytes that are kept of the message."""
        return kept(self.topic, self.payload, self.correlation)


class Known(msgspec.Struct, frozen=True):
    """A request that the journal remembers; `response` is its last one as JSON, None: none yet."""

    request: int
    response: bytes | None


@dataclass(frozen=True, slots=True)
class Pending:
    """A request that an earlier process left unfinished or that has a window open."""

    request: int
    phase: Phase
    attempts: int
    actuator: str
    origin: Origin
    response: bytes | None


@dataclass(frozen=True, slots=True)
class Timer:
    """An event of a window that is still to come."""

    request: int
    revert: bool
    attempts: int
