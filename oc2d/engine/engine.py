"""The engine's thread: takes all that waits, one transaction, then what follows from it (DESIGN 4).

```
transfer ─ received ─┐                       ┌─► acknowledge, send, release ─► transfer
workers ─ finished ──┼─► inbox ─► one commit ┤
clock ───────────────┘                       └─► jobs ─► workers
```
Nothing is acknowledged, executed or sent before it is in the journal.
"""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from functools import partial

import msgspec
import structlog

from oc2d import logs
from oc2d.engine import events
from oc2d.engine.answers import Handles
from oc2d.engine.case import Batch
from oc2d.engine.cases import Cases
from oc2d.engine.clock import Clock, Forgetting
from oc2d.engine.deliveries import Deliveries, is_shortage
from oc2d.engine.intake import Gate
from oc2d.engine.journal import Journal
from oc2d.engine.ledger import Entry
from oc2d.engine.ports import Inbound, Transfer
from oc2d.engine.worker import Job, Outcome, OutcomeUnknown, unless_begun
from oc2d.errors import Failed

__all__ = ["Engine"]

_log = structlog.get_logger("oc2d.engine")
_MOST_AT_ONCE = 1024  # reports in one transaction
_LAZY = 1.0  # seconds that a DONE mark may wait for company
_MOST_LAZY = 1000
_RETRY = 0.5  # seconds after which a journal that refused is asked again
_LONGEST_PAUSE = 3600.0  # a timeout of many years is more than the clock of a wait can take
_PATIENCE = 0.05  # seconds between faults that nobody thought of


class _Report(msgspec.Struct, frozen=True):
    """One thing to write down; `durable` when somebody outside learns of it.

    `dropped` is called if it cannot be written for another reason than the disk.
    """

    write: Callable[[Batch], None]
    durable: bool = True
    dropped: Callable[[], None] | None = None


class Engine:
    """Implements `ports.Intake` for the transfer and `worker.Reports` for the workers."""

    def __init__(  # noqa: PLR0913 - the parts it works with
        self,
        *,
        journal: Journal,
        gate: Gate,
        cases: Cases,
        handles: Handles,
        clock: Clock,
        forgetting: Forgetting,
    ) -> None:
        self._journal = journal
        self._gate = gate
        self._cases = cases
        self._handles = handles
        self._clock = clock
        self._transfer: Transfer | None = None
        self._inbox: queue.SimpleQueue[_Report] = queue.SimpleQueue()
        self._again: list[_Report] = []
        self._done: list[int] = []
        self._done_by = 0.0
        self.stuck: set[str] = set()
        self.journal_error: str | None = None
        self._deliveries = Deliveries(cases, gate, journal, handles, forgetting)
        cases.due = self.due
        self._closed = False
        self._turned = threading.Event()
        self._stopping = threading.Event()
        self._hopeless = threading.Event()
        self._thread = threading.Thread(target=self._run, name="oc2d-engine", daemon=True)

    def start(self, transfer: Transfer) -> None:
        """Begin to work; what an earlier process left to send is handed to the transfer."""
        self._transfer = transfer
        transfer.send(self._journal.outbox())
        self._thread.start()

    @property
    def running(self) -> bool:
        """Whether the thread is there."""
        return self._thread.is_alive()

    def close_intake(self) -> None:
        """Hold whatever still arrives: unacknowledged, so the broker keeps it for next time."""
        self._closed = True

    def settle(self, timeout: float) -> bool:
        """Wait until all that was reported before is written and handed to the transfer."""
        settled = threading.Event()
        self._post(_Report(lambda batch: batch.then.append(settled.set), durable=False))
        return settled.wait(timeout)

    def reconfigure(self, change: Callable[[], None]) -> None:
        """Call this on the engine's thread, before anything that arrives later is judged.

        A disk that says no makes it be called again.
        """
        self._post(_Report(lambda _: change(), durable=False))

    def stop(self, timeout: float) -> None:
        """Write down all that was reported, then end; a disk that says no ends it as well."""
        self._stopping.set()
        self._post(_Report(lambda _: None, durable=False))
        if self._thread.is_alive():
            self._thread.join(timeout)
            self._hopeless.set()
            self._thread.join(timeout)

    def ping(self, timeout: float) -> bool:
        """Tell whether the thread still turns, be the disk well or not: for the watchdog."""
        self._turned.clear()
        self._post(_Report(lambda _: None, durable=False))
        return self._turned.wait(timeout)

    def waiting(self) -> int:
        """How many reports wait to be written."""
        return self._inbox.qsize()

    def unsent(self) -> int:
        """How many responses are on their way."""
        return len(self._handles)

    # -- ports.Intake

    def received(self, messages: Sequence[Inbound]) -> None:
        """Take deliveries."""
        self._post(_Report(lambda batch: self._deliveries.add(messages, batch)))

    def sent(self, handles: Sequence[int]) -> None:
        """Mark as DONE, in company."""
        self._post(_Report(lambda batch: self._lazily(handles, batch), durable=False))

    def taken(self, handles: Sequence[int]) -> None:
        """Remember PUBREC before PUBREL goes out."""

        def write(batch: Batch) -> None:
            self._journal.released(handles)
            batch.release.extend(handles)

        self._post(_Report(write, durable=False))

    def session_lost(self) -> None:
        """Forget packet ids."""
        self._post(_Report(lambda _: self._journal.forget_deliveries()))

    # -- worker.Reports

    def wanted(self, job: Job) -> bool:
        """Tell whether a request is still open."""
        return self._cases.open.wanted(job)

    def accepted(self, job: Job) -> None:
        """Send the 102 of an `ack`."""
        self._post(_Report(lambda batch: self._cases.accepted(job, batch)))

    def reserved(self, job: Job, results: object) -> None:
        """Keep what was reserved."""
        dropped = partial(self.finished, [(job, OutcomeUnknown("internal error"))])
        self._post(
            _Report(lambda batch: self._cases.reserved(job, results, batch), dropped=dropped)
        )

    def started(self, jobs: Sequence[Job], *, durable: bool) -> list[Job]:
        """Write down that these begin, wait for it, return those that are still wanted."""
        if all(job.noted for job in jobs):
            return self._cases.open.claim(jobs)
        written = threading.Event()
        wanted: list[Job] = []

        def write(batch: Batch) -> None:
            wanted[:] = self._cases.started(jobs, batch)
            batch.then.append(written.set)

        def dropped() -> None:
            wanted.clear()
            self.finished([(job, unless_begun(job, Failed("internal error"))) for job in jobs])
            written.set()

        self._post(_Report(write, durable, dropped))
        written.wait()
        return wanted

    def postponed(self, jobs: Sequence[Job]) -> None:
        """Write down that these did not begin."""
        self._post(_Report(lambda _: self._cases.postponed(jobs), durable=False))

    def finished(self, jobs: Sequence[tuple[Job, Outcome]]) -> None:
        """Write down outcomes; one that cannot be is told as unknown."""

        def write(batch: Batch) -> None:
            for job, outcome in jobs:
                self._cases.finished(job, outcome, batch)

        def dropped() -> None:
            if len(jobs) > 1:
                for one in jobs:
                    self.finished([one])
            elif not isinstance(jobs[0][1], OutcomeUnknown):
                self.finished([(jobs[0][0], OutcomeUnknown("internal error"))])

        self._post(_Report(write, dropped=dropped))

    def reverted(self, job: Job, failed: str | None) -> None:
        """Close a window."""
        self._post(_Report(lambda batch: self._cases.reverted(job, failed, batch)))

    # -- the scheduler's

    def due(self, job: Job) -> None:
        """Begin a command that waited for its start time."""

        def write(batch: Batch) -> None:
            self._cases.begin_deferred(job, batch, stuck=job.profile in self.stuck)

        self._post(_Report(write))

    # -- the engine's thread

    def _post(self, report: _Report) -> None:
        self._inbox.put(report)

    def _run(self) -> None:
        while not self._ends():
            reports = self._take()
            self._turned.set()
            try:
                self._write(reports)
            except Exception as error:  # noqa: BLE001 - the daemon outlives any (LANG-44)
                if is_shortage(error):
                    self._refused(reports, error)
                else:
                    _log.exception(events.REPORT_FAILED)
                    self._one_by_one(reports)

    def _ends(self) -> bool:
        left = self._again or self._done or not self._inbox.empty()
        return self._hopeless.is_set() or (self._stopping.is_set() and not left)

    def _take(self) -> list[_Report]:
        """Wait for reports, or for the next thing that the clock brings."""
        reports, self._again = self._again, []
        if not reports:
            try:
                reports.append(self._inbox.get(timeout=self._pause()))
            except queue.Empty:
                return reports
        while len(reports) < _MOST_AT_ONCE and not self._inbox.empty():
            reports.append(self._inbox.get())
        return reports

    def _pause(self) -> float | None:
        """Seconds until there is something to do without a report; None: nothing is coming."""
        now = self._clock.monotonic()
        dues = [
            worker.deadline(now)
            for nsid, worker in self._cases.workers.items()
            if self._cases.open and nsid not in self.stuck
        ]
        interim = self._cases.patience.next()
        if interim is not None:
            dues.append(interim)
        if self._done:
            dues.append(0.0 if self._stopping.is_set() else self._done_by)
        return min(max(0.0, min(dues) - now), _LONGEST_PAUSE) if dues else None

    def _write(self, reports: Sequence[_Report]) -> None:
        if self.journal_error:  # whoever judges what waits would do so again and again
            self._journal.try_out()
        batch = Batch()
        taken = self._gate.taken()
        now = self._clock.monotonic()
        interim = self._cases.patience.next()
        due = interim is not None and interim <= now
        stuck = self._overdue(now)
        undecided = bool(self._deliveries)
        self._journal.begin(
            durable=due or undecided or bool(stuck) or any(r.durable for r in reports)
        )
        try:
            for report in reports:
                report.write(batch)
            for profile in stuck:
                self._give_up(profile, batch)
            if due:
                self._cases.interim(now, batch)
            if not self._closed:
                self._deliveries.judge(batch)
            self._mark_done(now, batch)
            self._journal.commit()
        except BaseException:
            self._journal.rollback()
            self._gate.untake(taken)
            for undo in reversed(batch.undo):
                undo()
            raise
        if self.journal_error:
            self.journal_error = None
            _log.info(events.JOURNAL_RECOVERED)
        self._follow(batch)

    def _follow(self, batch: Batch) -> None:
        """Do what had to wait for the commit."""
        transfer, steps = self._transfer, batch.then
        if transfer is not None:
            if batch.release:
                steps.insert(0, lambda: transfer.release(batch.release))
            if batch.send:
                steps.insert(0, lambda: transfer.send(batch.send))
            if batch.acknowledge:
                steps.insert(0, lambda: transfer.acknowledge(batch.acknowledge))
        # steps like the others: whatever they raise, what is committed is not written again
        steps.append(partial(self._enter, batch.entries))
        steps.extend(partial(self._cases.ledger.tell, entry) for entry in batch.entries)
        _each(steps)

    def _enter(self, entries: Sequence[Entry]) -> None:
        with logs.together():
            _each([partial(self._cases.ledger.enter, entry) for entry in entries])

    def _lazily(self, handles: Sequence[int], batch: Batch) -> None:
        before = len(self._done)
        if not self._done:
            self._done_by = self._clock.monotonic() + _LAZY
        self._done.extend(handles)
        batch.undo.append(lambda: self._done.__delitem__(slice(before, None)))

    def _mark_done(self, now: float, batch: Batch) -> None:
        """Write DONE marks that waited long enough."""
        if not self._done or (
            len(self._done) < _MOST_LAZY and now < self._done_by and not self._stopping.is_set()
        ):
            return
        done, self._done = self._done, []
        batch.undo.append(lambda: self._done.extend(done))
        self._journal.sent(done)
        batch.then.extend([partial(self._handles.give_back, handle) for handle in done])
        if self._deliveries:
            batch.then.append(lambda: self._post(_Report(lambda _: None)))

    # -- when the disk says no

    def _refused(self, reports: Iterable[_Report], error: Exception) -> None:
        """Keep everything and try again: nothing was acknowledged, so nothing is lost."""
        reason = str(error) or type(error).__name__
        if self.journal_error is None:
            _log.error(events.JOURNAL_FAILED, reason=reason)
        self.journal_error = reason
        self._again = list(reports)
        self._hopeless.wait(_RETRY)

    def _one_by_one(self, reports: Sequence[_Report]) -> None:
        """One report of many cannot be written: find it, drop it, keep the others."""
        left = deque(reports)
        while left:
            known = self._deliveries.failures
            try:
                self._write([left[0]])
            except Exception as error:  # noqa: BLE001 - the same
                if is_shortage(error):
                    self._refused(left, error)
                    return
                _log.exception(events.REPORT_FAILED)
                if self._deliveries.failures > known:
                    continue  # not the report's fault, but that of a delivery: now passed over
                if left[0].dropped:
                    left[0].dropped()
            left.popleft()
        self._hopeless.wait(_PATIENCE)

    # -- workers that do not come back

    def _overdue(self, now: float) -> list[str]:
        """Tell which actuators got stuck since the last time; those that came back go on."""
        late = {nsid for nsid, worker in self._cases.workers.items() if worker.overdue(now)}
        for profile in self.stuck - late:
            _log.warning(events.ACTUATOR_STUCK, profile=profile, over=True)
        self.stuck &= late
        return [*(late - self.stuck)]

    def _give_up(self, profile: str, batch: Batch) -> None:
        """Answer for a worker past its timeout (DESIGN 5)."""
        self._cases.abandon(profile, batch)
        self.stuck.add(profile)
        batch.undo.append(lambda: self.stuck.discard(profile))
        batch.then.append(lambda: _log.error(events.ACTUATOR_STUCK, profile=profile, over=False))


def _each(steps: Iterable[Callable[[], None]]) -> None:
    """Take all steps; none spoils another."""
    for step in steps:
        try:
            step()
        except Exception:  # noqa: BLE001 - the daemon outlives any (LANG-44)
            _log.exception(events.FOLLOW_UP_FAILED)
