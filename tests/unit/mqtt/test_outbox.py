"""Outbox and Inbox against a simple model of a broker."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from oc2d.engine.ports import Outgoing, Token
from oc2d.language.codec import Encoding
from oc2d.mqtt.inbox import Inbox
from oc2d.mqtt.outbox import Outbox, Stage


class Exchange(RuleBasedStateMachine):
    """Messages at QoS 2 over links that break; the broker must get each, none may be left."""

    def __init__(self) -> None:
        super().__init__()
        self.outbox = Outbox()
        self.connected = False
        self.next = 1
        self.window = 1
        self.published: set[int] = set()  # the broker has its PUBLISH
        self.taken: set[int] = set()  # and we have its PUBREC
        self.released: set[int] = set()
        self.finished: set[int] = set()

    @rule(count=st.integers(1, 4))
    def add(self, count: int) -> None:
        handles = range(self.next, self.next + count)
        self.next += count
        assert not self.outbox.add(Outgoing(h, "t", b"", Encoding.JSON) for h in handles)

    @rule(present=st.booleans(), window=st.integers(1, 3))
    def connect(self, present: bool, window: int) -> None:
        self.connected, self.window = True, window
        releases = self.outbox.begin(session_present=present, window=window)
        if not present:
            self.published, self.taken, self.released = set(), set(), set()
        assert set(releases) == self.released

    @precondition(lambda self: self.connected)
    @rule()
    def publish(self) -> None:
        before = self.outbox.in_flight
        entry = self.outbox.take()
        if entry is None:
            assert before >= self.window or not self.outbox.waiting or self.outbox.has_refused
            return
        handle = entry.message.handle
        assert before < self.window
        assert handle not in self.taken | self.released | self.finished
        assert entry.dup == (handle in self.published)
        self.published.add(handle)

    @precondition(lambda self: self.connected and self.published)
    @rule(data=st.data())
    def pubrec(self, data: st.DataObject) -> None:
        handle = data.draw(st.sampled_from(sorted(self.published)))
        stage = self.outbox.taken(handle)
        if stage is Stage.SENT:
            assert handle not in self.taken | self.released
            self.taken.add(handle)

    @rule(handle=st.integers(1, 20))
    def release(self, handle: int) -> None:
        released = self.outbox.release([handle])
        assert released == ([handle] if handle in self.taken else [])
        self.taken -= set(released)
        self.released |= set(released)

    @precondition(lambda self: self.connected and self.taken | self.released)
    @rule(data=st.data())
    def pubcomp(self, data: st.DataObject) -> None:
        handle = data.draw(st.sampled_from(sorted(self.taken | self.released)))
        self.release(handle)
        assert self.outbox.done(handle)
        assert not self.outbox.done(handle)
        for one in (self.released, self.published):
            one.discard(handle)
        self.finished.add(handle)

    @precondition(lambda self: self.connected and self.published)
    @rule(data=st.data())
    def quota(self, data: st.DataObject) -> None:
        handle = data.draw(st.sampled_from(sorted(self.published)))
        if handle in self.taken | self.released:
            return
        before = self.outbox.in_flight
        self.outbox.refused(handle)
        if self.outbox.in_flight < before:
            self.published.discard(handle)

    @rule()
    def retry(self) -> None:
        self.outbox.retry()

    @invariant()
    def nothing_is_forgotten(self) -> None:
        assert len(self.outbox) + len(self.finished) == self.next - 1
        assert 0 <= self.outbox.in_flight <= len(self.outbox)


TestExchange = Exchange.TestCase
TestExchange.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestExchange = pytest.mark.req("MQTT-12", "MQTT-53", "MQTT-56")(TestExchange)


class Arrivals(RuleBasedStateMachine):
    """Acknowledgements leave in order of arrival, whatever order decisions take."""

    def __init__(self) -> None:
        super().__init__()
        self.inbox = Inbox()
        self.arrived: list[Token] = []
        self.decided: set[Token] = set()
        self.old: list[Token] = []
        self.undecided: list[tuple[Token, int]] = []

    @rule(packet_id=st.integers(1, 6), qos=st.integers(0, 2), size=st.integers(0, 9))
    def arrive(self, packet_id: int, qos: int, size: int) -> None:
        token = self.inbox.arrived(packet_id if qos else 0, qos, size)
        known = any(one.packet_id == packet_id for one in self.arrived)
        assert (token is None) == (bool(qos) and known)
        if token is not None and qos:
            self.arrived.append(token)
        if token is not None:
            self.undecided.append((token, size))

    @rule(data=st.data())
    def decide(self, data: st.DataObject) -> None:
        choice = [*self.arrived, *self.old, Token(0, 3, 1), Token(self.inbox.connection, 0, 0)]
        tokens = data.draw(st.lists(st.sampled_from(choice), max_size=4))
        self.decided |= set(tokens) & set(self.arrived)
        for token in tokens:
            entry = next((entry for entry in self.undecided if entry[0] == token), None)
            if entry is not None:
                self.undecided.remove(entry)
        expected = []
        while self.arrived and self.arrived[0] in self.decided:
            expected.append(self.arrived.pop(0))
        assert self.inbox.decided(tokens) == expected
        self.decided -= set(expected)

    @rule()
    def reconnect(self) -> None:
        self.old = (self.old + self.arrived)[-5:]
        self.arrived, self.decided = [], set()
        self.inbox.begin()

    @invariant()
    def count(self) -> None:
        assert self.inbox.undecided == len(self.undecided)
        assert self.inbox.held == sum(size for _, size in self.undecided)


TestArrivals = Arrivals.TestCase
TestArrivals.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestArrivals = pytest.mark.req("MQTT-54", "MQTT-55")(TestArrivals)
