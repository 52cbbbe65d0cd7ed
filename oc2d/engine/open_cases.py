"""The requests that are not finished: whose they are, how large, and which ones are taken."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator

from oc2d.engine.case import Case
from oc2d.engine.worker import Job, Step

__all__ = ["OpenCases"]


class OpenCases:
    """By number. `wanted`, `claim` and how many there are on any thread, the rest on the engine's.

    `by_producer` counts them, `held` are the bytes of their messages.
    """

    def __init__(self) -> None:
        self._cases: dict[int, Case] = {}
        self._claims = threading.RLock()
        self.by_producer: Counter[str | None] = Counter()
        self.held = 0

    def __len__(self) -> int:
        return len(self._cases)

    def __iter__(self) -> Iterator[Case]:
        return iter(self._cases.values())

    def __contains__(self, request: int) -> bool:
        return request in self._cases

    def __getitem__(self, request: int) -> Case:
        return self._cases[request]

    def get(self, request: int) -> Case | None:
        """Return one, if it is open."""
        return self._cases.get(request)

    def add(self, case: Case) -> None:
        """Count one in."""
        self._cases[case.job.request] = case
        self.by_producer[case.to.producer] += 1
        self.held += case.origin.size

    def remove(self, request: int) -> Case:
        """Keep nothing of one; returns it."""
        case = self._cases.pop(request)
        self.held -= case.origin.size
        self.by_producer[case.to.producer] -= 1
        if not self.by_producer[case.to.producer]:
            del self.by_producer[case.to.producer]
        return case

    def deferred(self) -> list[tuple[str | None, int]]:
        """Tell of each command that waits for its start time whose it is and how many bytes."""
        return [
            (case.to.producer, case.origin.size)
            for case in self
            if case.deferred or case.job.step is Step.RESERVE
        ]

    # -- which a worker may execute

    def wanted(self, job: Job) -> bool:
        """Tell whether a request is still open."""
        with self._claims:
            return job.request in self._cases

    def claim(self, jobs: Iterable[Job]) -> list[Job]:
        """Take what is still open and not taken yet; what is reverted always is."""
        wanted = []
        with self._claims:
            for job in jobs:
                case = None if job.step is Step.REVERT else self._cases.get(job.request)
                if case is not None and not case.running:
                    case.running = True
                    wanted.append(job)
                elif job.step is Step.REVERT:
                    wanted.append(job)
        return wanted

    def unclaim(self, jobs: Iterable[Job]) -> None:
        """Give back what was taken."""
        for job in jobs:
            if case := self._cases.get(job.request):
                case.running = False

    def hold(self) -> Callable[[], None]:
        """Let nobody else take any, or ask; returns what ends that, on the same thread."""
        self._claims.acquire()
        return self._claims.release
