"""What may have taken effect: in an earlier process, in plugins that broke off, as time leapt."""

from __future__ import annotations

import pytest

from oc2d.actuator import Response
from oc2d.config import Limits
from oc2d.engine.clock import Clock, Forgetting
from oc2d.engine.journal import Journal
from oc2d.errors import Forbidden, Unavailable
from tests.unit.engine.bench import DAY, FULL, Failing, again, deny, told
from tests.unit.engine.plugins import Gate, Idempotent, Recording, Together

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


def test_what_may_have_taken_effect_and_cannot_be_begun_now_is_reverted_at_its_end(
    build, died, monkeypatch
):
    copy, key = died

    def fails(*_):
        raise ValueError

    with monkeypatch.context() as broken:
        broken.setattr(Journal, "started", fails)
        later = Idempotent()
        bench = build(later, directory=copy)
        bench.settle()
        assert later.executed == []
        assert told(bench)["a"][0] == 500
    bench.advance(3600)
    bench.settle()
    assert later.reverted.count(key) == 1


def test_what_may_have_taken_effect_and_cannot_be_reserved_now_is_reverted_at_its_end(build):
    first = Idempotent()
    bench = build(first)
    gate = first.behave = Gate()
    bench.ask(deny(start_time=bench.turned.wall, duration=3_600_000), request_id="a")
    gate.wait()
    copy = bench.dead_copy("dead")
    gate.open.set()
    bench.turned.wall -= 60_000  # so it seems to begin later
    later = Idempotent()

    def refuses(_):
        raise Forbidden("no")

    later.on_reserve = refuses
    after = build(later, directory=copy, clock=bench.turned)
    after.settle()
    assert told(after)["a"] == (500, "no")
    after.advance(3660)
    after.settle()
    assert later.reverted == [first.executed[0].key]


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


def test_a_refusal_in_the_middle_of_many_does_not_say_which_took_effect(build):
    door = Together()
    bench = build(door)
    gate = door.behave = Gate()
    bench.ask(deny(), request_id="first")
    gate.wait()

    def refuses(_):
        raise Forbidden("no more")

    door.answer = refuses
    for number in range(2):
        bench.ask(deny(duration=1000), request_id=str(number))
    assert bench.consumer.engine.settle(10)
    gate.open.set()
    bench.settle()
    assert told(bench) == {"first": (200, ""), "0": (500, "no more"), "1": (500, "no more")}
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


@pytest.mark.req("AMB-21")
def test_a_leap_is_no_older_than_it_is_however_long_after_a_restart_it_comes(build, door):
    hour = Limits(remember=3600)
    bench = build(door, limits=hour)
    bench.turned.wall += 500  # half a second is no leap
    bench.answered(deny(), request_id="before")
    bench.settle()
    bench.stop()
    later = Recording()
    bench = build(later, directory=bench.directory, clock=bench.turned, limits=hour)
    bench.answered(deny(), request_id="after")
    bench.turned.turn(3500)
    message = bench.message(deny())
    bench.deliver(message)
    bench.settle()
    bench.turned.wall += 10 * DAY
    bench.turned.turn(200)
    bench.deliver(again(message, redelivered=True))
    bench.settle()
    assert len(later.executed) == 2


def test_what_is_noted_of_the_clocks_is_the_same_as_long_as_they_go_alike():
    """They are read one after the other, each cut off to milliseconds."""
    microseconds = 1_000_000_000
    clock = Clock(
        "boot-1",
        wall=lambda: (microseconds + 7_000_600) // 1000,
        boot=lambda: microseconds // 1000,
    )
    forgetting = Forgetting(clock, 3600)
    noted = set()
    for _ in range(100):
        microseconds += 313
        forgetting.now()
        noted.add(forgetting.note())
    assert len(noted) == 1


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
