"""The parts that keep time by themselves, on the clocks of this machine."""

from __future__ import annotations

import time

import pytest

from oc2d.config import Limits
from oc2d.engine.clock import Clock, read_boot_id
from oc2d.engine.limits import Rate
from oc2d.engine.schedule import Scheduler
from oc2d.engine.window import Window, window_of
from oc2d.language.command import Args
from tests.unit.engine.bench import DAY, TurnedClock, deny
from tests.unit.engine.plugins import Gate
from tests.waiting import wait_until


class Real(TurnedClock):
    """The clocks of this machine."""

    def clock(self, boot_id):
        return Clock(boot_id)


@pytest.mark.req("LANG-23")
def test_a_window_of_half_a_second_ends_by_itself(build, door):
    bench = build(door, clock=Real())
    begun = time.monotonic()
    bench.ask(deny(duration=500))
    wait_until(lambda: door.reverted)
    assert 0.5 <= time.monotonic() - begun < 5


@pytest.mark.req("LANG-21")
def test_a_start_time_comes_by_itself(build, door):
    bench = build(door, clock=Real())
    bench.ask(deny(start_time=time.time_ns() // 1_000_000 + 300))
    assert bench.reply(2).status == 200
    assert time.time_ns() // 1_000_000 >= door.executed[0].start_time


def test_an_interim_answer_and_a_stuck_worker_come_by_themselves(build, door):
    gate = door.behave = Gate()
    bench = build(door, clock=Real(), timeout=0.4)
    bench.ask(deny(response_requested="status"))
    assert bench.reply(1).status == 102
    assert bench.reply(2).status == 500
    gate.open.set()


def test_a_timeout_of_a_million_years_stops_nothing(build, door):
    bench = build(door, clock=Real(), timeout=3e13, limits=Limits(interim_after=3e13))
    gate = door.behave = Gate()
    bench.ask(deny("192.0.2.1"))
    gate.wait()
    gate.open.set()
    assert bench.reply(1).status == 200
    bench.ask(deny("192.0.2.2"))
    assert bench.reply(2).status == 200


def test_boot_and_wall_clock_are_read_in_milliseconds():
    clock = Clock(read_boot_id())
    assert abs(clock.wall() - time.time() * 1000) < 5000
    assert abs(clock.boot() - time.clock_gettime(time.CLOCK_BOOTTIME) * 1000) < 5000
    assert len(clock.boot_id) == 36


def test_the_scheduler_calls_what_is_due_in_order_and_after_a_turn_of_the_clock():
    turned = TurnedClock()
    scheduler = Scheduler(turned.clock("b"))
    called = []
    now = turned.wall
    scheduler.at_start(Window(now + 2000), lambda: called.append("start"))
    scheduler.at_stop(Window(None, now + 1000), lambda: called.append("stop"))
    scheduler.at_stop(Window(), lambda: called.append("never"))
    scheduler.after(3, lambda: called.append("after"))
    bare = Window(None, now + 4000, turned.boot + 4000, "b")
    scheduler.at_stop(bare, lambda: called.append("bare"))
    assert scheduler.pending() == 4
    scheduler.start()
    try:
        turned.wall += DAY
        wait_until(lambda: called == ["stop", "start"])
        assert scheduler.pending() == 2
        assert scheduler.alive()
        turned.boot += 5000
        wait_until(lambda: called == ["stop", "start", "after", "bare"])
    finally:
        scheduler.stop()
    assert not scheduler.alive()


def test_a_slewed_clock_does_not_begin_a_window_early():
    turned = TurnedClock()
    scheduler = Scheduler(turned.clock("b"))
    scheduler.at_start(Window(turned.wall + 1000), lambda: None)
    turned.boot += 1000
    turned.wall += 970
    assert scheduler._due() == []
    turned.boot += 30
    turned.wall += 30
    assert len(scheduler._due()) == 1


@pytest.mark.req("LANG-24", "LANG-26", "LANG-20")
@pytest.mark.parametrize(
    ("args", "expected"),
    [
        (None, (None, None)),
        (Args(), (None, None)),
        (Args(start_time=5), (5, None)),
        (Args(stop_time=9), (None, 9)),
        (Args(start_time=5, stop_time=9), (5, 9)),
        (Args(start_time=5, duration=4), (5, 9)),
        (Args(stop_time=9, duration=4), (5, 9)),
    ],
)
def test_any_two_times_give_the_third(args, expected):
    window = window_of(args, TurnedClock().clock("b"))
    assert (window.start, window.stop, window.boot_stop) == (*expected, None)


def test_a_rate_is_exact_and_can_be_taken_back():
    rate = Rate(2)
    assert [rate.take(t) for t in (0, 1, 59.9, 60, 60.5, 61)] == [
        True,
        True,
        False,
        True,
        False,
        True,
    ]
    mark = rate.total
    assert rate.take(121)
    rate.back_to(mark)
    assert rate.take(121)
    assert rate.take(121)
    assert not rate.take(121)
