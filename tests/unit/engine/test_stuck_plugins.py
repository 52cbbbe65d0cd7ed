"""Plugins that do not come back (DESIGN 5)."""

from __future__ import annotations

import sys
import time

import pytest

from oc2d.actuator import Response
from tests.unit.engine.bench import again, deny, dies, features
from tests.unit.engine.plugins import Gate, Idempotent, Recording, Window


def stuck(bench, gate, door):
    """Get the worker stuck on one command, with two waiting."""
    door.behave = gate
    bench.ask(deny("192.0.2.1"), request_id="runs")
    gate.wait()
    bench.ask(deny("192.0.2.2"), request_id="waits")
    bench.ask(deny("192.0.2.3", duration=60_000), request_id="waits too")
    bench.ask(deny("192.0.2.4", start_time=bench.turned.wall + 5000), request_id="deferred")
    assert bench.consumer.engine.settle(10)
    bench.advance(60)


@pytest.mark.parametrize("kind", [Recording, Idempotent])
def test_a_worker_past_its_timeout_is_stuck_and_the_others_go_on(build, kind):
    door, window, gate = kind(), Window(), Gate()
    bench = build(door, window, timeout=60.0)
    stuck(bench, gate, door)
    bench.reply(4)
    told = {r.headers["request_id"]: (r.status, r.text) for r in bench.replies}
    assert told == {
        "runs": (500, "outcome unknown"),
        "waits": (503, "x-door does not answer"),
        "waits too": (503, "x-door does not answer"),
        "deferred": (503, "x-door does not answer"),
    }
    assert bench.answered(deny(), request_id="new").status == 503
    assert bench.answered({**deny(), "actuator": {"x-window": {}}}, request_id="w").status == 200
    assert bench.answered(features(), request_id="f").status == 200
    state = bench.consumer.snapshot()["actuators"]
    assert (state["x-door"]["state"], state["x-window"]["state"]) == ("stuck", "running")
    gate.open.set()
    bench.settle()
    assert bench.consumer.snapshot()["actuators"]["x-door"]["state"] == "running"
    assert [str(command.target) for command in door.executed] == ["192.0.2.1"]
    assert door.reserved == []
    assert len(bench.replies) == 7
    assert bench.answered(deny("192.0.2.2"), request_id="waits").status == 200
    assert bench.answered(deny("192.0.2.1"), request_id="runs").text == "outcome unknown"
    assert len(door.executed) == 2


@pytest.mark.parametrize("where", ["on_check", "on_reserve"])
def test_a_worker_may_get_stuck_before_it_executes(build, door, where):
    gate = Gate()
    setattr(door, where, gate)
    bench = build(door)
    bench.ask(deny(start_time=bench.turned.wall + 5000))
    gate.wait()
    bench.advance(60)
    assert bench.reply(1).status == 503
    gate.open.set()
    bench.settle()
    assert bench.statuses == [503]
    assert door.executed == []
    assert len(door.reverted) == 1
    bench.answered(features(), request_id=None)
    assert bench.consumer._journal.remembered == 0


@pytest.mark.req("AMB-25")
def test_what_a_stuck_worker_has_reserved_is_given_back_after_a_death(build):
    first = Idempotent()
    gate = first.on_reserve = Gate()
    bench = build(first)
    message = bench.message(deny(start_time=bench.turned.wall + 5000))
    bench.deliver(message)
    gate.wait()
    bench.advance(60)
    assert bench.reply(1).status == 503
    after = dies(bench, build, later := Idempotent())
    assert later.ended == {first.reserved[0].key}
    after.poke()
    after.settle()
    assert later.reverted == [first.reserved[0].key]
    assert list(after.consumer._journal.pending()) == []
    after.deliver(again(message))
    after.settle()
    assert after.statuses[-1] == 200
    assert later.executed[0].key != first.reserved[0].key
    gate.open.set()


def test_a_redelivery_without_an_id_is_new_though_something_is_to_be_given_back(build, door):
    gate = door.on_reserve = Gate()
    bench = build(door)
    message = bench.message(deny(start_time=bench.turned.wall + 5000), request_id=None)
    bench.deliver(message)
    gate.wait()
    bench.advance(60)
    assert bench.reply(1).status == 503
    gate.open.set()
    bench.settle()
    bench.deliver(again(message, redelivered=True))
    bench.settle()
    assert bench.statuses == [503, 200]


def test_a_deferred_command_whose_time_comes_while_the_worker_is_stuck_is_answered_503(build, door):
    bench = build(door)
    for seconds in (30, 90):
        start = bench.turned.wall + seconds * 1000
        bench.ask(deny("192.0.2.9", start_time=start), request_id=str(seconds))
    bench.reply(2)
    bench.settle()
    gate = door.behave = Gate()
    bench.ask(deny(), request_id="runs")
    gate.wait()
    bench.advance(60)
    bench.advance(60)
    last = {reply.headers["request_id"]: reply for reply in bench.replies}
    assert last["runs"].text == "outcome unknown"
    for seconds in ("30", "90"):
        assert (last[seconds].status, last[seconds].text) == (503, "x-door does not answer")
    gate.open.set()
    bench.settle()
    assert len(door.executed) == 1


def test_a_deferred_command_outlives_a_stuck_worker(build, door):
    bench = build(door)
    bench.ask(deny("192.0.2.9", start_time=bench.turned.wall + 90_000), request_id="deferred")
    bench.reply(1)
    bench.settle()
    gate = door.behave = Gate()
    bench.ask(deny(), request_id="runs")
    gate.wait()
    bench.advance(60)
    assert bench.reply(2).text == "outcome unknown"
    gate.open.set()
    bench.settle()
    bench.advance(60)
    bench.settle()
    assert [r.headers["request_id"] for r in bench.replies] == ["deferred", "runs", "deferred"]
    assert bench.statuses == [102, 500, 200]


def test_the_window_of_a_command_that_got_stuck_is_ended_all_the_same(build, door):
    bench = build(door)
    gate = door.behave = Gate()
    bench.ask(deny(duration=90_000))
    gate.wait()
    bench.advance(60)
    assert bench.reply(1).text == "outcome unknown"
    gate.open.set()
    bench.settle()
    bench.advance(30)
    bench.settle()
    assert door.reverted == [door.executed[0].key]


def test_what_a_batch_was_given_up_for_is_not_executed_afterwards(build, idempotent):
    bench = build(idempotent)
    gate = idempotent.behave = Gate()
    bench.ask(deny(), request_id="first")
    gate.wait()
    bench.deliver(*(bench.message(deny(), request_id=str(number)) for number in range(3)))
    assert bench.consumer.engine.settle(10)
    second = idempotent.behave = Gate()
    gate.open.set()
    second.wait()  # the first of a batch of three
    bench.advance(60)
    assert [bench.reply(n).status for n in range(1, 5)] == [200, 500, 500, 500]
    second.open.set()
    bench.settle()
    assert len(idempotent.executed) == 2


def test_each_command_of_a_batch_has_its_own_time(build, idempotent):
    bench = build(idempotent)
    gate = idempotent.behave = Gate()
    bench.ask(deny(), request_id="first")
    gate.wait()

    def slow(_):
        bench.turned.monotonic += 50
        assert bench.consumer.engine.settle(10)
        return Response()

    bench.deliver(*(bench.message(deny(), request_id=str(number)) for number in range(5)))
    idempotent.behave = slow
    assert bench.consumer.engine.settle(10)
    gate.open.set()
    bench.settle()
    assert bench.statuses.count(200) == 6
    assert bench.consumer.engine.stuck == set()


def test_a_revert_that_blocks_makes_new_commands_503(build, door):
    bench = build(door)
    door.on_revert = gate = Gate()
    bench.ask(deny(duration=1000))
    bench.settle()
    bench.advance(1)
    gate.wait()
    bench.advance(60)
    assert bench.answered(deny(), request_id="2").status == 503
    gate.open.set()
    bench.settle()
    assert bench.answered(deny(), request_id="2").status == 200
    assert len(door.reverted) == 1


def test_a_stop_behind_waiting_jobs_still_stops_the_actuator(build, door):
    bench = build(door)
    gate = door.behave = Gate()
    for number in range(10):
        bench.ask(deny(), request_id=str(number))
    gate.wait()
    bench.consumer._workers["x-door"]._stopping.set()
    gate.open.set()
    bench.consumer.quiesce()
    assert door.calls.count("stop") == 1
    assert len(door.executed) == 1
    assert bench.statuses == [200]


def test_a_stuck_worker_does_not_hold_up_the_end(build, door, monkeypatch):
    monkeypatch.setattr("oc2d.engine.consumer._WORKER_STOP", 0.5)
    window = Window()
    bench = build(door, window)
    gate = door.behave = Gate()
    bench.ask({**deny(), "actuator": {"x-door": {}}})
    gate.wait()
    bench.ask({**deny(), "actuator": {"x-window": {}}}, request_id="2")
    bench.ask({**deny(), "actuator": {"x-door": {}}}, request_id="3")
    bench.reply(1)
    begun = time.monotonic()
    bench.consumer.quiesce()
    bench.consumer.close()
    assert time.monotonic() - begun < 3
    assert window.calls[-1] == "stop"
    after = build(later := Recording(), window, directory=bench.dead_copy("next"))
    gate.open.set()
    after.reply(2)
    after.settle()
    told = {r.headers["request_id"]: r.text for r in after.replies}
    assert told["r-1"] == "outcome unknown"
    assert told["3"] == ""
    assert len(later.executed) == 1


def test_the_stop_times_of_the_parts_add_up_to_ten_seconds():
    consumer = sys.modules["oc2d.engine.consumer"]
    assert consumer._WORKER_STOP + 2 * consumer._ENGINE_STOP <= 10
