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
import sqlite3
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import structlog

from oc2d.engine import events
from oc2d.engine.answers import Handles
from oc2d.engine.cases import Batch, Cases
from oc2d.engine.clock import Clock
from oc2d.engine.intake import Gate
from oc2d.engine.journal import Journal
from oc2d.engine.ports import Inbound, Transfer
from oc2d.engine.worker import Job, Outcome, Step
from oc2d.errors import Failed

__all__ = ["Engine"]

_log = structlog.get_logger("oc2d.engine")
_MOST_AT_ONCE = 1024  # reports in one transaction
_LAZY = 1.0  # seconds that a DONE mark may wait for company
_MOST_LAZY = 1000
_EXPIRE_EVERY = 1.0
_EXPIRE_AT_ONCE = 50
_RETRY = 0.5  # seconds after which a journal that refused is asked again


@dataclass(frozen=True, slots=True)
class _Report:
    """One thing to write down; `durable` when somebody outside learns of it."""

    write: Callable[[Batch], None]
    durable: bool = True


class Engine:
    """Implements `ports.Intake` for the transfer and `worker.Reports` for the workers."""

    def __init__(  # noqa: PLR0913 - the parts it drives
        self,
        *,
        journal: Journal,
        gate: Gate,
        cases: Cases,
        handles: Handles,
        clock: Clock,
        timeouts: Mapping[str, float],
    ) -> None:
        self._journal = journal
        self._gate = gate
        self._cases = cases
        self._handles = handles
        self._clock = clock
        self._timeouts = timeouts
        self._transfer: Transfer | None = None
        self._inbox: queue.SimpleQueue[_Report] = queue.SimpleQueue()
        self._again: list[_Report] = []
        self._done: list[int] = []
        self._done_by = 0.0
        self._expire_at = 0.0
        self._executing: dict[str, tuple[float, tuple[Job, ...]]] = {}
        self.stuck: set[str] = set()
        self.journal_error: str | None = None
        self._held: list[Inbound] = []
        self._closed = False
        self._turned = threading.Event()
        self._stopping = threading.Event()
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

    def stop(self, timeout: float) -> None:
        """Write down all that was reported, then end."""
        self._stopping.set()
        self._post(_Report(lambda _: None, durable=False))
        if self._thread.is_alive():
            self._thread.join(timeout)

    def ping(self, timeout: float) -> bool:
        """Tell whether the thread still turns, be the disk well or not: for the watchdog."""
        self._turned.clear()
        self._post(_Report(lambda _: None, durable=False))
        return self._turned.wait(timeout)

    def waiting(self) -> int:
        """How many reports wait to be written."""
        return self._inbox.qsize()

    # -- ports.Intake

    def received(self, messages: Sequence[Inbound]) -> None:
        """Take deliveries."""
        self._post(_Report(lambda batch: self._judge(messages, batch)))

    def sent(self, handles: Sequence[int]) -> None:
        """Mark as DONE, in company."""
        self._post(_Report(lambda _: self._lazily(handles), durable=False))

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

    def accepted(self, job: Job) -> None:
        """Send the 102 of an `ack`."""
        self._post(_Report(lambda batch: self._cases.accepted(job, batch)))

    def reserved(self, job: Job, results: object) -> None:
        """Keep what was reserved."""
        self._post(_Report(lambda batch: self._cases.reserved(job, results, batch)))

    def started(self, jobs: Sequence[Job], *, durable: bool) -> list[Job]:
        """Write down that these begin, wait for it, return those that are still wanted."""
        written = threading.Event()
        wanted: list[Job] = []

        def write(batch: Batch) -> None:
            wanted[:] = self._cases.started(jobs)
            if wanted:
                batch.then.append(lambda: self._watch(wanted))
            batch.then.append(written.set)

        self._post(_Report(write, durable))
        written.wait()
        return wanted

    def finished(self, jobs: Sequence[tuple[Job, Outcome]]) -> None:
        """Write down outcomes."""

        def write(batch: Batch) -> None:
            for job, outcome in jobs:
                self._cases.finished(job, outcome, batch)
            batch.then.append(lambda: self._unwatch(jobs[0][0].profile))

        self._post(_Report(write))

    def reverted(self, job: Job, failed: str | None) -> None:
        """Close a window."""

        def write(batch: Batch) -> None:
            self._cases.reverted(job, failed, batch)
            batch.then.append(lambda: self._unwatch(job.profile))

        self._post(_Report(write))

    # -- the engine's thread

    def _post(self, report: _Report) -> None:
        self._inbox.put(report)

    def _run(self) -> None:
        while not (self._stopping.is_set() and self._inbox.empty() and not self._done):
            reports = self._take()
            self._turned.set()
            try:
                self._write(reports)
            except sqlite3.Error as error:
                self._refused(reports, error)
            except Exception:  # noqa: BLE001 - the daemon outlives what nobody thought of (LANG-44)
                _log.exception(events.JOURNAL_FAILED)
                self._one_by_one(reports)

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
        dues = [deadline for deadline, _ in self._executing.values()]
        interim = self._cases.next_interim()
        if interim is not None:
            dues.append(interim)
        if self._done:
            dues.append(0.0 if self._stopping.is_set() else self._done_by)
        return max(0.0, min(dues) - self._clock.monotonic()) if dues else None

    def _write(self, reports: Sequence[_Report]) -> None:
        batch = Batch()
        taken = self._gate.taken()
        now = self._clock.monotonic()
        interim = self._cases.next_interim()
        due = interim is not None and interim <= now
        stuck = self._overdue(now)
        self._journal.begin(durable=due or bool(stuck) or any(r.durable for r in reports))
        try:
            for report in reports:
                report.write(batch)
            if due:
                self._cases.interim(now, batch)
            for profile in stuck:
                self._give_up(profile, batch)
            self._tidy(now, batch)
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
        """Do what had to wait for the commit; no step spoils another."""
        transfer = self._transfer
        if transfer is not None:
            if batch.acknowledge:
                transfer.acknowledge(batch.acknowledge)
            if batch.send:
                transfer.send(batch.send)
            if batch.release:
                transfer.release(batch.release)
        for step in batch.then:
            try:
                step()
            except Exception:  # noqa: BLE001 - the same
                _log.exception(events.FOLLOW_UP_FAILED)

    def _judge(self, messages: Sequence[Inbound], batch: Batch) -> None:
        """Judge deliveries, or hold them while too many responses are on their way.

        What is held is not acknowledged, so the transfer stops reading by itself.
        """
        if self._closed or self._held or self._handles.scarce(len(self._cases.open)):
            self._held.extend(messages)
            return
        for message in messages:
            self._cases.received(message, self._gate, batch)

    def _let_in(self) -> None:
        if self._held and not self._closed and not self._handles.scarce(len(self._cases.open)):
            held, self._held = self._held, []
            self.received(held)

    def _lazily(self, handles: Sequence[int]) -> None:
        if not self._done:
            self._done_by = self._clock.monotonic() + _LAZY
        self._done.extend(handles)

    def _tidy(self, now: float, batch: Batch) -> None:
        """Write DONE marks that waited long enough, and forget what is past its time."""
        if self._done and (
            len(self._done) >= _MOST_LAZY or now >= self._done_by or self._stopping.is_set()
        ):
            done, self._done = self._done, []
            self._journal.sent(done)
            batch.undo.append(lambda: self._done.extend(done))
            batch.then.extend([partial(self._handles.give_back, handle) for handle in done])
            batch.then.append(self._let_in)
        if now >= self._expire_at:
            self._expire_at = now + _EXPIRE_EVERY
            self._journal.expire(self._clock.wall() // 1000, _EXPIRE_AT_ONCE)

    # -- when the disk says no

    def _refused(self, reports: list[_Report], error: sqlite3.Error) -> None:
        """Keep everything and try again: nothing was acknowledged, so nothing is lost."""
        if self.journal_error is None:
            _log.error(events.JOURNAL_FAILED, reason=str(error))
        self.journal_error = str(error)
        self._again = reports
        if self._stopping.wait(_RETRY):
            self._again = []

    def _one_by_one(self, reports: Sequence[_Report]) -> None:
        """One report of many cannot be written: find it, drop it, keep the others."""
        for report in reports:
            try:
                self._write([report])
            except sqlite3.Error as error:
                self._refused([report], error)
            except Exception:  # noqa: BLE001 - the same
                _log.exception(events.JOURNAL_FAILED)

    # -- workers that do not come back

    def _watch(self, jobs: Sequence[Job]) -> None:
        profile = jobs[0].profile
        deadline = self._clock.monotonic() + self._timeouts[profile]
        self._executing[profile] = (deadline, tuple(jobs))

    def _unwatch(self, profile: str) -> None:
        self._executing.pop(profile, None)
        if profile in self.stuck:
            self.stuck.discard(profile)
            _log.warning(events.ACTUATOR_STUCK, profile=profile, over=True)

    def _overdue(self, now: float) -> list[str]:
        return [profile for profile, (due, _) in self._executing.items() if due <= now]

    def _give_up(self, profile: str, batch: Batch) -> None:
        """Answer for a worker past its timeout: what it runs, and what waits behind (DESIGN 5)."""
        _, running = self._executing[profile]
        for job in running:
            if job.step is not Step.REVERT:
                self._cases.finished(job, Failed("outcome unknown"), batch)
        self._cases.abandon(profile, {job.request for job in running}, batch)

        def mark() -> None:
            self._executing.pop(profile, None)
            self.stuck.add(profile)
            _log.error(events.ACTUATOR_STUCK, profile=profile, over=False)

        batch.then.append(mark)

    # -- for status

    def snapshot(self) -> dict[str, Any]:
        """Numbers for `oc2d status`; read from another thread, each by itself consistent."""
        cases = self._cases
        return {
            "queue": len(cases.open),
            "waiting": self.waiting(),
            "remembered": self._journal.remembered,
            "unsent": len(self._handles),
            "counters": dict(cases.counters),
            "outcomes": [
                {"profile": profile, "action": action, "status": status, "count": count}
                for (profile, action, status), count in list(cases.outcomes.items())
            ],
            "last": list(cases.last),
            "journal_error": self.journal_error,
        }
