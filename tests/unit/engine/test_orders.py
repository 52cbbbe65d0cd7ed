"""Odd orders of events: rollbacks, actuators that get stuck and come back, deaths, clocks.

Nothing may be lost, take effect twice, or be answered otherwise than it is (DESIGN 1).
"""

from __future__ import annotations

import io

import pytest
import structlog

from oc2d import logs
from oc2d.errors import Forbidden
from tests.unit.engine.bench import FULL, Failing, deny, told, until
from tests.unit.engine.plugins import Gate, Idempotent, Plain, Recording, Window


def idle(bench, turns=3):
    """Let the worker come to an end, though the engine cannot."""
    for _ in range(turns):
        bench.call("x-door", lambda: None)


# -- given up for, and the disk says no


def test_what_was_to_be_reserved_is_reserved_once_though_giving_up_is_not_written(build, door):
    bench = build(door)
    gate = door.behave = Gate()
    bench.ask(deny(), request_id="runs")
    gate.wait()
    bench.ask(deny("192.0.2.4", start_time=bench.turned.wall + 600_000), request_id="deferred")
    assert bench.consumer.engine.settle(10)
    failing = Failing(bench)
    failing.times = FULL
    bench.turned.turn(60)
    assert bench.consumer.engine.ping(5)
    failing.wait(2)
    gate.open.set()
    idle(bench)
    failing.times = 0
    bench.settle()
    assert len(door.reserved) == 1
    bench.advance(540)
    bench.settle()
    assert told(bench) == {"runs": (200, ""), "deferred": (200, "")}
    assert len(door.executed) == 2


@pytest.mark.parametrize("kind", [Recording, Idempotent])
def test_what_waits_is_done_once_though_giving_up_is_not_written(build, kind):
    door = kind()
    bench = build(door)
    gate = door.behave = Gate()
    bench.ask(deny(), request_id="runs")
    gate.wait()
    for number in range(3):
        bench.ask(deny(), request_id=str(number))
    assert bench.consumer.engine.settle(10)

    def comes_back():
        gate.open.set()
        until(bench.consumer._workers["x-door"].idle, 0.2)

    failing = Failing(bench, meanwhile=comes_back)
    assert bench.consumer.engine.settle(10)
    failing.times = 1
    bench.advance(60)
    bench.settle()
    assert failing.failed == 1
    assert {status for status, _ in told(bench).values()} == {200}
    assert len(door.executed) == 4


def test_what_was_begun_in_company_is_done_though_giving_up_is_not_written(build, idempotent):
    bench = build(idempotent)
    first = idempotent.behave = Gate()
    bench.ask(deny(), request_id="first")
    first.wait()
    bench.deliver(*(bench.message(deny(), request_id=str(number)) for number in range(3)))
    assert bench.consumer.engine.settle(10)
    second = idempotent.behave = Gate()
    first.open.set()
    second.wait()  # the first of three that were begun
    assert bench.consumer.engine.settle(10)

    def comes_back():
        second.open.set()
        until(bench.consumer._workers["x-door"].idle, 0.2)

    failing = Failing(bench, meanwhile=comes_back)
    assert bench.consumer.engine.settle(10)
    failing.times = 1
    bench.advance(60)
    bench.settle()
    assert failing.failed == 1
    assert {status for status, _ in told(bench).values()} == {200}
    assert len(idempotent.executed) == 4
    assert bench.consumer.queued == 0


def test_a_deferred_command_does_not_begin_early_though_giving_up_is_not_written(build, door):
    bench = build(door)
    reserving = door.on_reserve = Gate()
    bench.ask(deny("192.0.2.4", start_time=bench.turned.wall + 600_000), request_id="deferred")
    reserving.wait()
    checking = Gate()

    def refuses(command):
        checking(command)
        raise Forbidden("no")

    door.on_reserve = lambda _: None
    door.on_check = refuses
    bench.ask(deny("192.0.2.5"), request_id="next")
    assert bench.consumer.engine.settle(10)
    disk = Failing(bench)
    disk.times = FULL
    reserving.open.set()
    checking.wait()
    disk.wait(2)
    bench.turned.turn(60)
    forget = Failing(bench, "forget")
    forget.times = FULL
    disk.times = 0
    forget.wait(1)
    checking.open.set()
    idle(bench, 1)
    until(lambda: bool(door.executed), 0.1)
    forget.times = 0
    bench.settle()
    assert door.executed == []
    bench.advance(540)
    bench.settle()
    assert told(bench)["deferred"] == (200, "")
    assert len(door.executed) == 1


@pytest.mark.parametrize("times", [0, 1])
def test_two_that_are_stuck_at_once_are_given_up_for_and_come_back(build, door, times):
    window = Window()
    bench = build(door, window)
    gate = door.behave = window.behave = Gate()
    for name in ("x-door", "x-window"):
        bench.ask({**deny(), "actuator": {name: {}}}, request_id=name)
        gate.wait()
    assert bench.consumer.engine.settle(10)
    failing = Failing(bench)
    failing.times = times
    bench.advance(60)
    assert told(bench) == dict.fromkeys(("x-door", "x-window"), (500, "outcome unknown"))
    gate.open.set()
    bench.settle()
    for name in ("x-door", "x-window"):
        command = {**deny(), "actuator": {name: {}}}
        assert bench.command(command).status == 200


def test_memory_that_is_short_at_a_rollback_too_leaves_nobody_waiting(build, door):
    bench = build(door)
    gate = door.behave = Gate()
    bench.ask(deny(), request_id="runs")
    gate.wait()
    bench.ask(deny(), request_id="waits")
    assert bench.consumer.engine.settle(10)
    journal = bench.consumer._journal
    whole = journal._db

    class Short:
        """A connection that has no memory for this statement, once."""

        left = 1

        def __getattr__(self, name):
            return getattr(whole, name)

        def execute(self, statement, *values):
            if statement == "ROLLBACK" and self.left:
                self.left = 0
                raise MemoryError
            return whole.execute(statement, *values)

    journal._db = short = Short()
    disk = Failing(bench, error=MemoryError())
    disk.times = 1
    bench.advance(60)
    assert (disk.failed, short.left) == (1, 0)
    gate.open.set()
    bench.settle()
    assert told(bench) == {
        "runs": (500, "outcome unknown"),
        "waits": (503, "x-door does not answer"),
    }
    assert bench.command(deny()).status == 200
    journal._db = whole


# -- the log


class Deaf(io.StringIO):
    """A log that fails as nobody expects it to."""

    left = 1

    def write(self, text):
        if self.left:
            self.left = 0
            raise MemoryError
        return len(text)


@pytest.mark.usefixtures("own_log")
def test_a_log_that_fails_makes_nothing_be_written_twice(build, door):
    bench = build(door)
    log = Deaf()
    logs.configure("json", stream=log)
    structlog.configure(cache_logger_on_first_use=False)  # the engine's loggers outlive this test
    bench.ask({**deny(), "action": "scan"}, request_id="refused")
    bench.settle()
    assert log.left == 0
    assert bench.statuses == [501]
    assert bench.consumer.engine.journal_error is None
    assert bench.consumer.snapshot()["engine"]["counters"] == {"received": 1}


# -- deferred


def test_what_is_over_before_it_begins_is_given_up_with_what_was_reserved(build, door):
    bench = build(door)
    at = bench.turned.wall + 60_000
    bench.ask(deny(start_time=at, duration=60_000), request_id="deferred")
    bench.settle()
    bench.advance(600)  # as when the host was asleep
    bench.settle()
    assert told(bench)["deferred"][0] == 500
    assert door.executed == []
    bench.poke()
    bench.settle()
    assert door.reverted == [door.reserved[0].key]
    assert bench.consumer._journal.timers() == []


def test_what_is_refused_when_its_time_comes_gives_back_what_was_reserved(build, door):
    bench = build(door)
    later = deny(start_time=bench.turned.wall + 600_000)
    bench.ask(later, request_id="deferred")
    bench.settle()

    def refuse(_command):
        raise Forbidden("not now")

    door.behave = refuse
    bench.advance(600)
    bench.settle()
    assert told(bench)["deferred"] == (403, "not now")
    assert door.reverted == [door.reserved[0].key]
    bench.ask(later, request_id="deferred")  # the answer stays
    bench.settle()
    assert [reply.status for reply in bench.replies] == [102, 403, 403]


def test_what_is_reserved_after_it_was_given_up_for_is_given_back(build, door):
    bench = build(door)
    reserving = door.on_reserve = Gate()
    bench.ask(deny(start_time=bench.turned.wall + 600_000), request_id="deferred")
    reserving.wait()
    bench.advance(60)
    assert told(bench)["deferred"][0] == 503
    reserving.open.set()
    bench.settle()
    assert door.reverted == [door.reserved[0].key]
    assert door.executed == []


@pytest.mark.parametrize("posted", [False, True])
def test_what_was_reserved_and_finds_its_actuator_stuck_is_given_back(build, door, posted):
    bench = build(door)
    bench.ask(deny("192.0.2.4", start_time=bench.turned.wall + 600_000), request_id="deferred")
    bench.settle()
    gate = door.behave = Gate()
    bench.ask(deny(), request_id="runs")
    gate.wait()
    if posted:  # its time has come before anybody knows that the actuator is stuck
        bench.advance(60 - 1)
        bench.turned.wall += 600_000
        bench.poke()
        bench.advance(1)
    else:
        bench.advance(60)
        bench.advance(540)
    assert told(bench)["deferred"][0] == 503
    gate.open.set()
    bench.settle()
    assert door.reverted == [door.reserved[0].key]
    assert len(door.executed) == 1


def test_an_actuator_that_reverts_nothing_is_not_asked_to(build):
    plain = Plain()
    bench = build(plain)
    at = bench.turned.wall + 600_000
    target = {"device": {"hostname": "fw-7"}}
    command = {"action": "restart", "target": target, "args": {"start_time": at}}
    bench.ask(command, request_id="deferred")
    bench.settle()
    gate = Gate()
    bench.consumer._workers["x-plain"].tell(gate)
    gate.wait()
    bench.advance(60)
    with structlog.testing.capture_logs() as entries:
        bench.advance(540)
        assert told(bench)["deferred"][0] == 503
        gate.open.set()
        bench.settle()
    assert [entry["event"] for entry in entries if entry["log_level"] == "error"] == []
