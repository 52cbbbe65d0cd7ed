"""One thread for each actuator: its commands in order, its faults kept to itself (DESIGN 4)."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from enum import Enum
from itertools import groupby
from typing import Any, Protocol, cast

import msgspec
import structlog

from oc2d.actuator import Actuator, Command, Reason, Response
from oc2d.engine import events
from oc2d.engine.clock import Clock
from oc2d.engine.selection import Hosted
from oc2d.engine.window import Window
from oc2d.errors import Failed, Refusal

__all__ = ["Job", "Outcome", "OutcomeUnknown", "Reports", "Step", "Worker", "unless_begun"]

_log = structlog.get_logger("oc2d.engine")
_MOST_AT_ONCE = 256


class Step(Enum):
    """What a job asks of the worker."""

    CARRY_OUT = "carry out"  # check, acknowledge if asked for, execute
    RESERVE = "reserve"  # check, prepare for later
    EXECUTE = "execute"  # its start time has come
    REVERT = "revert"  # its window is over


class Job(msgspec.Struct, frozen=True):
    """One step of one request; `early` asks for a 102 before it is executed.

    `suspect` was running when the process died: it runs alone, so that nothing else is blamed when
    it dies again. `leftover` may have been begun by an earlier process. `noted` was written down as
    STARTED when it was accepted.
    """

    request: int
    profile: str
    step: Step
    command: Command
    window: Window
    early: bool = False
    suspect: bool = False
    leftover: bool = False
    noted: bool = False


class OutcomeUnknown(Failed):
    """500: it may have taken effect, so the end of its window is still carried out."""


def unless_begun(job: Job, refusal: Refusal) -> Refusal:
    """Refuse a job that is not begun here: an earlier process may have done so."""
    return OutcomeUnknown(refusal.text) if job.leftover else refusal


Outcome = Response | Refusal


class Reports(Protocol):
    """What the worker tells the engine. Thread-safe."""

    def wanted(self, job: Job) -> bool:
        """Tell whether nobody answered for it yet; does not wait."""
        ...

    def accepted(self, job: Job) -> None:
        """`check` passed: the 102 of an `ack` may go out."""

    def reserved(self, job: Job, results: object) -> None:
        """A deferred command is prepared."""

    def started(self, jobs: Sequence[Job], *, durable: bool) -> list[Job]:
        """Write down that these begin; returns, when it is written, those still wanted.

        What is returned is not answered by anybody else any more but as unknown.
        """
        ...

    def postponed(self, jobs: Sequence[Job]) -> None:
        """These were not begun after all: the next start runs them."""

    def finished(self, jobs: Sequence[tuple[Job, Outcome]]) -> None:
        """These have their outcome."""

    def reverted(self, job: Job, failed: str | None) -> None:
        """The end of a window was carried out, or is to be tried again."""


class _Asking:
    """Entered while the actuator is asked: one that does not come back is found by the time."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.since: float | None = None

    def __enter__(self) -> None:
        self.since = self._clock.monotonic()

    def __exit__(self, *_error: object) -> None:
        self.since = None


class Worker:
    """Runs one actuator. `post` and `call` are thread-safe; everything else is the worker's own."""

    def __init__(self, host: Hosted, reports: Reports, clock: Clock) -> None:
        self.host = host
        self._reports = reports
        self._clock = clock
        self._jobs: queue.SimpleQueue[Job | Callable[[], None] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name=f"oc2d-{host.nsid}", daemon=True)
        self._stopping = threading.Event()
        self._asking = _Asking(clock)
        self._waits = True

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def post(self, job: Job) -> None:
        """Put a job at the end of the line."""
        self._jobs.put(job)

    def tell(self, function: Callable[[], None]) -> None:
        """Run `function` on the worker, some time; what it raises is logged."""

        def run() -> None:
            try:
                function()
            except BaseException as error:  # noqa: BLE001 - any plugin, any error
                _log.error(events.ACTUATOR_FAILED, profile=self.host.nsid, exc_info=error)

        self._jobs.put(run)

    def call(self, function: Callable[[], Any], timeout: float) -> Any:  # noqa: ANN401 - its result
        """Run `function` on the worker and return its result; re-raises what it raises.

        Raises TimeoutError when the worker does not come to it in time.
        """
        done: queue.SimpleQueue[tuple[Any, Exception | None]] = queue.SimpleQueue()

        def run() -> None:
            try:
                done.put((function(), None))
            except Exception as error:  # noqa: BLE001 - handed to the caller
                done.put((None, error))
            except BaseException as error:  # noqa: BLE001 - `sys.exit` ends no thread of ours
                done.put((None, RuntimeError(f"raised {type(error).__name__}")))

        self._jobs.put(run)
        try:
            result, error = done.get(timeout=timeout)
        except queue.Empty:
            raise TimeoutError(f"{self.host.nsid} is busy") from None
        if error is not None:
            raise error
        return result

    def idle(self) -> bool:
        """Tell whether it would begin at once; it may be wrong by the time it is used."""
        return self._waits and self._jobs.empty()

    def overdue(self, now: float) -> bool:
        """Tell whether the actuator was asked something longer ago than its timeout (monotonic)."""
        asked = self._asking.since
        return asked is not None and now - asked >= self.host.timeout

    def deadline(self, now: float) -> float:
        """When it is overdue at the earliest, if it has something to do."""
        asked = self._asking.since
        return (now if asked is None else asked) + self.host.timeout

    def stop(self) -> None:
        """Finish what is running, then stop the actuator; the rest is left to the next start."""
        self._stopping.set()
        self.tell(self.host.actuator.stop)
        self._jobs.put(None)

    @property
    def running(self) -> bool:
        """Whether the thread is there."""
        return self._thread.is_alive()

    def ended(self, timeout: float) -> bool:
        """Wait for the end after `stop`; False: the actuator does not come back."""
        if self._thread.is_alive():
            self._thread.join(timeout)
        return not self._thread.is_alive()

    # -- the worker's thread

    def _run(self) -> None:
        for waiting in self._takes():
            for step, group in groupby(waiting, key=lambda item: getattr(item, "step", None)):
                if step is None or not self._stopping.is_set():
                    self._do(step, list(group))
                else:
                    self._put_off(cast(Iterable[Job], group))

    def _takes(self) -> Iterator[list[Job | Callable[[], None]]]:
        """Yield all that waits, in order, until told to stop."""
        while True:
            item = self._jobs.get()
            waiting: list[Job | Callable[[], None]] = []
            while item is not None:
                waiting.append(item)
                if len(waiting) == _MOST_AT_ONCE or self._jobs.empty():
                    break
                item = self._jobs.get()
            self._waits = False
            yield waiting
            self._waits = True
            if item is None:
                return

    def _do(self, step: Step | None, items: Sequence[Any]) -> None:
        if step is None:
            for function in items:
                with self._asking:
                    function()
        elif step is Step.RESERVE:
            for job in items:
                self._reserve(job)
        elif step is Step.REVERT:
            for job in items:
                self._revert(job)
        else:
            self._execute(self._checked(items))

    def _checked(self, jobs: Sequence[Job]) -> list[Job]:
        """Refuse what cannot work; the rest is accepted.

        One that was reserved has been checked and accepted then (AMB-25).
        """
        passed = []
        for job in filter(self._reports.wanted, jobs):
            refusal = self._wrong(job) if job.step is Step.CARRY_OUT else None
            if refusal is not None:
                self._reports.finished([(job, refusal)])
                continue
            if job.early:
                self._reports.accepted(job)
            passed.append(job)
        return passed

    def _wrong(self, job: Job) -> Refusal | None:
        try:
            with self._asking:
                self.host.actuator.check(job.command)
        except BaseException as error:  # noqa: BLE001 - any plugin, any error
            return unless_begun(job, self._as_refusal(error))
        return None

    def _in_time(self, job: Job) -> bool:
        """Refuse what would take effect after its window, however long it waited (AMB-24)."""
        if not job.window.over(self._clock):
            return True
        command = job.command
        text = self.host.worded(Reason.WINDOW_OVER, command.action, command.target_name)
        self._reports.finished([(job, unless_begun(job, Failed(text)))])
        return False

    def _reserve(self, job: Job) -> None:
        if not self._reports.wanted(job):
            return
        refusal = self._wrong(job)
        if refusal is None:
            try:
                with self._asking:
                    results = self.host.actuator.reserve(job.command)
            except BaseException as error:  # noqa: BLE001 - any plugin, any error
                refusal = unless_begun(job, self._broke_off(error))
            else:
                self._reports.reserved(job, results)
                return
        self._reports.finished([(job, refusal)])

    def _execute(self, jobs: list[Job]) -> None:
        """Execute in one go where that is safe: an actuator that is not idempotent gets one."""
        together = type(self.host.actuator).execute_many is not Actuator.execute_many
        while jobs and not self._stopping.is_set():
            most = 1
            if self.host.actuator.idempotent and not jobs[0].suspect:
                most = next((i for i, job in enumerate(jobs) if job.suspect), len(jobs))
            now, jobs = jobs[:most], jobs[most:]
            now = self._reports.started(now, durable=not self.host.actuator.idempotent)
            if together:
                now = list(filter(self._in_time, now))
            if together and len(now) > 1:
                self._reports.finished(list(zip(now, self._outcomes(now), strict=True)))
            else:
                self._in_turn(now)
        self._put_off(jobs)

    def _put_off(self, jobs: Iterable[Job]) -> None:
        """Leave jobs to the next start."""
        if noted := [job for job in jobs if job.noted]:
            self._reports.postponed(noted)

    def _in_turn(self, jobs: Sequence[Job]) -> None:
        """Execute one after the other; the outcome of a quick one does not wait for a slow one."""
        for place, job in enumerate(jobs):
            if self._stopping.is_set():
                self._reports.postponed(jobs[place:])
                break
            # it may have been given up for while one before it took too long
            if self._reports.wanted(job) and self._in_time(job):
                self._reports.finished([(job, self._outcome(job.command))])

    def _outcomes(self, jobs: Sequence[Job]) -> list[Outcome]:
        try:
            with self._asking:
                commands = [job.command for job in jobs]
                outcomes: list[Any] = list(self.host.actuator.execute_many(commands))
        except BaseException as error:  # noqa: BLE001 - any plugin, any error
            # a refusal too: nobody says how many of them were carried out before it
            return [OutcomeUnknown(self._as_refusal(error).text)] * len(jobs)
        if len(outcomes) != len(jobs):
            return [self._nonsense(outcomes) for _ in jobs]
        return [o if _is(o, Response, Refusal) else self._nonsense(o) for o in outcomes]

    def _outcome(self, command: Command) -> Outcome:
        try:
            with self._asking:
                outcome: Any = self.host.actuator.execute(command)
        except BaseException as error:  # noqa: BLE001 - any plugin, any error
            return self._broke_off(error)
        return outcome if _is(outcome, Response) else self._nonsense(outcome)

    def _nonsense(self, value: object) -> Refusal:
        return self._broke_off(TypeError(f"answered {type(value).__name__}, not a Response each"))

    def _broke_off(self, error: BaseException) -> Refusal:
        """Take only a refusal for a sign that nothing happened."""
        refusal = self._as_refusal(error)
        return refusal if refusal is error else OutcomeUnknown(refusal.text)

    def _revert(self, job: Job) -> None:
        self._reports.started([job], durable=False)
        try:
            with self._asking:
                self.host.actuator.revert(job.command)
        except BaseException as error:  # noqa: BLE001 - any plugin, any error
            self._reports.reverted(job, self._as_refusal(error).text)
        else:
            self._reports.reverted(job, None)

    def _as_refusal(self, error: BaseException) -> Refusal:
        """Hide what went wrong inside from the Producer; the log has it (LANG-44)."""
        if isinstance(error, Refusal):
            return error
        _log.error(events.ACTUATOR_FAILED, profile=self.host.nsid, exc_info=error)
        return Failed("internal error")


def _is(value: object, *kinds: type) -> bool:
    """Look at the type itself: `isinstance` asks the value, and a proxy of nothing raises."""
    return issubclass(type(value), kinds)
