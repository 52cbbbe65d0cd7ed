"""One run's link to the broker: subscribe, publish and wait for the acknowledgement, receive."""

from __future__ import annotations

import itertools
import math
import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence

from oc2d.engine.ports import Inbound, Outgoing
from oc2d.errors import Oc2dError
from oc2d.language.codec import Encoding
from oc2d.mqtt.session import Session
from oc2d.mqtt.settings import LinkSettings
from oc2d.mqtt.status import LinkObserver

__all__ = ["LinkError", "Wire"]

_GLANCE = 0.02
_LOOK = 1.0  # seconds


class LinkError(Oc2dError):
    """The broker cannot be reached, or does not let us do what we must."""


class Wire:
    """A link that stands while the context is entered; `subscribed` is what the broker granted.

    Entering it connects and subscribes, or raises `LinkError` at the first failed attempt, at the
    latest after `timeout` seconds. A link that is lost later comes back by itself; `lost` is told
    (on another thread).
    """

    def __init__(
        self,
        link: LinkSettings,
        timeout: float,
        lost: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.subscribed: Mapping[str, int | str] = {}
        self._timeout = timeout
        self._lost = lost
        self._leaving = False
        self.last_loss: str | None = None
        """Why the link was lost last, if it ever was."""
        self._received: queue.SimpleQueue[Inbound] = queue.SimpleQueue()
        self._sent: queue.SimpleQueue[int] = queue.SimpleQueue()
        self._ready = threading.Event()
        self._handles = itertools.cycle(range(1, 60_001))
        observer = LinkObserver(subscribed=self._granted, disconnected=self._disconnected)
        self._session = Session(link, self, observer)

    def __enter__(self) -> Wire:  # noqa: PYI034 - Self needs Python 3.11
        self._session.start()
        try:
            self._wait_until_ready()
        except BaseException:
            self._session.stop(0)
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._leaving = True
        self._session.stop(0)

    def publish(self, topic: str, payload: bytes, encoding: Encoding) -> None:
        """Publish, and wait until the broker is responsible for it; raises `LinkError`."""
        refused = self._session.status().refused
        handle = next(self._handles)
        self._session.send([Outgoing(handle, topic, payload, encoding)])
        deadline = time.monotonic() + self._timeout
        sent = None
        while sent != handle:
            try:
                sent = self._sent.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                reason = self._session.status().last_error or self.last_loss or "no answer in time"
                raise LinkError(f"the broker did not take the message: {reason}") from None
        if self._session.status().refused > refused:
            raise LinkError(
                f"the broker refused the message on {topic}: not allowed for us, or too large "
                "(--verbose shows its reason)"
            )

    @property
    def unmatched(self) -> bool:
        """Whether the broker said of something published that nobody has subscribed to it."""
        return self._session.status().unmatched > 0

    def receive(self, deadline: float | None) -> Inbound | None:
        """Wait for the next delivery until `deadline` (monotonic clock; None: for ever)."""
        while True:
            left = math.inf if deadline is None else max(0.0, deadline - time.monotonic())
            try:
                # a Ctrl-C that comes just before it waits would else be noticed by nobody
                return self._received.get(timeout=min(left, _LOOK))
            except queue.Empty:
                if left <= _LOOK:
                    return None

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + self._timeout
        while not self._ready.wait(_GLANCE):
            status = self._session.status()
            if status.last_error is not None or time.monotonic() > deadline:
                reason = status.last_error or "no answer in time"
                reason = reason.removeprefix(f"{status.broker}: ")
                raise LinkError(f"no link to the broker at {status.broker}: {reason}")

    def _granted(self, subscriptions: Mapping[str, int | str]) -> None:
        self.subscribed = dict(subscriptions)
        self._ready.set()

    def _disconnected(self, reason: str) -> None:
        if not self._leaving:
            self.last_loss = reason
            self._lost(reason)

    # -- what the session tells us (`oc2d.engine.ports.Intake`), on its thread

    def received(self, messages: Sequence[Inbound]) -> None:
        """Take deliveries; there is nothing to be written down, so they are acknowledged."""
        for message in messages:
            self._received.put(message)
        self._session.acknowledge([message.token for message in messages])

    def sent(self, handles: Sequence[int]) -> None:
        """The broker has these."""
        for handle in handles:
            self._sent.put(handle)

    def taken(self, handles: Sequence[int]) -> None:
        """Go on with QoS 2 at once."""
        self._session.release(handles)

    def session_lost(self) -> None:
        """Our session is a new one at each connection."""
