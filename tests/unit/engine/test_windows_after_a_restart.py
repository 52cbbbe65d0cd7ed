"""Deferred commands, windows and reverts of a Consumer that died (DESIGN 4)."""

from __future__ import annotations

import sqlite3
from contextlib import closing

import pytest

from oc2d.actuator import Response
from oc2d.errors import Failed
from tests.unit.engine.bench import DAY, deny, dies
from tests.unit.engine.plugins import DoorResults, Gate, Idempotent, Recording, Window

FUTURE = 3_600_000


@pytest.mark.req("AMB-25")
def test_a_deferred_command_waits_on_after_a_restart(build, door):
    bench = build(door)
    bench.ask(deny(start_time=bench.turned.wall + FUTURE))
    bench.reply(1)
    bench.settle()
    later = Recording()
    later.behave = lambda command: Response(results=command.reserved)
    after = dies(bench, build, later)
    after.settle()
    assert later.executed == later.reserved == []
    sent = len(after.broker.sent)
    after.advance(FUTURE / 1000)
    after.settle()
    assert later.executed[0].reserved == DoorResults(number=7)
    assert later.executed[0].key == door.reserved[0].key
    assert after.replies[sent].response == {
        "status": 200,
        "results": {"x-door": {"number": 7}},
    }
    assert after.consumer._journal.timers() == []


@pytest.mark.req("AMB-25")
@pytest.mark.parametrize("killed", [False, True])
def test_a_deferred_command_that_is_refused_at_its_start_gives_back_what_it_reserved(
    build, door, killed
):
    door.behave = fails
    gate = door.on_revert = Gate()
    bench = build(door)
    bench.ask(deny(start_time=bench.turned.wall + FUTURE))
    bench.reply(1)
    bench.settle()
    bench.advance(FUTURE / 1000)
    gate.wait()
    assert bench.reply(2).status == 500
    if killed:
        bench = dies(bench, build, door := Recording())
        bench.settle()
        assert door.ended
    gate.open.set()
    bench.settle()
    assert door.reverted == [bench.consumer._journal.epoch + door.reverted[0][12:]]
    assert list(bench.consumer._journal.pending()) == []
    assert bench.consumer._journal.timers() == []


@pytest.mark.req("AMB-25")
@pytest.mark.parametrize("kind", [Recording, Idempotent])
def test_a_deferred_command_whose_actuator_gets_stuck_after_a_restart_may_be_sent_again(
    build, kind
):
    bench = build(first := kind())
    bench.ask(deny("192.0.2.9", start_time=bench.turned.wall + 90_000), request_id="deferred")
    bench.reply(1)
    bench.settle()
    after = dies(bench, build, later := kind())
    gate = later.behave = Gate()
    after.ask(deny(), request_id="runs")
    gate.wait()
    after.advance(60)
    after.advance(60)
    told = {reply.headers["request_id"]: reply.status for reply in after.replies}
    gate.open.set()
    after.settle()
    assert told["deferred"] == 503
    assert later.reverted == [first.reserved[0].key]


@pytest.mark.req("AMB-25")
@pytest.mark.parametrize("kind", [Recording, Idempotent])
def test_what_was_reserved_is_given_back_though_its_actuator_was_away_meanwhile(build, kind):
    bench = build(first := kind())
    bench.ask(deny(start_time=bench.turned.wall + FUTURE))
    bench.reply(1)
    bench.settle()
    away = dies(bench, build, Window())
    away.settle()
    assert away.statuses[-1] == 500
    back = dies(away, build, later := kind(), name="dead again")
    back.settle()
    assert later.reverted == [first.reserved[0].key]
    assert list(back.consumer._journal.pending()) == []


def test_what_is_refused_before_it_is_reserved_gives_nothing_back(build, door):
    door.on_reserve = fails
    bench = build(door)
    bench.ask(deny(start_time=bench.turned.wall + FUTURE))
    assert bench.reply(1).status == 500
    bench.settle()
    assert door.reverted == []


def test_a_deferred_command_whose_time_came_while_nobody_was_there_runs_at_once(build, door):
    bench = build(door)
    bench.ask(deny(start_time=bench.turned.wall + FUTURE))
    bench.reply(1)
    bench.settle()
    copy = bench.dead_copy("dead")
    bench.advance(FUTURE / 1000 + 5)
    bench.settle()
    after = build(later := Recording(), directory=copy, clock=bench.turned)
    after.settle()
    assert len(later.executed) == 1
    assert after.statuses[-1] == 200


@pytest.mark.req("SLPF-19")
def test_windows_are_armed_again_after_a_restart(build, door):
    bench = build(door)
    bench.ask(deny(duration=60_000))
    bench.settle()
    (command,) = door.executed
    after = dies(bench, build, later := Recording())
    after.settle()
    assert (later.ended, later.reverted) == (frozenset(), [])
    after.advance(59.9)
    after.settle()
    assert later.reverted == []
    after.advance(0.1)
    after.settle()
    assert later.reverted == [command.key]
    assert list(after.consumer._journal.pending()) == []


@pytest.mark.req("SLPF-19")
def test_a_window_that_closed_meanwhile_does_not_come_back(build, door):
    bench = build(door)
    bench.ask(deny(duration=60_000))
    bench.ask(deny(duration=9_000_000), request_id="2")
    bench.settle()
    over = door.executed[0].key
    copy = bench.dead_copy("dead")
    bench.advance(61)
    bench.settle()
    after = build(later := Recording(), directory=copy, clock=bench.turned)
    after.settle()
    assert later.calls[0] == "restore"
    assert later.ended == {over}
    after.poke()
    after.settle()
    assert later.reverted == [over]


@pytest.mark.req("LANG-23")
@pytest.mark.parametrize("boot_id", ["boot-1", "boot-2"])
def test_the_rest_of_a_duration_is_taken_from_the_wall_clock_after_a_reboot_only(
    build, door, boot_id
):
    bench = build(door)
    bench.ask(deny(duration=60_000))
    bench.settle()
    bench.turned.wall += DAY
    if boot_id == "boot-2":
        bench.turned.wall -= DAY - 20_000
        bench.turned.boot = 1000
    after = dies(bench, build, later := Recording(), boot_id=boot_id)
    after.settle()
    rest = 40 if boot_id == "boot-2" else 60
    after.advance(rest - 0.1)
    after.settle()
    assert later.reverted == []
    after.advance(0.1)
    after.settle()
    assert len(later.reverted) == 1


def test_a_command_that_may_have_taken_effect_is_reverted_at_the_end_of_its_window(build, door):
    door.behave = gate = Gate()
    bench = build(door)
    bench.ask(deny(duration=60_000))
    gate.wait()
    after = dies(bench, build, later := Recording(), name="unknown")
    assert (after.reply(1).status, after.reply(1).text) == (500, "outcome unknown")
    after.advance(60)
    after.settle()
    assert later.reverted == [door.executed[0].key]
    gate.open.set()


@pytest.mark.parametrize("kind", [Recording, Idempotent])
def test_what_was_running_and_is_over_by_now_is_not_restored_and_reverted(build, kind):
    first = kind()
    first.behave = gate = Gate()
    bench = build(first)
    bench.ask(deny(duration=60_000))
    gate.wait()
    copy = bench.dead_copy("dead")
    is_over(bench, build, first, kind(), copy)


def is_over(bench, build, first, later, copy):
    """A minute later `later` starts from the copy: what `first` was at is reverted, no more."""
    bench.turned.boot += 61_000
    bench.turned.wall += 61_000
    after = build(later, directory=copy, clock=bench.turned)
    first.behave.open.set()
    assert after.reply(1).status == 500
    after.settle()
    after.poke()
    after.settle()
    assert later.ended == {first.executed[0].key}
    assert later.reverted == [first.executed[0].key]
    assert later.executed == []
    assert list(after.consumer._journal.pending()) == []


def forget_started(copy):
    """As a power loss does: STARTED of an idempotent actuator is not synced."""
    with closing(sqlite3.connect(copy / "journal.db")) as database:
        database.execute("UPDATE requests SET phase = 0, attempts = 0 WHERE phase = 1")
        database.commit()


def test_what_may_have_run_before_a_power_loss_and_is_over_by_now_is_reverted(build):
    first = Idempotent()
    first.behave = gate = Gate()
    bench = build(first)
    bench.ask(deny(duration=60_000))
    gate.wait()
    copy = bench.dead_copy("dead")
    forget_started(copy)
    is_over(bench, build, first, Idempotent(), copy)


def test_what_may_have_run_before_a_power_loss_ends_though_its_actuator_was_away_meanwhile(build):
    first = Idempotent()
    first.behave = gate = Gate()
    bench = build(first)
    bench.ask(deny(duration=60_000))
    gate.wait()
    copy = bench.dead_copy("dead")
    gate.open.set()
    forget_started(copy)
    without = build(Window(), directory=copy, clock=bench.turned)
    assert without.reply(1).status == 500
    without.stop()
    later = Idempotent()
    after = build(later, directory=copy, clock=bench.turned)
    assert later.ended == set()
    after.advance(60)
    after.settle()
    assert later.reverted == [first.executed[0].key]


@pytest.mark.parametrize("forgotten", [True, False])
def test_what_may_have_run_and_is_over_when_its_turn_comes_is_reverted(build, forgotten):
    first = Idempotent()
    first.behave = gate = Gate()
    bench = build(first)
    bench.ask(deny("192.0.2.1"))
    bench.ask(deny("192.0.2.2", duration=60_000), request_id="2")
    gate.wait()
    gate.open.set()
    bench.reply(2)
    copy = bench.dead_copy("dead")
    with closing(sqlite3.connect(copy / "journal.db")) as database:
        database.execute(
            "UPDATE requests SET phase = 1, attempts = 1, response = NULL, origin ="
            " coalesce(origin, (SELECT origin FROM requests WHERE origin IS NOT NULL))"
        )
        database.execute("DELETE FROM timers")
        database.execute("DELETE FROM outbox")
        database.commit()
    if forgotten:
        forget_started(copy)
    later = Idempotent()
    later.on_check = again = Gate()
    after = build(later, directory=copy, clock=bench.turned)
    again.wait()
    after.turned.boot += 61_000
    after.turned.wall += 61_000
    again.open.set()
    after.reply(2)
    after.settle()
    after.poke()
    after.settle()
    assert later.executed == []
    assert len(later.reverted) == 2
    assert list(after.consumer._journal.pending()) == []


def fails(_):
    raise Failed("no")


def over_and_not_reverted(build, door):
    door.on_revert = fails
    bench = build(door)
    bench.ask(deny(duration=1000))
    bench.settle()
    bench.advance(2)
    bench.settle()
    return bench


def test_a_failing_revert_is_not_taken_for_a_death(build, door):
    bench = over_and_not_reverted(build, door)
    for turn in range(4):
        later = Recording()
        later.on_revert = fails
        bench = dies(bench, build, later, name=f"turn-{turn}")
        bench.poke()
        bench.settle()
        assert later.reverted, turn


def test_a_revert_that_ran_at_two_deaths_is_left_but_its_rule_does_not_come_back(build, door):
    bench = over_and_not_reverted(build, door)
    gates = [Gate(), Gate()]
    for turn, gate in enumerate(gates):
        later = Recording()
        later.on_revert = gate
        bench = dies(bench, build, later, name=f"turn-{turn}")
        gate.wait()
    bench = dies(bench, build, last := Recording(), name="last")
    bench.poke()
    bench.settle()
    assert last.ended == {door.executed[0].key}
    assert last.reverted == []
    for gate in gates:
        gate.open.set()


def test_a_window_outlives_the_absence_of_its_actuator(build, door):
    bench = build(door)
    bench.ask(deny(duration=60_000))
    bench.settle()
    without = dies(bench, build, name="without")
    without.advance(61)
    back = dies(without, build, later := Recording(), name="back")
    back.settle()
    assert later.ended == {door.executed[0].key}
    back.poke()
    back.settle()
    assert later.reverted == [door.executed[0].key]
