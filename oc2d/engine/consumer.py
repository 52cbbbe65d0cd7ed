"""The engine with all its parts in place, but for the transfer: what `daemon` and tests start."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pluggy
import structlog

from oc2d.actuator import Actuator, Context, Endpoint
from oc2d.config import Config
from oc2d.engine import events, recovery
from oc2d.engine.answers import Answers, Handles
from oc2d.engine.case import Settings
from oc2d.engine.cases import Cases
from oc2d.engine.clock import Clock, Forgetting
from oc2d.engine.engine import Engine
from oc2d.engine.histogram import Histogram
from oc2d.engine.hooks import Hooks
from oc2d.engine.intake import Gate
from oc2d.engine.journal import Journal
from oc2d.engine.limits import Load
from oc2d.engine.ports import Transfer
from oc2d.engine.schedule import Scheduler
from oc2d.engine.selection import Hosted, id_names
from oc2d.engine.worker import Worker
from oc2d.errors import Oc2dError, Refusal, StateError

__all__ = ["Consumer"]

_log = structlog.get_logger("oc2d.engine")

# Seconds for all actuators to start and to restore their rules: within TimeoutStartSec.
_START_TIME = 75.0
_LINK_TIME = 5.0  # seconds for an actuator to open the way to the broker
_STATUS_TIME = 1.0
_WORKER_STOP = 6.0
_ENGINE_STOP = 2.0


class Consumer:
    """Journal, gate, engine, scheduler and one worker for each actuator.

    `subscribed` are the topic filters that are ours, `device_topic` the one among them that nobody
    shares; `reply_topics` tells where responses for a Producer go.
    """

    def __init__(  # noqa: PLR0913 - what it is put together from
        self,
        config: Config,
        hosted: Mapping[str, Hosted],
        manager: pluggy.PluginManager,
        clock: Clock,
        journal: Path,
        *,
        subscribed: Sequence[str],
        device_topic: str,
        reply_topics: Callable[[str | None], Sequence[str]],
    ) -> None:
        self._device_id = config.device_id
        self._hosted = hosted
        self._clock = clock
        self._journal = Journal(journal)
        self._file = journal
        handles = Handles({m.handle: m.size for m in self._journal.outbox()})
        self._hooks = Hooks(manager)
        self._scheduler = Scheduler(clock)
        self._names = id_names(tuple(hosted.values()))
        self.answers = Answers(config.sender, reply_topics, clock.wall, handles, self._names)
        settings = _settings(config)
        noted = self._journal.noted("forgetting")
        self._forgetting = Forgetting(clock, settings.remember, noted)
        self._cases = Cases(
            settings=settings,
            journal=self._journal,
            handles=handles,
            answers=self.answers,
            scheduler=self._scheduler,
            hooks=self._hooks,
            clock=clock,
        )
        self._gate = self._build_gate(config, frozenset(subscribed), device_topic)
        self.engine = Engine(
            journal=self._journal,
            gate=self._gate,
            cases=self._cases,
            handles=handles,
            clock=clock,
            forgetting=self._forgetting,
        )
        self._workers = self._cases.workers
        self.starting: str | None = None
        """The actuator that `start` waits for."""
        for nsid, host in hosted.items():
            self._workers[nsid] = Worker(host, self.engine, clock)

    def _build_gate(self, config: Config, subscribed: frozenset[str], device_topic: str) -> Gate:
        cases = self._cases.open
        return Gate(
            config=config,
            hosted=self._hosted,
            subscribed=subscribed,
            device_topic=device_topic,
            id_names=self._names,
            journal=self._journal,
            hooks=self._hooks,
            clock=self._clock,
            load=Load(
                queued=lambda: len(cases),
                queued_by=lambda producer: cases.by_producer[producer],
                held=lambda: cases.held,
                deferred=cases.deferred,
                windows=self._scheduler.pending,
                stuck=lambda nsid: nsid in self.engine.stuck,
            ),
        )

    # -- life

    def start(self, transfer: Transfer, state: Path, runtime: Path) -> None:
        """Rules first, then what was left undone; after it the transfer may deliver.

        Raises `Oc2dError` when an actuator cannot start.
        """
        left = recovery.read(self._journal, self._gate, self._hosted, self._clock)
        context = Context(
            device_id=self._device_id,
            state_directory=state,
            runtime_directory=runtime,
            boot_id=self._clock.boot_id,
            now=self._clock.wall,
        )
        until = time.monotonic() + _START_TIME
        for nsid, worker in self._workers.items():
            worker.start()
            self.starting = nsid
            context = replace(context, call=worker.tell)
            actuator = worker.host.actuator
            ended = frozenset(left.ended.get(nsid, ()))
            _begin(worker, "start", partial(actuator.start, context), until)
            _begin(worker, "restore", partial(actuator.restore, ended), until)
        self.starting = None
        recovery.resume(left, self._cases, self.engine)
        self.engine.start(transfer)
        self._scheduler.start()

    def quiesce(self) -> None:
        """Take in nothing more, finish what is running, write it down; the rest is journalled."""
        self.engine.close_intake()
        self._scheduler.stop()
        for worker in self._workers.values():
            worker.stop()
        until = time.monotonic() + _WORKER_STOP
        for nsid, worker in self._workers.items():
            if not worker.ended(max(0.0, until - time.monotonic())):
                _log.error(events.ACTUATOR_LEFT, profile=nsid)
        if self.engine.running:
            self.engine.settle(_ENGINE_STOP)

    def close(self) -> None:
        """End the engine and close the journal; after the transfer has stopped."""
        self.engine.stop(_ENGINE_STOP)
        if not self.engine.running:
            self._journal.close()

    def alive(self, patience: float) -> Mapping[str, bool]:
        """Tell for the watchdog which parts make progress within `patience` seconds."""
        return {
            "engine": self.engine.ping(patience),
            "scheduler": self._scheduler.alive(),
            **{f"actuator {nsid}": worker.running for nsid, worker in self._workers.items()},
        }

    def configure(
        self, config: Config, hosted: Mapping[str, Hosted], subscribed: Sequence[str]
    ) -> None:
        """Judge by this what arrives from now on; `hosted` holds the same actuators as before."""
        settings = _settings(config)

        def change() -> None:
            self._gate.configure(config, hosted, frozenset(subscribed))
            self._cases.settings = settings
            self._forgetting.configure(settings.remember)
            for nsid, worker in self._workers.items():
                worker.host = hosted[nsid]

        self.engine.reconfigure(change)

    # -- for tests

    def look_at_the_clock(self) -> None:
        """Do what is due."""
        self._scheduler.look()

    def call(self, profile: str, function: Callable[[], Any], timeout: float) -> Any:  # noqa: ANN401 - its result
        """Run a function on an actuator's worker; re-raises what it raises."""
        return self._workers[profile].call(function, timeout)

    # -- the link, as the actuators hear of it

    def link_resolving(self) -> None:
        """Let every actuator open the way to the name servers, and wait for it."""
        self._prepare_link(lambda actuator: actuator.link_resolving())

    def link_changing(self, endpoints: Sequence[Endpoint]) -> None:
        """Let every actuator open the way to the broker, and wait for it."""
        self._prepare_link(lambda actuator: actuator.link_changing(endpoints))

    def _prepare_link(self, tell: Callable[[Actuator], None]) -> None:
        for nsid, worker in self._workers.items():
            try:
                worker.call(partial(tell, worker.host.actuator), _LINK_TIME)
            except Exception:  # noqa: BLE001 - any plugin, any error
                _log.exception(events.LINK_HOOK_FAILED, profile=nsid)

    def link_changed(self, endpoints: Sequence[Endpoint]) -> None:
        """Tell every actuator which way is used; does not wait."""
        for worker in self._workers.values():
            worker.tell(partial(worker.host.actuator.link_changed, endpoints))

    # -- for status

    @property
    def journal_bytes(self) -> int:
        """The size of the journal's files, at this moment."""
        files = (self._file, *(Path(f"{self._file}{end}") for end in ("-wal", "-shm")))
        return sum(file.stat().st_size for file in files if file.exists())

    @property
    def durations(self) -> Histogram:
        """How long commands took since the start."""
        return self._cases.ledger.durations

    @property
    def queued(self) -> int:
        """Commands accepted and not finished."""
        return len(self._cases.open)

    def snapshot(self) -> Mapping[str, Any]:
        """Numbers and actuators for `oc2d status`; from another thread."""
        return {
            "engine": self._numbers(),
            "windows": self._scheduler.pending(),
            "actuators": {nsid: self._actuator(worker) for nsid, worker in self._workers.items()},
        }

    def _numbers(self) -> Mapping[str, Any]:
        """Read what the engine's thread writes: each number by itself is right."""
        cases = self._cases
        return {
            "queue": len(cases.open),
            "waiting": self.engine.waiting(),
            "remembered": self._journal.remembered,
            "unsent": self.engine.unsent(),
            "counters": dict(cases.counters),
            "outcomes": [
                {"profile": profile, "action": action, "status": status, "count": count}
                for (profile, action, status), count in list(cases.ledger.outcomes.items())
            ],
            "last": list(cases.ledger.last),
            "journal_error": self.engine.journal_error,
        }

    def _actuator(self, worker: Worker) -> Mapping[str, Any]:
        if worker.host.nsid in self.engine.stuck:
            return {"state": "stuck"}
        actuator = worker.host.actuator

        def written() -> str:
            """Write it where nothing changes it, and where it spoils nothing of the others."""
            return json.dumps(dict(actuator.status()), default=str)

        try:
            return {"state": "running", **json.loads(worker.call(written, _STATUS_TIME))}
        except TimeoutError:
            return {"state": "busy"}
        except Refusal as refusal:
            return {"state": "running", "error": f"status failed: {refusal.text}"}
        except Exception as error:  # noqa: BLE001 - any plugin, any error
            return {"state": "running", "error": f"status failed: {type(error).__name__}"}


def _settings(config: Config) -> Settings:
    remember = config.limits.remember
    return Settings(
        remember=2 * config.broker.session_expiry if remember is None else remember,
        interim_after=config.limits.interim_after,
        report_after_ack=config.policy.report_after_ack,
    )


def _begin(worker: Worker, what: str, function: Callable[[], None], until: float) -> None:
    """Run one step of an actuator's start; what stops it is told without a traceback."""
    nsid = worker.host.nsid
    try:
        worker.call(function, max(0.0, until - time.monotonic()))
    except Oc2dError:
        raise
    except TimeoutError:
        limit = f"all actuators together have {_START_TIME:.0f} s to start"
        raise StateError(f"actuator {nsid}: {what} takes too long: {limit}") from None
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"
        raise StateError(f"actuator {nsid}: {what} failed: {reason}") from error
