"""The disk, or memory, may refuse any statement of the journal: it is a delay and no more."""

from __future__ import annotations

import sqlite3

import pytest

from tests.unit.engine.bench import Bench, deny
from tests.unit.engine.plugins import Gate, Idempotent, Recording

FULL, SHORT = sqlite3.OperationalError("database or disk is full"), MemoryError()


class Disk:
    """The journal's connection, that refuses some statements one after the other, from one on."""

    def __init__(self, bench, first, times, error):
        self.error = error
        self.connection = bench.consumer._journal._db
        self.left, self.times = first, times
        bench.consumer._journal._db = self

    @property
    def in_transaction(self):
        return self.connection.in_transaction

    def refuse(self):
        self.left -= 1
        if self.left < 0 < self.times:
            self.times -= 1
            raise self.error

    def execute(self, *args):
        self.refuse()
        return self.connection.execute(*args)

    def executemany(self, *args):
        self.refuse()
        return self.connection.executemany(*args)

    def close(self):
        self.connection.close()


TOLD = {"runs": 500, "plain": 200, "ack": 102, "later": 200, "refused": 501, None: 200}


def a_day(bench, door):
    """Have some of everything: windows, waiting, an actuator that is stuck and comes back."""
    at = bench.turned.wall
    later = {"start_time": at + 600_000, "duration": 600_000}

    def ask():
        bench.ask(deny("192.0.2.2"), request_id="plain")
        bench.ask(deny("192.0.2.3", response_requested="ack"), request_id="ack")
        bench.ask(deny("192.0.2.4", **later), request_id="later")
        bench.ask({**deny(), "action": "scan"}, request_id="refused")
        bench.ask(deny("192.0.2.2"), request_id="plain")
        bench.ask(deny("192.0.2.5", duration=60_000), request_id=None)

    gate = door.behave = Gate()
    bench.ask(deny("192.0.2.1", duration=300_000), request_id="runs")
    gate.wait()
    ask()
    bench.advance(60)
    gate.open.set()
    bench.settle()
    for seconds in (0, 60, 540, 600, 2, 2):
        if not seconds:
            ask()
        bench.advance(seconds)
        bench.settle()


@pytest.mark.req("MQTT-54")
@pytest.mark.parametrize(
    ("kind", "times", "error"), [(Recording, 1, FULL), (Idempotent, 4, FULL), (Recording, 3, SHORT)]
)
def test_a_disk_may_refuse_any_statement(tmp_path, kind, times, error):
    first, disk = 0, None
    while disk is None or disk.times < times:  # until there are no more
        door = kind()
        bench = Bench(tmp_path / str(first), door).start()
        disk = Disk(bench, first, times, error)
        a_day(bench, door)
        cases, journal = bench.consumer._cases, bench.consumer._journal
        journal._db = disk.connection
        left = [*journal.pending(), *journal.outbox(), *journal.timers(), *cases.open]
        bench.stop()
        done = sorted(str(command.target)[-1] for command in door.executed)
        ended = sorted(str(c.target)[-1] for c in door.executed if c.key in door.reverted)
        last = {r.headers.get("request_id"): r.status for r in bench.replies}
        assert (first, left, len(bench.consumer.engine._handles)) == (first, [], 0)
        assert (first, done, ended) == (first, list("12345"), list("145"))
        assert (first, last, len(door.reserved)) == (first, TOLD, 1)
        first += times
    assert first > 100
