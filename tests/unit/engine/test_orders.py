"""Odd orders of events: rollbacks, actuators that get stuck and come back, deaths, clocks.

Nothing may be lost, take effect twice, or be answered otherwise than it is (DESIGN 1).
"""

from __future__ import annotations

import pytest

from oc2d.actuator import Response
from oc2d.config import Limits
from oc2d.errors import Forbidden, Unavailable
from tests.unit.engine.bench import DAY, Failing, again, deny, until
from tests.unit.engine.plugins import Gate, Idempotent, Recording, Together, Window

FULL = 1_000_000  # times


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr("oc2d.engine.engine._RETRY", 0.01)


def told(bench):
    """The last that each request was told."""
    return {r.headers["request_id"]: (r.status, r.text) for r in bench.replies}


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


# -- of an earlier process, and its actuator is in the way now


@pytest.fixture
def died(build):
    """What is left of a process that had carried out three commands, and the key of `a`."""
    together = Together()
    bench = build(together)
    first = together.behave = Gate()
    bench.ask(deny("192.0.2.1"), request_id="first")
    first.wait()
    for target, name in ((2, "ahead"), (3, "a"), (4, "behind")):
        bench.ask(deny(f"192.0.2.{target}", duration=3_600_000), request_id=name)
    assert bench.consumer.engine.settle(10)
    second = together.answer = Gate()
    first.open.set()
    second.wait()
    copy = bench.dead_copy("dead")
    second.open.set()
    return copy, next(c.key for c in together.executed if str(c.target) == "192.0.2.3")


def test_what_may_have_taken_effect_is_never_answered_that_it_may_be_tried_again(build, died):
    copy, key = died
    later = Idempotent()
    gate = later.behave = Gate()
    bench = build(later, directory=copy)
    gate.wait()
    bench.advance(60)
    gate.open.set()
    bench.settle()
    assert told(bench)["a"][0] == 500
    before = len(bench.replies)
    bench.ask(deny("192.0.2.3", duration=3_600_000), request_id="a")
    assert bench.reply(before + 1).status == 500
    bench.advance(3600)
    bench.settle()
    assert later.reverted.count(key) == 1


@pytest.mark.parametrize("error", [Forbidden("no"), Unavailable("no"), RuntimeError])
def test_what_may_have_taken_effect_and_is_refused_now_is_reverted_at_its_end(build, died, error):
    copy, key = died
    later = Idempotent()

    def refuses(_):
        raise error

    later.on_check = refuses
    bench = build(later, directory=copy)
    bench.settle()
    assert later.executed == []
    assert told(bench)["a"][0] == 500
    bench.advance(3600)
    bench.settle()
    assert later.reverted.count(key) == 1


# -- plugins that break off in the middle


@pytest.mark.parametrize("kind", [Recording, Together])
@pytest.mark.parametrize("how", ["raises", "nothing"])
def test_what_broke_off_may_have_taken_effect_and_is_reverted_at_its_end(build, kind, how):
    door = kind()
    bench = build(door)
    gate = door.behave = Gate()
    bench.ask(deny(), request_id="first")
    gate.wait()

    def breaks(_):
        if how == "raises":
            raise RuntimeError

    door.behave = door.answer = breaks
    for number in range(2):
        bench.ask(deny(duration=1000), request_id=str(number))
    assert bench.consumer.engine.settle(10)
    gate.open.set()
    bench.settle()
    assert told(bench) == {
        "first": (200, ""),
        "0": (500, "internal error"),
        "1": (500, "internal error"),
    }
    bench.advance(1)
    bench.settle()
    assert door.reverted == [c.key for c in door.executed[1:]]


def test_what_took_effect_is_told_as_that_though_the_next_one_gets_stuck(build, idempotent):
    bench = build(idempotent)
    first = idempotent.behave = Gate()
    bench.ask(deny(), request_id="first")
    first.wait()
    bench.ask(deny("192.0.2.2"), request_id="quick")
    bench.ask(deny("192.0.2.3"), request_id="slow")
    assert bench.consumer.engine.settle(10)
    second = Gate()
    idempotent.behave = lambda c: second(c) if str(c.target) == "192.0.2.3" else Response()
    first.open.set()
    second.wait()
    assert bench.consumer.engine.settle(10)
    assert told(bench)["quick"] == (200, "")
    bench.advance(60)
    assert told(bench)["slow"] == (500, "outcome unknown")
    second.open.set()


# -- time goes by


@pytest.mark.req("AMB-24")
@pytest.mark.parametrize("many", [False, True])
def test_a_window_that_closed_behind_slow_company_puts_nothing_in_force(build, many):
    door = Together() if many else Idempotent()
    bench = build(door)
    first = door.behave = Gate()
    bench.ask(deny(), request_id="first")
    first.wait()
    second = Gate()
    door.behave = lambda c: second(c) if str(c.target) == "192.0.2.2" else Response()
    bench.ask(deny("192.0.2.2"), request_id="slow")
    bench.ask(deny("192.0.2.3", duration=1000), request_id="short")
    bench.ask(deny("192.0.2.4"), request_id="lasting")
    assert bench.consumer.engine.settle(10)
    if many:  # in one go: the disk keeps them waiting, after they were checked
        failing = Failing(bench, "started")
        failing.times = FULL
        first.open.set()
        failing.wait(1)
    else:
        first.open.set()
        second.wait()
    bench.turned.turn(2)
    if many:
        failing.times = 0
    second.open.set()
    bench.settle()
    over = (500, "Rule not updated: time window is over")
    assert told(bench) == dict.fromkeys(("first", "slow", "lasting"), (200, "")) | {"short": over}
    assert "192.0.2.3" not in [str(c.target) for c in door.executed]


@pytest.mark.req("AMB-21")
def test_a_clock_that_leapt_before_a_restart_lets_nothing_take_effect_twice(build, door):
    hour = Limits(remember=3600)
    bench = build(door, limits=hour)
    message = bench.message(deny())
    bench.deliver(message)
    bench.settle()
    bench.turned.wall += 10 * DAY
    for seconds in (1, 1800):  # the leap is as old as it is, whoever has died since
        bench.stop()
        bench.turned.turn(seconds)
        later = Recording()
        bench = build(later, directory=bench.directory, clock=bench.turned, limits=hour)
        bench.deliver(again(message, redelivered=True))
        bench.settle()
        assert later.executed == []
        assert told(bench) == {"r-1": (200, "")}
    bench.turned.turn(1801)
    bench.deliver(again(message))
    bench.settle()
    assert len(later.executed) == 1


def test_after_a_reboot_the_clock_is_what_it_is(build, door):
    hour = Limits(remember=3600)
    bench = build(door, limits=hour)
    bench.deliver(message := bench.message(deny()))
    bench.settle()
    bench.stop()
    bench.turned.wall += 10 * DAY
    bench.turned.boot = 1000
    later = Recording()
    bench = build(
        later, directory=bench.directory, clock=bench.turned, boot_id="boot-2", limits=hour
    )
    bench.deliver(again(message))
    bench.settle()
    assert len(later.executed) == 1


# -- who works no more


def test_a_worker_that_ended_is_told_to_the_watchdog(build, door):
    bench = build(door)
    assert all(bench.consumer.alive(5).values())
    bench.consumer._workers["x-door"].stop()
    bench.consumer._workers["x-door"].ended(10)
    assert not all(bench.consumer.alive(5).values())
