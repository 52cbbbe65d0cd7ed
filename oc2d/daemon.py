"""Builds the parts, wires them, owns the life cycle and the signals. Alone knows everybody."""

from __future__ import annotations

import dataclasses
import os
import resource
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import structlog

from oc2d import __version__
from oc2d.actuator import Endpoint
from oc2d.checks import Prepared, prepare
from oc2d.config import Config
from oc2d.engine.clock import Clock, read_boot_id
from oc2d.engine.consumer import Consumer
from oc2d.engine.selection import Hosted
from oc2d.errors import ConfigError
from oc2d.hook_plugins import hook_statuses, reload_hooks, start_hooks, stop_hooks
from oc2d.hookspecs import Place
from oc2d.mqtt import topics
from oc2d.mqtt.expiry import ends
from oc2d.mqtt.session import Session
from oc2d.mqtt.settings import consumer_link, load_client_id, secret_file
from oc2d.mqtt.status import Address, LinkObserver
from oc2d.progress import Progress
from oc2d.reload import applied, changed
from oc2d.state import StateDirectories
from oc2d.status import StatusServer
from oc2d.systemd import Notifier

if TYPE_CHECKING:
    from oc2d.metrics_server import MetricsServer

__all__ = ["Daemon", "run"]

_log = structlog.get_logger("oc2d.daemon")

STARTING = "starting"
STARTED = "started"
STOPPING = "stopping"
STOPPED = "stopped"
RELOADED = "reloaded"
RELOAD_REFUSED = "reload_refused"
RESTART_NEEDED = "restart_needed"
CONFIG_WARNING = "config_warning"
NOT_ALIVE = "not_alive"

_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_SESSION_STOP = 5.0
_LONG_QUEUE = 100  # commands
# What the session says itself, at each new link.
_SAID_BY_THE_LINK = frozenset({"broker.tls", "broker.tls_verify", "broker.protocol"})


def run(file: Path, *, foreground: bool) -> int:
    """Run the Consumer by this configuration until a signal ends it; the exit code.

    `foreground`: a person looks on. Raises `Oc2dError` when it cannot start: what was begun is
    undone.
    """
    _take_signals()
    prepared = prepare(file)
    _warn(prepared)
    with ExitStack() as undo:
        directories = StateDirectories(prepared.config.state)
        place = Place(
            prepared.config.device_id, directories.state.absolute(), directories.runtime.absolute()
        )
        os.umask(0o077)  # whatever is made from here on, by plugins too, is for us alone
        _make_no_core()
        undo.callback(directories.close)
        undo.callback(stop_hooks, prepared.registry)
        start_hooks(prepared.registry, prepared.hooks, place)
        _take_signals()
        daemon = Daemon(file, prepared, directories, place, Notifier())
        undo.callback(daemon.close)
        if foreground:
            undo.enter_context(Progress(daemon.progress))
        daemon.start()
        daemon.serve()
    _log.info(STOPPED)
    return 0


class Daemon:
    """The running Consumer: `start`, `serve` until a signal, `close`."""

    def __init__(
        self,
        file: Path,
        prepared: Prepared,
        directories: StateDirectories,
        place: Place,
        notifier: Notifier,
    ) -> None:
        self._file = file
        self._prepared = prepared
        self._directories = directories
        self._place = place
        self._notifier = notifier
        self._begun = time.time()
        config = prepared.config
        hosted = _hosted(prepared)
        self._profiles = tuple(hosted)
        self._client_id = load_client_id(directories.state)
        self._link = consumer_link(config, self._profiles, self._client_id)
        self._marks = _marks(config)
        self._waiting: tuple[str, ...] = ()
        self._refused: tuple[str, ...] = ()
        self._consumer = Consumer(
            config,
            hosted,
            prepared.registry.manager,
            Clock(read_boot_id()),
            directories.state / "journal.db",
            subscribed=self._link.subscriptions,
            device_topic=topics.device_topic(config.namespace, config.device_id),
            reply_topics=lambda producer: topics.reply_topics(
                config.namespace, self._prepared.config.broker.response_topic, producer
            ),
        )
        consumer = self._consumer
        observer = LinkObserver(
            link_resolving=consumer.link_resolving,
            link_changing=lambda addresses: consumer.link_changing(_endpoints(addresses)),
            link_changed=lambda addresses: consumer.link_changed(_endpoints(addresses)),
            connected=lambda _: notifier.status(self._summary()),
            disconnected=lambda _: notifier.status(self._summary()),
        )
        self._session = Session(self._link, consumer.engine, observer, consumer.answers.shorten)
        self._status = StatusServer(directories.runtime, self.snapshot)
        self._metrics = _metrics_server(config.metrics.listen, self.metrics)

    # -- life

    def start(self) -> None:
        """Bring everything up: rules first, then what was left undone, then the broker."""
        config = self._prepared.config
        _log.info(
            STARTING,
            version=__version__,
            device_id=config.device_id,
            sender=config.sender,
            broker=f"{config.broker.host}:{config.broker.port}",
            profiles=list(self._profiles),
            topics=list(self._link.subscriptions),
        )
        begun = time.monotonic()
        self._consumer.start(self._session, self._directories.state, self._directories.runtime)
        self._session.start()
        self._status.start()
        if self._metrics:
            self._metrics.start()
        _log.info(STARTED, seconds=round(time.monotonic() - begun, 3))
        self._notifier.ready(self._summary())

    def serve(self) -> None:
        """Wait for signals; feed the watchdog as long as every part makes progress."""
        interval = self._notifier.watchdog_interval
        while True:
            _take_signals()
            if interval is None:
                got: signal.struct_siginfo | None = signal.sigwaitinfo(_SIGNALS)
            else:
                # A turn may wait for signals and then for a slow part: both fit into the interval.
                got = signal.sigtimedwait(_SIGNALS, interval / 3)
                self._feed_watchdog(interval / 3)
            if got is None:
                continue
            if got.si_signo != signal.SIGHUP:
                _log.info(STOPPING, signal=signal.Signals(got.si_signo).name)
                return
            self._reload()

    def close(self) -> None:
        """Finish what is running, send what is known, disconnect; the rest is journalled."""
        self._notifier.stopping("finishing what is running")
        # Whoever asks twice does not want to wait.
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
        if self._metrics:
            self._metrics.stop()
        self._status.stop()
        self._consumer.quiesce()
        self._session.stop(_SESSION_STOP)
        self._consumer.close()

    # -- while it runs

    def _feed_watchdog(self, patience: float) -> None:
        self._session.ping()
        parts = {
            **self._consumer.alive(patience),
            "session": time.monotonic() - self._session.progress() < 2 * patience,
        }
        if all(parts.values()):
            self._notifier.watchdog()
        else:
            _log.error(NOT_ALIVE, parts=[part for part, alive in parts.items() if not alive])
        self._notifier.status(self._summary())

    def _summary(self) -> str:
        link = self._session.status()
        if link.connected:
            state = f"connected to {link.broker}"
        elif link.last_error is None:
            state = f"connecting to {link.broker}"
        else:
            reason = link.last_error.removeprefix(f"{link.broker}: ")
            state = f"not connected to {link.broker}: {reason}"
        return f"{state}; {self._consumer.queued} commands waiting"

    def _reload(self) -> None:
        """Read the configuration and the TLS files again; a bad one changes nothing (SIGHUP)."""
        self._notifier.reloading()
        old = self._prepared.config
        try:
            new = prepare(self._file, self._prepared.registry)
        except ConfigError as error:
            for problem in error.problems:
                _log.error(RELOAD_REFUSED, path=problem.path, message=problem.message)
            self._refused = tuple(map(str, error.problems))
            self._notifier.ready("the new configuration is wrong; the old one stays in force")
            return
        self._refused = ()
        refused = reload_hooks(self._prepared.registry, new.hooks, self._place)
        config = applied(old, new.config, refused)
        changes, marks = changed(old, config), _marks(config)
        waiting = [*changed(config, new.config), *(f"plugins.{name}" for name in refused)]
        self._waiting = tuple(dict.fromkeys(waiting))
        self._prepared = dataclasses.replace(self._prepared, config=config, warnings=new.warnings)
        _warn(new)
        self._link = consumer_link(config, self._profiles, self._client_id)
        if changes:
            hosted = _hosted(self._prepared)
            self._consumer.configure(config, hosted, self._link.subscriptions)
        if marks != self._marks or any(map(_concerns_link, changes)):
            self._marks = marks
            self._session.reconfigure(self._link)
        if self._waiting:
            _log.warning(RESTART_NEEDED, keys=list(self._waiting))
        _log.info(RELOADED, changed=list(changes))
        self._notifier.ready(self._summary())

    # -- for people

    def progress(self) -> Mapping[str, Any] | None:
        """Tell what takes long at this moment, if anything."""
        if nsid := self._consumer.starting:
            return {"starting": nsid}
        queued = self._consumer.queued
        return {"waiting": queued} if queued >= _LONG_QUEUE else None

    def metrics(self) -> str:
        """Everything there is to count; on the thread of the metrics."""
        from oc2d.metrics import Extra, render  # noqa: PLC0415 - only where it is wanted

        extra = Extra(
            self._consumer.durations,
            self._consumer.journal_bytes,
            {path: end.timestamp() for path, end in ends(self._prepared.config.broker).items()},
        )
        return render(self.snapshot(), extra)

    # -- for `oc2d status`

    def snapshot(self) -> Mapping[str, Any]:
        """Everything there is to tell, JSON-able; on the status thread."""
        config = self._prepared.config
        return {
            "version": __version__,
            "pid": os.getpid(),
            "device_id": config.device_id,
            "from": config.sender,
            "started": self._begun,
            "uptime": time.time() - self._begun,
            "link": dataclasses.asdict(self._session.status()),
            **self._consumer.snapshot(),
            "restart_needed": list(self._waiting),
            "reload_refused": list(self._refused),
            "warnings": [str(warning) for warning in self._prepared.warnings],
            "plugins": hook_statuses(self._prepared.registry),
        }


def _take_signals() -> None:
    """Take signals only where the daemon waits for them: threads inherit this.

    Done again behind plugins, which run on this thread when they are loaded and at a reload.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)  # as Python has it


def _make_no_core() -> None:
    """Keep the secrets in our memory out of files and of programs that take cores.

    The latter are given the core whatever the limit, but for 1, which is too little for a file.
    """
    hard = resource.getrlimit(resource.RLIMIT_CORE)[1]
    resource.setrlimit(resource.RLIMIT_CORE, (min(hard, 1) if hard >= 0 else 1,) * 2)


def _metrics_server(listen: str | None, tell: Callable[[], str]) -> MetricsServer | None:
    """Make the server; its modules are loaded only where it is wanted."""
    if listen is None:
        return None
    from oc2d.metrics_server import MetricsServer  # noqa: PLC0415 - off by default, and http is large

    return MetricsServer(listen, tell)


def _warn(prepared: Prepared) -> None:
    for warning in prepared.warnings:
        if warning.path not in _SAID_BY_THE_LINK:
            _log.warning(CONFIG_WARNING, path=warning.path, message=warning.message)


def _concerns_link(path: str) -> bool:
    """Tell whether the broker must be told anew, in a new connection."""
    if path in {"broker.accept_retained", "broker.response_topic"}:
        return False
    return path.startswith("broker.") or path == "limits.payload"


def _hosted(prepared: Prepared) -> dict[str, Hosted]:
    """Order the actuators: as `policy.order` says, then as configured (AMB-27)."""
    loaded = {one.nsid: one for one in prepared.actuators.actuators}
    order = [name for name in prepared.config.policy.order if name in loaded]
    return {
        nsid: Hosted(
            loaded[nsid].actuator,
            {(p.action, p.target): p for p in loaded[nsid].actuator.supported_pairs()},
            prepared.config.actuators[loaded[nsid].table.name].timeout,
        )
        for nsid in dict.fromkeys([*order, *loaded])
    }


def _endpoints(addresses: Sequence[Address]) -> tuple[Endpoint, ...]:
    return tuple(Endpoint(address.host, address.port) for address in addresses)


def _marks(config: Config) -> tuple[object, ...]:
    """Tell when a TLS or secret file was replaced: their identity and time of change."""
    broker = config.broker
    secrets = (broker.password_file, broker.key_password_file)
    files = (
        broker.ca_file,
        broker.cert_file,
        broker.key_file,
        broker.crl_file,
        *(None if name is None else secret_file(name) for name in secrets),
    )
    return tuple(map(_mark, files))


def _mark(file: Path | None) -> object:
    try:
        found = None if file is None else file.stat()
    except OSError:
        return None
    return found and (found.st_ino, found.st_mtime_ns, found.st_size)
