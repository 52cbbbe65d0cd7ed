"""One open request, and what follows from a transaction of the engine."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from oc2d.actuator import Response
from oc2d.engine.answers import ReplyTo
from oc2d.engine.clock import Clock
from oc2d.engine.ledger import Entry
from oc2d.engine.ports import Outgoing, Token
from oc2d.engine.records import Origin
from oc2d.engine.window import Window
from oc2d.engine.worker import Job, Step
from oc2d.hookspecs import Request
from oc2d.language.response import OpenC2Response, Results
from oc2d.language.vocabulary import ResponseType, StatusCode

__all__ = ["Batch", "Case", "Settings", "first_step", "last_word", "worded"]


@dataclass(frozen=True, slots=True)
class Settings:
    """What the configuration says about answers and memory; seconds."""

    remember: int
    interim_after: float
    report_after_ack: bool


@dataclass(slots=True)
class Case:
    """One request that is not finished; `job` is what its actuator has to do next."""

    job: Job
    request: Request | None  # None: an earlier process took it, and it cannot be read any more
    origin: Origin
    to: ReplyTo
    response_type: ResponseType
    begun: float
    told: bool = False  # something was sent for it already
    deferred: bool = False  # it waits for its start time
    running: bool = False  # its actuator was told to execute it

    @property
    def silent(self) -> bool:
        """Nothing may be sent for it."""
        return self.response_type is ResponseType.NONE


@dataclass(slots=True)
class Batch:
    """What follows once the transaction is committed, or is undone when it fails."""

    acknowledge: list[Token] = field(default_factory=list)
    send: list[Outgoing] = field(default_factory=list)
    release: list[int] = field(default_factory=list)
    then: list[Callable[[], None]] = field(default_factory=list)
    entries: list[Entry] = field(default_factory=list)
    undo: list[Callable[[], None]] = field(default_factory=list)


def first_step(window: Window, clock: Clock) -> Step:
    """Tell what a command begins with; there is no waiting for a window without length (AMB-24)."""
    return Step.RESERVE if window.ahead(clock) and not window.over(clock) else Step.CARRY_OUT


def last_word(case: Case) -> bool:
    """Tell whether the 102 that was sent is all there will be (AMB-16)."""
    return case.told and case.response_type is ResponseType.ACK


def worded(response: Response, case: Case) -> OpenC2Response:
    """Put a plugin's results under its NSID (LANG-40); raises what is wrong with them."""
    status, text, results = StatusCode(response.status), response.text, response.results
    if not (text is None or isinstance(text, str)):
        raise TypeError(f"the text of a response is {type(text).__name__}")
    if results is None:
        return OpenC2Response(status, text)
    return OpenC2Response(status, text, Results(extensions={case.job.profile: results}))
