"""What an earlier process left behind: run again, answer, or wait for the end of a window.

DESIGN 4: RECEIVED runs; STARTED without RESULT runs again only on an idempotent actuator and not
after two deaths; open windows are armed again, closed ones are reverted.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import structlog

from oc2d.actuator import Command
from oc2d.engine import events
from oc2d.engine.answers import ReplyTo
from oc2d.engine.cases import Case, Cases
from oc2d.engine.clock import Clock
from oc2d.engine.intake import Gate
from oc2d.engine.journal import Journal, Pending, Phase
from oc2d.engine.selection import Hosted, compose
from oc2d.engine.worker import Job, Reports, Step
from oc2d.errors import Failed, Refusal
from oc2d.hookspecs import Request
from oc2d.language.codec import Encoding, InputLimits, decode
from oc2d.language.command import decode_extension
from oc2d.language.vocabulary import ResponseType

__all__ = ["Leftovers", "read", "resume"]

_log = structlog.get_logger("oc2d.engine")
_MOST_DEATHS = 2


@dataclass(slots=True)
class Leftovers:
    """What there is to do, in order of arrival."""

    run: list[tuple[Job, Case]] = field(default_factory=list)
    wait: list[tuple[Job, Case]] = field(default_factory=list)
    """Deferred: their start time lies ahead or has come meanwhile."""
    answer: list[tuple[Job, Case, Refusal]] = field(default_factory=list)
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
        try:
            job, case = _reopened(pending, gate, journal.epoch, clock)
        except Refusal as refusal:
            _log.error(events.RECOVERY_FAILED, request=pending.request, reason=refusal.text)
            continue
        try:
            host, job = _addressed(job, case, hosted)
        except Refusal as refusal:
            if pending.phase is Phase.RESULT:
                _log.error(events.RECOVERY_FAILED, request=pending.request, reason=refusal.text)
            else:
                left.answer.append((job, case, refusal))
            continue
        if pending.phase is Phase.RESULT:
            _sort_window(left, job, deaths.get(pending.request, 0), clock)
        elif _must_not_run(pending, host):
            left.answer.append((job, case, Failed("outcome unknown")))
        elif pending.request in deferred:
            left.wait.append((replace(job, step=Step.EXECUTE, early=False), case))
        else:
            left.run.append((job, case))
    return left


def resume(left: Leftovers, cases: Cases, reports: Reports) -> None:
    """Hand everything to the workers and the scheduler; after `Actuator.restore`."""
    for job in left.windows:
        cases.wait_for_end(job)
    for job, case in (*left.wait, *left.run):
        cases.reopen(job.request, case)
    for job, case, outcome in left.answer:
        cases.reopen(job.request, case)
        reports.finished([(job, outcome)])
    for job, _ in left.wait:
        cases.wait_for_start(job)
    for job, _ in left.run:
        cases.workers[job.profile].post(job)
    _log.info(
        events.RESTORED,
        run=len(left.run),
        deferred=len(left.wait),
        answered=len(left.answer),
        windows=len(left.windows),
    )


def _sort_window(left: Leftovers, job: Job, deaths: int, clock: Clock) -> None:
    if deaths >= _MOST_DEATHS:
        _log.error(events.REVERT_FAILED, command_key=job.command.key, reason="died twice")
        return
    if job.window.over(clock):
        left.ended.setdefault(job.profile, set()).add(job.command.key)
    left.windows.append(replace(job, step=Step.REVERT, early=False))


def _must_not_run(pending: Pending, host: Hosted) -> bool:
    if pending.phase is not Phase.STARTED:
        return False
    return pending.attempts >= _MOST_DEATHS or not host.actuator.idempotent


def _reopened(pending: Pending, gate: Gate, epoch: str, clock: Clock) -> tuple[Job, Case]:
    """Read the request again; raises `Refusal` when the journal's copy makes no sense."""
    origin = pending.origin
    parsed = gate.reread(origin)
    asked = (parsed.args and parsed.args.response_requested) or ResponseType.COMPLETE
    to = ReplyTo(origin.request_id, origin.producer, origin.encoding, origin.correlation)
    request = Request(origin.request_id, origin.producer, origin.topic, pending.actuator, parsed)
    case = Case(request, origin, to, asked, clock.monotonic(), told=pending.response is not None)
    key = f"{epoch}-{pending.request}"
    command = Command(key, origin.producer, parsed.action, parsed.target.name, parsed.target.value)
    step = Step.RESERVE if origin.window.ahead(clock) else Step.CARRY_OUT
    early = asked is ResponseType.ACK and not case.told
    return Job(pending.request, pending.actuator, step, command, origin.window, early), case


def _addressed(job: Job, case: Case, hosted: Mapping[str, Hosted]) -> tuple[Hosted, Job]:
    """Type the command for its actuator; raises `Refusal` when that cannot have it any more."""
    host = hosted.get(job.profile)
    if host is None:
        raise Failed("the actuator of this command is not loaded")
    origin = case.origin
    command = compose(
        case.request.command,
        origin.encoding,
        host,
        key=job.command.key,
        producer=origin.producer,
        window=origin.window,
    )
    if origin.reserved is not None:
        tree = decode(origin.reserved, Encoding.JSON, InputLimits())
        type_ = host.actuator.results_type
        reserved = decode_extension(tree, type_, Encoding.JSON, path="$.results")
        command = replace(command, reserved=reserved)
    return host, replace(job, command=command)
