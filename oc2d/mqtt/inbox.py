"""Deliveries that wait for their decision, so that they are acknowledged in order of arrival."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from oc2d.engine.ports import Token

__all__ = ["Inbox"]


class Inbox:
    """The undecided deliveries of one connection (MQTT 5.0 section 4.6), and how many there are.

    `undecided` and `held`, their bytes, are those of all connections, QoS 0 too: a link that comes
    and goes brings the same again each time, and until it is decided it takes our memory.
    """

    def __init__(self) -> None:
        self.connection = 0
        self.undecided = 0
        self.held = 0
        self._sizes: dict[Token, deque[int]] = {}  # several at QoS 0 share a token
        self._decided: dict[int, tuple[Token, bool]] = {}  # by packet id, in order of arrival

    def begin(self) -> None:
        """Make ready for a new connection: what came on the old one cannot be acknowledged."""
        self.connection += 1
        self._decided.clear()

    def arrived(self, packet_id: int, qos: int, size: int) -> Token | None:
        """Make the token of a delivery of `size` bytes; None when it is undecided already."""
        token = Token(self.connection, packet_id, qos)
        if qos:
            if packet_id in self._decided:
                return None
            self._decided[packet_id] = (token, False)
        self._sizes.setdefault(token, deque()).append(size)
        self.undecided += 1
        self.held += size
        return token

    def decided(self, tokens: Iterable[Token]) -> list[Token]:
        """Note these decisions; returns what may be acknowledged now, in order of arrival.

        Tokens of earlier connections, unknown ones and those decided before are ignored.
        """
        waiting = self._decided
        for token in tokens:
            self._forget(token)
            entry = waiting.get(token.packet_id)
            if entry is not None and entry[0] == token:
                waiting[token.packet_id] = (token, True)
        ready = []
        for token, decided in waiting.values():
            if not decided:
                break
            ready.append(token)
        for token in ready:
            del waiting[token.packet_id]
        return ready

    def _forget(self, token: Token) -> None:
        sizes = self._sizes.get(token)
        if not sizes:
            return
        self.undecided -= 1
        self.held -= sizes.popleft()
        if not sizes:
            del self._sizes[token]
