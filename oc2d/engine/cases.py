"""The open requests, and what each report does to them: writes the journal, fills a batch.

Everything here runs on the engine's thread inside one transaction. What must happen only when the
transaction is on the disk goes into the `Batch`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import msgspec
import structlog

from oc2d.actuator import Actuator, Response
from oc2d.engine import events
from oc2d.engine.answers import Answers, Handles, ReplyTo, Written, refused
from oc2d.engine.case import Batch, Case, Settings, first_step, last_word, worded
from oc2d.engine.clock import Clock
from oc2d.engine.hooks import Hooks
from oc2d.engine.journal import Journal
from oc2d.engine.ledger import Entry, Ledger
from oc2d.engine.open_cases import OpenCases
from oc2d.engine.patience import Patience
from oc2d.engine.ports import Inbound, Outgoing
from oc2d.engine.schedule import Scheduler
from oc2d.engine.verdict import Admit, Answer, Drop, Memory, Repeat, Verdict
from oc2d.engine.window import Window
from oc2d.engine.worker import Job, Outcome, OutcomeUnknown, Step, Worker, unless_begun
from oc2d.errors import Failed, Refusal, Unavailable
from oc2d.hookspecs import Request
from oc2d.language.codec import Encoding, encode
from oc2d.language.command import extension_tree
from oc2d.language.response import OpenC2Response
from oc2d.language.vocabulary import StatusCode

__all__ = ["Cases"]

_log = structlog.get_logger("oc2d.engine")
_PROCESSING = StatusCode.PROCESSING
_REVERT_AGAIN = 10.0  # seconds until a failed revert is tried again
_NEVER = 1 << 62
_OVER = Window(stop=0)


class Cases:
    """The engine's memory of what is open."""

    def __init__(  # noqa: PLR0913 - the parts it connects
        self,
        *,
        settings: Settings,
        journal: Journal,
        handles: Handles,
        answers: Answers,
        scheduler: Scheduler,
        hooks: Hooks,
        clock: Clock,
    ) -> None:
        self.settings = settings
        self._journal = journal
        self._handles = handles
        self._answers = answers
        self._scheduler = scheduler
        self._hooks = hooks
        self.ledger = Ledger(hooks, clock)
        self._clock = clock
        self.workers: dict[str, Worker] = {}
        self.due: Callable[[Job], None]  # the engine's; called by the scheduler
        self.open = OpenCases()
        self.counters: Counter[str] = Counter()
        self.patience = Patience()

    # -- from the transfer

    def received(self, message: Inbound, verdict: Verdict, batch: Batch) -> None:
        """Write down what follows of one message; acknowledge it in order of arrival."""
        self.counters["received"] += 1
        match verdict:
            case Drop():
                self.counters["dropped"] += 1
                _log.info(events.MESSAGE_DROPPED, topic=message.topic, reason=verdict.reason)
            case Answer():
                self._answer(verdict, message.topic, batch)
            case Repeat():
                self._repeat(verdict, message.topic, batch)
            case Admit():
                self._admit(verdict, batch)
        batch.acknowledge.append(message.token)

    def _answer(self, verdict: Answer, topic: str, batch: Batch) -> None:
        memory, written = verdict.memory, self._answers.write_own(verdict.response)
        if memory is not None:
            stored = None if verdict.silent else written.json
            request = self._journal.add_answered(memory.key, self._expires(memory), stored)
            if memory.key is None:
                self._journal.delivered(memory.packet_id, memory.digest, request)
        if not verdict.silent:
            self._send(written, verdict.to, batch, durable=verdict.durable)
        batch.entries.append(Entry(verdict.request, verdict.to, topic, written))

    def _repeat(self, verdict: Repeat, topic: str, batch: Batch) -> None:
        self.counters["duplicates"] += 1
        stored = verdict.known.response
        case = self.open.get(verdict.known.request)
        # A 102 is no news to one whose own reply will follow, unless that is far off (AMB-21).
        follows = case is not None and not case.deferred and not last_word(case)
        if stored is not None and not verdict.silent and not follows:
            self._post(self._answers.repeat(stored, verdict.to), batch)
        batch.entries.append(Entry(verdict.request, verdict.to, topic, None, duplicate=True))

    def _admit(self, verdict: Admit, batch: Batch) -> None:
        memory, journal, host = verdict.memory, self._journal, verdict.host
        window, command = verdict.origin.window, verdict.command
        step = first_step(window, self._clock)
        # What begins at once is noted as STARTED now: should it not, it runs alone after a death.
        at_once = step is Step.CARRY_OUT and self.workers[host.nsid].idle()
        noted = at_once and host.actuator.idempotent
        request = journal.add(
            memory.key, self._expires(memory), host.nsid, verdict.origin, started=noted
        )
        if memory.key is None:
            journal.delivered(memory.packet_id, memory.digest, request)
        if verdict.reused_id:
            _log.warning(events.REQUEST_ID_REUSED, request_id=verdict.to.request_id)
        if verdict.guessed:
            _log.info(events.ACTUATOR_CHOSEN, profile=host.nsid)
        early = host.early(command.action, command.target_name, verdict.response_type)
        job = Job(request, host.nsid, step, command, window, early=early, noted=noted)
        now = self._clock.monotonic()
        case = Case(job, verdict.request, verdict.origin, verdict.to, verdict.response_type, now)
        self.reopen(case)
        batch.undo.append(partial(self._leave, request))
        batch.then.append(partial(self._dispatch, verdict.request, job))

    def _dispatch(self, request: Request, job: Job) -> None:
        self._hooks.request(request)
        self.workers[job.profile].post(job)

    def reopen(self, case: Case) -> None:
        """Count a request among the open ones."""
        self.open.add(case)
        if not case.told:
            now, delay = self._clock.monotonic(), self.settings.interim_after
            self.patience.begin(case.job.request, case.response_type, now, delay)

    def _leave(self, request: int) -> None:
        """Keep nothing of a request that is finished."""
        self.patience.end(request, self.open.remove(request).response_type)

    # -- from the workers

    def accepted(self, job: Job, batch: Batch) -> None:
        """Send the 102 of an `ack` (AMB-16)."""
        if case := self.open.get(job.request):
            response = OpenC2Response(status=_PROCESSING)
            self._interim_answer(case, self._answers.write(response), batch)

    def reserved(self, job: Job, results: object, batch: Batch) -> None:
        """Keep what was reserved, and wait for the start time (AMB-25)."""
        case = self.open.get(job.request)
        if case is None:  # it was answered meanwhile, and a revert is on its way
            return
        written = self._spoken(Response(_PROCESSING, "waits for its start time", results), case)
        if written.status != _PROCESSING:
            self._finish(case, written, batch, unknown=True)
            return
        if results is not None:
            kept = encode(extension_tree(results, Encoding.JSON), Encoding.JSON)
            case.origin = msgspec.structs.replace(case.origin, reserved=kept)
            self._journal.reoriginate(job.request, case.origin)
        self._journal.arm(job.request, revert=False)
        case.told = False  # a 102 before this one could not say what is reserved
        self._interim_answer(case, written, batch)
        case.job = msgspec.structs.replace(
            job, step=Step.EXECUTE, early=False, command=replace(job.command, reserved=results)
        )
        batch.then.append(lambda: self.wait_for_start(case))

    def wait_for_start(self, case: Case) -> None:
        """Hold a deferred command until its start time."""
        case.deferred = True
        self._scheduler.at_start(case.job.window, partial(self.due, case.job))

    def begin_deferred(self, job: Job, batch: Batch, *, stuck: bool) -> None:
        """Execute what waited for its start time, unless nobody would."""
        if (case := self.open.get(job.request)) is None:
            return
        case.deferred = False
        if stuck:
            self._unavailable(job, batch)
        else:
            batch.then.append(lambda: self.workers[job.profile].post(job))

    def wait_for_end(self, job: Job) -> None:
        """Hold the revert of a command until its window is over.

        Without its actuator it stays in the journal.
        """
        if (worker := self.workers.get(job.profile)) is None:
            return
        if job.window.over(self._clock):
            worker.post(job)
        else:
            self._scheduler.at_stop(job.window, lambda: worker.post(job))

    def finished(self, job: Job, outcome: Outcome, batch: Batch) -> None:
        """Write down the outcome, arm the end of its window, answer."""
        case = self.open.get(job.request)
        if case is None:
            _log.warning(events.LATE_OUTCOME, command_key=job.command.key)
            return
        # only a refusal says that nothing has happened
        unknown = isinstance(outcome, Response | OutcomeUnknown)
        written = self._spoken(outcome, case)
        if written.status == _PROCESSING:  # no outcome: the interim answers are the engine's
            written = self._answers.write(refused(Failed("internal error")))
        cause = outcome.__cause__ if isinstance(outcome, Refusal) else None
        self._finish(case, written, batch, unknown=unknown, cause=cause)

    def _finish(
        self,
        case: Case,
        written: Written,
        batch: Batch,
        *,
        unknown: bool = False,
        cause: BaseException | None = None,
    ) -> None:
        job, status = case.job, written.status
        request, again = job.request, status == StatusCode.SERVICE_UNAVAILABLE
        end = self._end(job, status, unknown=unknown)
        if job.step is Step.EXECUTE:
            self._journal.disarm(request, revert=False)
        owes = self._owes(case, status)
        keep = end is not None
        if again:
            self._journal.forget(request, keep=keep)
        else:
            self._journal.finish(request, keep=keep, response=written.json if owes else None)
        if end is not None:
            if end is _OVER:  # and so it is after a restart
                origin = msgspec.structs.replace(case.origin, window=end)
                self._journal.reoriginate(request, origin)
            self._journal.arm(request, revert=True)
            undo = Job(request, job.profile, Step.REVERT, job.command, end)
            batch.then.append(partial(self.wait_for_end, undo))
        if owes:
            self._send(written, case.to, batch)
        self._leave(request)
        batch.undo.append(lambda: self.reopen(case))
        duration = (self._clock.monotonic() - case.begun) * 1000
        topic = case.origin.topic
        batch.entries.append(Entry(case.request, case.to, topic, written, duration, cause=cause))

    def _end(self, job: Job, status: int, *, unknown: bool) -> Window | None:
        """Return the window at whose end there is something to undo; None: nothing.

        What waited for its start time and is not carried out gives back what it reserved, at once.
        """
        again = status == StatusCode.SERVICE_UNAVAILABLE
        done = status < StatusCode.BAD_REQUEST or (unknown and not again)
        if done and job.step is not Step.RESERVE:
            return None if job.window.stop is None else job.window
        # what `check` or `reserve` refused has reserved nothing
        waited = job.step is Step.EXECUTE or (job.step is Step.RESERVE and (unknown or again))
        worker = self.workers.get(job.profile)
        reverts = worker is None or type(worker.host.actuator).revert is not Actuator.revert
        return _OVER if waited and reverts else None

    def _spoken(self, outcome: Outcome, case: Case) -> Written:
        """Turn an outcome into a response that can be sent, whatever the plugin put into it."""
        try:
            response = refused(outcome) if isinstance(outcome, Refusal) else worded(outcome, case)
            written = self._answers.write(response)
            self._answers.try_out(written, case.to.encoding)
        except BaseException as error:  # noqa: BLE001 - any plugin, any error
            _log.error(events.ACTUATOR_FAILED, profile=case.job.profile, exc_info=error)
            return self._answers.write(refused(Failed("internal error")))
        return written

    def _owes(self, case: Case, status: int) -> bool:
        if last_word(case):
            return self.settings.report_after_ack and status >= StatusCode.BAD_REQUEST
        return not case.silent

    def reverted(self, job: Job, failed: str | None, batch: Batch) -> None:
        """Close a window for good, or try again later."""
        target = job.command.target_name
        if failed is None:
            self._journal.disarm(job.request, revert=True)
            self._journal.finish(job.request, keep=False)
            batch.then.append(
                lambda: _log.info(events.REVERTED, command_key=job.command.key, target=target)
            )
            return
        _log.error(events.REVERT_FAILED, command_key=job.command.key, reason=failed)
        self._journal.revert_failed(job.request)
        worker = self.workers[job.profile]
        batch.then.append(lambda: self._scheduler.after(_REVERT_AGAIN, lambda: worker.post(job)))

    def started(self, jobs: Sequence[Job], batch: Batch) -> list[Job]:
        """Count the attempt before the actuator is asked; leave out what was answered already."""
        wanted = self.open.claim(jobs)
        batch.undo.append(partial(self.open.unclaim, wanted))
        counted = [job for job in wanted if not job.noted]
        self._journal.started(job.request for job in counted if job.step is not Step.REVERT)
        for job in counted:
            if job.step is Step.REVERT:
                self._journal.reverting(job.request)
        return wanted

    def postponed(self, jobs: Sequence[Job]) -> None:
        """Take back `started`, for the next start: the daemon stops."""
        self._journal.postponed(job.request for job in jobs if job.request in self.open)

    def abandon(self, profile: str, batch: Batch) -> None:
        """Answer for an actuator that does not come back: what it runs, and what waits behind.

        What is deferred goes on waiting. What is answered 503 is not begun any more; a worker that
        comes back meanwhile is told when that is written, or that it is not.
        """
        release = self.open.hold()
        batch.undo.append(release)
        batch.then.insert(0, release)
        for case in [case for case in self.open if case.job.profile == profile]:
            if case.running:
                self.finished(case.job, OutcomeUnknown("outcome unknown"), batch)
            elif not case.deferred:
                self._unavailable(case.job, batch)

    def _unavailable(self, job: Job, batch: Batch) -> None:
        refusal = Unavailable(f"{job.profile} does not answer")
        self.finished(job, unless_begun(job, refusal), batch)

    # -- from the clock

    def interim(self, now: float, batch: Batch) -> None:
        """Tell those who wait too long that their command still runs (LANG-30)."""
        response = OpenC2Response(status=_PROCESSING, status_text="in progress")
        written = self._answers.write(response)
        for request in self.patience.due(now):
            case = self.open[request]
            self._interim_answer(case, written, batch)
            batch.then.append(partial(self.patience.end, request, case.response_type))

    def _interim_answer(self, case: Case, written: Written, batch: Batch) -> None:
        if case.silent or case.told:
            return
        self._journal.respond(case.job.request, written.json)
        self._send(written, case.to, batch)
        case.told = True

        def untell() -> None:
            case.told = False

        batch.undo.append(untell)

    # -- answers

    def _send(self, written: Written, to: ReplyTo, batch: Batch, *, durable: bool = True) -> None:
        self._post(self._answers.build(written, to, durable=durable), batch)

    def _post(self, messages: Sequence[Outgoing], batch: Batch) -> None:
        batch.undo.extend([partial(self._handles.give_back, m.handle) for m in messages])
        for message in messages:
            if message.durable:
                self._journal.post(message)
        batch.send.extend(messages)

    def _expires(self, memory: Memory) -> int:
        """Tell until when it is remembered; without a request id until its packet id is reused."""
        kept = self._clock.wall() // 1000 + self.settings.remember
        return _NEVER if memory.key is None else kept
