"""The session with the broker: one thread that owns the sockets and all the state.

Others post to it; it dials by a thread of its own (`oc2d.mqtt.dial`), so it never blocks but for a
farewell of at most a second. Nothing ends the thread but `stop`: whatever goes wrong leads to a new
connection, after a back-off with jitter (MQTT-14).
"""

from __future__ import annotations

import contextlib
import math
import random
import selectors
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

import structlog

from oc2d.engine.ports import Intake, Outgoing, Token
from oc2d.mqtt import events
from oc2d.mqtt.client import PROTOCOL_ERROR, Link, LinkLost
from oc2d.mqtt.conversation import ROOM, Conversation, Shorten
from oc2d.mqtt.dial import Dial
from oc2d.mqtt.packets import Connack, Disconnect, Packet
from oc2d.mqtt.settings import LinkSettings, warn_of
from oc2d.mqtt.status import Address, LinkObserver, LinkStatus

__all__ = ["Session", "Shorten"]

_BATCH: Final = 256  # packets handled in one turn
_FAREWELL_TIME: Final = 1.0
_AFTER_ERROR: Final = 0.1

_log = structlog.get_logger("oc2d.mqtt")


class Session:
    """One client of one broker; implements `oc2d.engine.ports.Transfer`.

    `shorten` makes a response fit a broker that takes no larger packets; without it, or where it
    returns None, such a response is dropped, logged and counted. Every public method may be called
    from any thread and returns at once, except `stop`.
    """

    def __init__(
        self,
        settings: LinkSettings,
        intake: Intake,
        observer: LinkObserver | None = None,
        shorten: Shorten | None = None,
    ) -> None:
        self._settings = settings
        self._observer = observer or LinkObserver()
        self._talk = Conversation(settings, intake, shorten)
        self._thread = threading.Thread(target=self._run, name="oc2d-mqtt", daemon=True)
        self._selector = selectors.DefaultSelector()
        self._waker, self._wake = socket.socketpair()
        self._woken = False
        self._posts: deque[Callable[[], None]] = deque()
        self._progress = time.monotonic()
        self._slept = _asleep()
        self._over = False
        self._stop_at: float | None = None
        self._link: Link | None = None
        self._events = 0  # what the selector waits for on the link
        self._dial: Dial | None = None
        self._address: Address | None = None
        self._accepted_at: float | None = None  # when CONNACK came on this link
        self._expected: str | None = None  # which answer of the broker, until when
        self._answer_by = math.inf
        self._retry_at = self._resubscribe_at = math.inf
        self._attempt = 0
        self._next_attempt = 0.0
        self._reconnects = 0
        self._connected = self._ever_connected = False
        self._told_subscribed = False
        self._since = time.time()
        self._last_error: str | None = None

    # -- for everybody

    def start(self) -> None:
        """Connect, and stay connected until `stop`."""
        warn_of(self._settings)
        self._thread.start()

    def stop(self, timeout: float) -> None:
        """Publish what is queued for up to `timeout` seconds, disconnect, end the thread."""
        self._post(lambda: self._begin_stop(timeout))
        if self._thread.ident is not None:
            self._thread.join(timeout + 2 * _FAREWELL_TIME + 1)
        if not self._thread.is_alive():
            self._close()

    def acknowledge(self, tokens: Sequence[Token]) -> None:
        """Acknowledge these deliveries; stale tokens and QoS 0 are ignored."""
        self._post(lambda: self._talk.acknowledge(tokens))

    def send(self, messages: Sequence[Outgoing]) -> None:
        """Publish, now or when the link is back."""
        self._post(lambda: self._talk.send(messages))

    def release(self, handles: Sequence[int]) -> None:
        """Send PUBREL for these."""
        self._post(lambda: self._talk.release(handles))

    def reconfigure(self, settings: LinkSettings) -> None:
        """Reconnect at once, with these settings."""
        self._post(lambda: self._reconfigure(settings))

    def ping(self) -> None:
        """Make the thread take a turn, so that `progress` tells whether it lives."""
        self._post(lambda: None)

    def progress(self) -> float:
        """Tell when the thread last took a turn, on the monotonic clock."""
        return self._progress

    def status(self) -> LinkStatus:
        """Describe the link as it is now; the figures may be a moment apart."""
        talk, connected = self._talk, self._connected
        waiting = not connected and self._dial is None and self._stop_at is None
        delay = self._next_attempt - time.monotonic()
        return LinkStatus(
            connected=connected,
            since=self._since,
            broker=str(self._address or f"{self._settings.host}:{self._settings.port}"),
            session_present=talk.session_present if connected else None,
            subscriptions=talk.subscriptions if connected else {},
            last_error=self._last_error,
            next_attempt=time.time() + max(0.0, delay) if waiting else None,
            reconnects=self._reconnects,
            received=talk.received,
            published=talk.published,
            refused=talk.refused,
            unmatched=talk.unmatched,
            in_flight=talk.outbox.in_flight if connected else 0,
            queued=talk.outbox.waiting if connected else len(talk.outbox),
            undecided=talk.inbox.undecided,
            limits=talk.limits if connected else None,
            healthy=connected and talk.healthy,
        )

    # -- the loop; all below runs on the network thread

    def _post(self, act: Callable[[], None]) -> None:
        self._posts.append(act)
        if not self._woken:
            self._woken = True
            with contextlib.suppress(OSError):  # after the end
                self._waker.send(b"!")

    def _run(self) -> None:
        self._selector.register(self._wake, selectors.EVENT_READ)
        while not self._over:
            self._guarded_turn()
        if self._dial is not None:
            self._dial.abandon()
            if self._dial.ident is not None:
                self._dial.join(_FAREWELL_TIME)
            self._dial.close()
        _log.info(events.STOPPED)

    def _close(self) -> None:
        self._selector.close()
        self._wake.close()
        self._waker.close()

    def _guarded_turn(self) -> None:
        try:
            self._turn()
        except LinkLost as error:
            hint = self._talk.suspicion if error.code is None else ""
            self._lose(f"{error}{hint}", error.code)
        except Exception:  # noqa: BLE001  the thread must not die
            _log.exception(events.LOOP_ERROR, where="loop")
            self._lose("internal error", None)
            time.sleep(_AFTER_ERROR)  # should it happen at each turn

    def _turn(self) -> None:
        now = time.monotonic()
        ready = self._selector.select(self._patience(now))
        self._progress = now = time.monotonic()
        for key, _ in ready:
            if key.fileobj is self._wake:
                self._wake.recv(64)
        self._woken = False
        while self._posts:
            self._posts.popleft()()
        if self._link is not None:
            self._serve(self._link, now)
        elif self._stop_at is not None:
            self._over = True
        elif self._dial is None and now >= self._next_attempt:
            _log.info(events.CONNECTING, host=self._settings.host, port=self._settings.port)
            self._dial = Dial(self._settings, self._resolving, self._changing, self._dialled)
            try:
                self._dial.start()
            except Exception:  # noqa: BLE001  no room for a thread, and there may never be again
                self._dial.run()

    def _patience(self, now: float) -> float | None:
        """Tell how long there is nothing to do unless something happens; None: for ever."""
        link = self._link
        if self._posts or (link is not None and link.has_input and not self._talk.paused):
            return 0.0
        if link is None:
            if self._stop_at is not None:
                return 0.0
            return None if self._dial is not None else max(0.0, self._next_attempt - now)
        deadlines = [link.ping_due(), self._answer_by, self._retry_at, self._resubscribe_at]
        deadlines += [] if self._stop_at is None else [self._stop_at]
        return max(0.0, min(deadlines) - now)

    def _serve(self, link: Link, now: float) -> None:
        if not self._talk.paused:
            link.fill()
            packets = link.packets(1 if self._accepted_at is None else _BATCH)
            if packets and self._accepted_at is None:
                self._accept(link, packets.pop(0), now)
            self._talk.handle(packets, deliver=self._stop_at is None)
            for packet in packets:
                if isinstance(packet, Disconnect):
                    raise LinkLost(f"the broker disconnected us: {packet.text}")
        if self._accepted_at is not None:
            self._keep_time(link, now)
            self._talk.take_up()
            self._talk.pump()
        self._expect(link, now)
        link.flush()
        if self._stop_at is not None:
            quiet = not self._talk.outbox and not link.wants_write
            if self._accepted_at is None or quiet or now >= self._stop_at:
                self._leave(0, "stopped")
                return
        self._watch(link)

    def _accept(self, link: Link, packet: Packet, now: float) -> None:
        """Take the broker's answer to CONNECT."""
        if not isinstance(packet, Connack):
            raise LinkLost("the broker's first packet was no CONNACK", PROTOCOL_ERROR)
        if packet.refusal is not None:
            raise LinkLost(packet.refusal)
        self._talk.begin(link, packet)
        self._accepted_at = now
        self._reconnects += self._ever_connected
        self._connected = self._ever_connected = True
        self._since = time.time()
        self._last_error, self._told_subscribed = None, False
        _log.info(
            events.CONNECTED,
            broker=str(self._address),
            session_present=packet.session_present,
            keep_alive=packet.limits.keep_alive,
        )
        self._tell(self._observer.connected, packet.session_present)

    def _keep_time(self, link: Link, now: float) -> None:
        if self._talk.subscribed and not self._told_subscribed:
            self._told_subscribed = True
            if not self._talk.healthy:
                self._resubscribe_at = now + self._settings.resubscribe_after
            self._tell(self._observer.subscribed, self._talk.subscriptions)
        if self._talk.outbox.has_refused and self._retry_at == math.inf:
            self._retry_at = now + self._settings.retry_after
        if now >= self._retry_at:
            self._retry_at = math.inf
            self._talk.outbox.retry()
        if now >= self._resubscribe_at:
            self._resubscribe_at, self._told_subscribed = math.inf, False
            self._talk.resubscribe()
        before, self._slept = self._slept, _asleep()
        if now >= link.ping_due() or self._slept > before + 1:
            link.ping()

    def _expect(self, link: Link, now: float) -> None:
        """Give the broker its time for what it owes us; while we do not read, it owes nothing."""
        expected = "CONNACK" if self._accepted_at is None else self._talk.expected
        if expected != self._expected:
            self._expected = expected
            self._answer_by = math.inf if expected is None else now + self._settings.answer_timeout
        elif now >= self._answer_by and expected == ROOM:
            self._talk.pass_over()
        elif now >= self._answer_by:
            # on a slow link it comes after what was sent before it; behind a PINGRESP nothing waits
            self._answer_by = link.last_brought + self._settings.answer_timeout
            if now >= self._answer_by:
                raise LinkLost(f"the broker sent no {expected} in time")

    def _watch(self, link: Link) -> None:
        """Wait for what is of use now."""
        wanted = 0 if self._talk.paused else selectors.EVENT_READ
        if link.wants_write:
            wanted |= selectors.EVENT_WRITE
        if wanted == self._events:
            return
        if not self._events:
            self._selector.register(link.sock, wanted)
        elif wanted:
            self._selector.modify(link.sock, wanted)
        else:
            self._selector.unregister(link.sock)
        self._events = wanted

    # -- connections come and go

    def _resolving(self) -> None:
        self._tell(self._observer.link_resolving)  # on the thread that dials

    def _changing(self, addresses: Sequence[Address]) -> None:
        self._tell(self._observer.link_changing, addresses)  # on the thread that dials

    def _dialled(self, dial: Dial) -> None:
        self._post(lambda: self._reached(dial))  # on the thread that dials

    def _reached(self, dial: Dial) -> None:
        if dial is not self._dial:
            dial.close()
            return
        self._dial = None
        if dial.sock is None or self._stop_at is not None:
            dial.close()
            self._lose(dial.error or "stopped", None)
            return
        try:
            self._link = Link(dial.settings, dial.sock, dial.password)
        except Exception:
            dial.close()
            raise
        self._address = dial.address
        self._expected = None
        self._tell(self._observer.link_changed, (dial.address,))

    def _lose(self, reason: str, code: int | None) -> None:
        """Go on without the link, telling the broker `code`, and connect again after a while."""
        now = time.monotonic()
        backoff = self._settings.backoff
        if self._accepted_at is not None and now - self._accepted_at >= backoff.stable:
            self._attempt = 0
        delay = random.uniform(0, min(backoff.most, backoff.first * 2**self._attempt))  # noqa: S311  no secret
        self._attempt = min(self._attempt + 1, 30)
        self._next_attempt = now + delay
        self._last_error = reason
        _log.warning(
            events.DISCONNECTED if self._connected else events.CONNECT_FAILED,
            reason=reason,
            retry_in=round(delay, 3),
        )
        self._leave(code, reason)

    def _leave(self, code: int | None, reason: str) -> None:
        """Give the link up; with a `code`, after DISCONNECT."""
        link, self._link = self._link, None
        connected, self._connected = self._connected, False
        self._accepted_at, self._retry_at, self._resubscribe_at = None, math.inf, math.inf
        if link is not None:
            if self._events:
                self._selector.unregister(link.sock)
                self._events = 0
            if code is None:
                link.close()
            else:
                link.farewell(code, _FAREWELL_TIME)
        self._talk.end()
        if connected:
            self._since = time.time()
            self._tell(self._observer.disconnected, reason)

    def _reconfigure(self, settings: LinkSettings) -> None:
        self._settings = settings
        warn_of(settings)
        if self._dial is not None:
            self._dial.abandon()
            self._dial = None
        self._leave(0, "reconfigured")
        self._address = None  # it was that of the other broker, perhaps
        self._talk.configure(settings)
        self._attempt = 0
        self._next_attempt = time.monotonic()

    def _begin_stop(self, timeout: float) -> None:
        self._stop_at = time.monotonic() + timeout

    def _tell(self, listener: Callable[..., None], *news: object) -> None:
        try:
            listener(*news)
        except Exception:  # noqa: BLE001  what a listener does is not ours to know
            _log.exception(events.OBSERVER_ERROR)


def _asleep() -> float:
    """Tell for how many seconds this host was suspended; a broker that gave us up told nobody."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) - time.monotonic()
