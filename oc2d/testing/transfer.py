"""A transfer without a broker: it records what the engine sends and confirms it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from oc2d.engine.ports import Intake, Outgoing, Token

__all__ = ["PATIENCE", "Recorder", "Reply"]

PATIENCE = 20.0  # seconds that anything may take before a test fails


class Recorder:
    """Records everything; confirms what is sent at once, or (`confirm` False) on demand."""

    def __init__(self, *, confirm: bool = True) -> None:
        self.confirm = confirm
        self.acknowledged: list[Token] = []
        self.sent: list[Outgoing] = []
        self.released: list[int] = []
        self.intake: Intake | None = None
        self.on_acknowledge: Callable[[Sequence[Token]], None] = lambda _: None
        self.on_send: Callable[[Sequence[Outgoing]], None] = lambda _: None
        self.changed = threading.Condition()

    def acknowledge(self, tokens: Sequence[Token]) -> None:
        """Keep them."""
        self.on_acknowledge(tokens)
        with self.changed:
            self.acknowledged.extend(tokens)
            self.changed.notify_all()

    def send(self, messages: Sequence[Outgoing]) -> None:
        """Keep them, and tell the engine that the broker has them."""
        self.on_send(messages)
        with self.changed:
            self.sent.extend(messages)
            self.changed.notify_all()
        if self.confirm and self.intake:
            self.intake.sent([m.handle for m in messages])

    def release(self, handles: Sequence[int]) -> None:
        """Keep them."""
        with self.changed:
            self.released.extend(handles)
            self.changed.notify_all()

    def wait(self, condition: Callable[[], bool], what: str = "") -> None:
        """Wait until something recorded makes `condition` true; AssertionError after 20 s."""
        with self.changed:
            if not self.changed.wait_for(condition, PATIENCE):
                raise AssertionError(what or "not in time")


@dataclass(frozen=True)
class Reply:
    """A response as the Producer reads it; `message` is the whole, decoded."""

    message: dict[str, Any]
    outgoing: Outgoing

    @property
    def response(self) -> dict[str, Any]:
        """`status`, and `status_text` and `results` if there are any."""
        found: dict[str, Any] = self.message["body"]["openc2"]["response"]
        return found

    @property
    def headers(self) -> dict[str, Any]:
        """`request_id`, `created`, `from`, `to`."""
        found: dict[str, Any] = self.message["headers"]
        return found

    @property
    def status(self) -> int:
        """The OpenC2 status."""
        return int(self.response["status"])

    @property
    def text(self) -> str:
        """`status_text`, or nothing."""
        return str(self.response.get("status_text", ""))

    @property
    def results(self) -> dict[str, Any]:
        """`results`, or nothing."""
        return dict(self.response.get("results", {}))
