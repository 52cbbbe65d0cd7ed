"""What an earlier process left behind: run again, answer, or wait for the end of a window.

DESIGN 4: RECEIVED runs; STARTED without RESULT runs again only on an idempotent actuator and not
after two deaths; open windows are armed again, closed ones are reverted.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import msgspec
import structlog

from oc2d.actuator import Command, Reason
from oc2d.engine import events
from oc2d.engine.answers import ReplyTo
from oc2d.engine.case import Case, first_step
from oc2d.engine.cases import Cases
from oc2d.engine.clock import Clock
from oc2d.engine.intake import Gate
from oc2d.engine.journal import Journal
from oc2d.engine.records import Pending, Phase, command_key
from oc2d.engine.selection import Hosted, compose
from oc2d.engine.worker import Job, OutcomeUnknown, Reports, Step
from oc2d.errors import Failed, Refusal
from oc2d.hookspecs import Request
from oc2d.language.codec import Encoding, InputLimits, Tree, decode
from oc2d.language.command import decode_extension
from oc2d.language.vocabulary import Action, ResponseType

__all__ = ["Leftovers", "read", "resume"]

_log = structlog.get_logger("oc2d.engine")
_MOST_DEATHS = 2


@dataclass(slots=True)
class Leftovers:
    """What there is to do, in order of arrival."""

    run: list[Case] = field(default_factory=list)
    wait: list[Case] = field(default_factory=list)
    """Deferred: their start time lies ahead or has come meanwhile."""
    answer: list[tuple[Case, Refusal]] = field(default_factory=list)
    windows: list[Job] = field(default_factory=list)
    """To be reverted when their window is over, or at once when it is."""
    ended: dict[str, set[str]] = field(default_factory=dict)
    """By NSID the keys of commands that must not come back (`Actuator.restore`)."""


def read(journal: Journal, gate: Gate, hosted: Mapping[str, Hosted], clock: Clock) -> Leftovers:
    """Read what is unfinished; changes nothing."""
    left = Leftovers()
    deferred = {timer.request for timer in journal.timers() if not timer.revert}
    deaths = {timer.request: timer.attempts for timer in journal.timers() if timer.revert}
    for pending in journal.pending():
        host = hosted.get(pending.actuator)
        waits = pending.request in deferred
        begun = _may_have_begun(pending, host, clock, waits=waits)
        try:
            case = _reopened(pending, gate, journal.epoch, clock)
        except Refusal as refusal:
            _log.error(events.RECOVERY_FAILED, request=pending.request, reason=refusal.text)
            case = _unreadable(pending, journal.epoch, clock)
        case.job = msgspec.structs.replace(case.job, leftover=begun)
        if waits:
            case.job = msgspec.structs.replace(case.job, step=Step.EXECUTE, early=False)
        wrong = _addressed(case, host)
        if case.job.window.over(clock) and begun:
            left.ended.setdefault(pending.actuator, set()).add(case.job.command.key)
        if begun:
            wrong = _unknown(pending, case, host, wrong, clock)
        if pending.phase is Phase.RESULT:
            _sort_window(left, case.job, host, deaths.get(pending.request, 0), clock)
        elif wrong is not None:
            left.answer.append((case, wrong))
        elif waits:
            left.wait.append(case)
        else:
            left.run.append(case)
    return left


def resume(left: Leftovers, cases: Cases, reports: Reports) -> None:
    """Hand everything to the workers and the scheduler; before the engine's thread starts."""
    for job in left.windows:
        cases.wait_for_end(job)
    for case in (*left.wait, *left.run, *(case for case, _ in left.answer)):
        cases.reopen(case)
    for case, refusal in left.answer:
        reports.finished([(case.job, refusal)])
    for case in left.wait:
        cases.wait_for_start(case)
    for case in left.run:
        cases.workers[case.job.profile].post(case.job)
    _log.info(
        events.RESTORED,
        run=len(left.run),
        deferred=len(left.wait),
        answered=len(left.answer),
        windows=len(left.windows),
    )


def _sort_window(left: Leftovers, job: Job, host: Hosted | None, deaths: int, clock: Clock) -> None:
    if host is None:
        reason = "the actuator is not loaded"
        _log.error(events.REVERT_FAILED, command_key=job.command.key, reason=reason)
        return
    if job.window.over(clock):
        left.ended.setdefault(job.profile, set()).add(job.command.key)
    if deaths >= _MOST_DEATHS:
        _log.error(events.REVERT_FAILED, command_key=job.command.key, reason="died twice")
        return
    left.windows.append(msgspec.structs.replace(job, step=Step.REVERT, early=False))


def _may_have_begun(pending: Pending, host: Hosted | None, clock: Clock, *, waits: bool) -> bool:
    """Tell whether the actuator may have been asked: STARTED is synced only where it must be.

    A power loss makes RECEIVED of it, while what an idempotent actuator did may be on the disk. Of
    one that is not loaded nobody can tell. What was reserved and `waits` for a time to come has
    not begun.
    """
    if pending.phase is Phase.RECEIVED:
        if waits and pending.origin.window.ahead(clock):
            return False
        return host is None or host.actuator.idempotent
    return pending.phase is Phase.STARTED


def _unknown(
    pending: Pending, case: Case, host: Hosted | None, wrong: Refusal | None, clock: Clock
) -> Refusal | None:
    """Say why a command that was running is not run again: it may have taken effect."""
    if wrong is not None or host is None:
        return OutcomeUnknown("outcome unknown" if wrong is None else wrong.text)
    if pending.attempts >= _MOST_DEATHS or not host.actuator.idempotent:
        return OutcomeUnknown("outcome unknown")
    command = case.job.command
    if case.job.window.over(clock):
        text = host.worded(Reason.WINDOW_OVER, command.action, command.target_name)
        return OutcomeUnknown(text)
    return None


def _reopened(pending: Pending, gate: Gate, epoch: str, clock: Clock) -> Case:
    """Read the request again; raises `Refusal` when the journal's copy makes no sense."""
    origin = pending.origin
    parsed = gate.reread(origin)
    asked = (parsed.args and parsed.args.response_requested) or ResponseType.COMPLETE
    told = pending.response is not None
    key = command_key(epoch, pending.request)
    command = Command(key, origin.producer, parsed.action, parsed.target.name, parsed.target.value)
    job = Job(
        pending.request,
        pending.actuator,
        first_step(origin.window, clock),
        command,
        origin.window,
        suspect=pending.attempts > 0,
    )
    request = Request(origin.request_id, origin.producer, origin.topic, pending.actuator, parsed)
    to = ReplyTo(origin.request_id, origin.producer, origin.encoding, origin.correlation)
    return Case(job, request, origin, to, asked, clock.monotonic(), told=told)


def _unreadable(pending: Pending, epoch: str, clock: Clock) -> Case:
    """Keep what it takes to answer it and to revert it: for that its key is enough."""
    origin = pending.origin
    key = command_key(epoch, pending.request)
    command = Command(key, origin.producer, Action.QUERY, "unreadable", None)
    job = Job(pending.request, pending.actuator, Step.CARRY_OUT, command, origin.window)
    to = ReplyTo(origin.request_id, origin.producer, origin.encoding, origin.correlation)
    return Case(job, None, origin, to, ResponseType.COMPLETE, clock.monotonic())


def _addressed(case: Case, host: Hosted | None) -> Refusal | None:
    """Type the command for its actuator; returns why it cannot have it any more."""
    if case.request is None:
        return Failed("the command cannot be read any more")
    if host is None:
        return Failed("the actuator of this command is not loaded")
    origin, job = case.origin, case.job
    try:
        command = compose(
            case.request.command,
            origin.encoding,
            host,
            key=job.command.key,
            producer=origin.producer,
            window=origin.window,
        )
        if origin.reserved is not None:
            reserved: Tree = decode(origin.reserved, Encoding.JSON, InputLimits())
            if type_ := host.actuator.results_type:
                reserved = decode_extension(reserved, type_, Encoding.JSON, path="$.results")
            command = replace(command, reserved=reserved)
    except Refusal as refusal:
        return refusal
    early = host.early(command.action, command.target_name, case.response_type)
    case.job = msgspec.structs.replace(job, command=command, early=early and not case.told)
    return None
