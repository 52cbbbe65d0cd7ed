"""What the transfer tells about itself, and whom it tells when the link changes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

__all__ = ["Address", "LinkObserver", "LinkStatus", "ServerLimits"]


class Address(NamedTuple):
    """One address of the broker, resolved: numeric."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerLimits:
    """What the broker's CONNACK allows (MQTT-12); seconds and bytes, None: no limit."""

    keep_alive: int
    session_expiry: int
    receive_maximum: int
    maximum_packet_size: int | None = None
    maximum_qos: int = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkStatus:
    """The link at one moment; times are seconds since 1970.

    `subscriptions`: for each filter the granted QoS, or what is wrong with it; empty until the
    broker has answered. `in_flight`: published, not yet acknowledged; `queued`: not yet published;
    `undecided`: delivered to us, not yet acknowledged; `unmatched`: published, and the broker said
    that nobody has subscribed. The counters run since the start.
    """

    connected: bool
    since: float
    broker: str
    session_present: bool | None = None
    subscriptions: Mapping[str, int | str] = field(default_factory=dict)
    last_error: str | None = None
    next_attempt: float | None = None
    reconnects: int = 0
    received: int = 0
    published: int = 0
    refused: int = 0
    unmatched: int = 0
    in_flight: int = 0
    queued: int = 0
    undecided: int = 0
    limits: ServerLimits | None = None
    healthy: bool = False
    """Connected, and every subscription granted at QoS 1 or 2 (MQTT-26)."""


def _ignore(*_: object) -> None:
    pass


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkObserver:
    """Callbacks; an exception in one is logged and changes nothing.

    `link_resolving` and `link_changing` run before we connect, on the thread that dials, which
    waits for them; the others run on the network thread and must be quick. Order for one
    connection: link_resolving (name servers are asked next), link_changing (addresses we may
    connect to), link_changed (the address that stands), connected (the
    broker accepted us; is its session the old one), subscribed (what it granted), disconnected
    (why).
    """

    link_resolving: Callable[[], None] = _ignore
    link_changing: Callable[[Sequence[Address]], None] = _ignore
    link_changed: Callable[[Sequence[Address]], None] = _ignore
    connected: Callable[[bool], None] = _ignore
    subscribed: Callable[[Mapping[str, int | str]], None] = _ignore
    disconnected: Callable[[str], None] = _ignore
