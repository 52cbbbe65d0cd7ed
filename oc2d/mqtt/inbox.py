"""Deliveries that wait for their decision, so that they are acknowledged in order of arrival."""

from __future__ import annotations

from collections.abc import Iterable

from oc2d.engine.ports import Token

__all__ = ["Inbox"]


class Inbox:
    """The undecided deliveries of one connection (MQTT 5.0 section 4.6).

    QoS 0 is only counted: nobody waits for its acknowledgement, but it takes our memory as well.
    """

    def __init__(self) -> None:
        self.connection = 0
        self._unanswered = 0  # undecided at QoS 0
        self._decided: dict[int, tuple[Token, bool]] = {}  # by packet id, in order of arrival

    def __len__(self) -> int:
        """Count what is not yet acknowledged, or at QoS 0 not yet decided."""
        return len(self._decided) + self._unanswered

    def begin(self) -> None:
        """Make ready for a new connection: what came on the old one cannot be acknowledged."""
        self.connection += 1
        self._unanswered = 0
        self._decided.clear()

    def arrived(self, packet_id: int, qos: int) -> Token | None:
        """Make the token of a delivery; None when this one is undecided already."""
        token = Token(self.connection, packet_id, qos)
        if qos == 0:
            self._unanswered += 1
            return token
        if packet_id in self._decided:
            return None
        self._decided[packet_id] = (token, False)
        return token

    def decided(self, tokens: Iterable[Token]) -> list[Token]:
        """Note these decisions; returns what may be acknowledged now, in order of arrival.

        Tokens of earlier connections, unknown ones and those decided before are ignored.
        """
        waiting = self._decided
        for token in tokens:
            if token.qos == 0 and token.connection == self.connection:
                self._unanswered = max(0, self._unanswered - 1)
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
