"""response_requested, and time windows on clocks that are turned (REQUIREMENTS 2.3, 2.4)."""

from __future__ import annotations

import pytest

from oc2d.actuator import Response
from oc2d.config import Limits, Policy
from oc2d.errors import Failed
from tests.unit.engine.bench import DAY, deny
from tests.unit.engine.plugins import DoorResults, Gate

FUTURE = 3_600_000


def fails(_):
    raise Failed("the bolt is stuck")


@pytest.mark.req("LANG-28", "SLPF-3")
def test_none_is_carried_out_in_silence(bench, door):
    assert bench.silent_to(bench.message(deny(response_requested="none")))
    assert len(door.executed) == 1


@pytest.mark.req("LANG-29", "AMB-16")
def test_ack_is_one_102_before_the_execution_and_nothing_after(build, door):
    door.behave = gate = Gate()
    bench = build(door)
    bench.ask(deny(response_requested="ack"))
    gate.wait()
    assert bench.reply(1).response == {"status": 102}
    gate.open.set()
    bench.settle()
    assert bench.statuses == [102]


@pytest.mark.req("AMB-16")
def test_ack_of_what_cannot_work_is_the_error(build, door):
    door.on_check = fails
    bench = build(door)
    bench.ask(deny(response_requested="ack"))
    bench.settle()
    assert [(r.status, r.text) for r in bench.replies] == [(500, "the bolt is stuck")]
    assert door.executed == []


@pytest.mark.req("AMB-16")
@pytest.mark.parametrize("report", [False, True])
def test_a_failure_after_ack_is_reported_only_where_the_configuration_says_so(build, door, report):
    door.behave = fails
    bench = build(door, policy=Policy(report_after_ack=report))
    bench.ask(deny(response_requested="ack"))
    bench.settle()
    assert bench.statuses == ([102, 500] if report else [102])
    bench.ask(deny(response_requested="ack"))
    bench.settle()
    assert bench.statuses[-1] == (500 if report else 102)
    door.behave = lambda _: Response()
    bench.ask(deny(response_requested="ack"), request_id="2")
    bench.settle()
    assert bench.statuses[-1] == 102


@pytest.mark.req("LANG-31", "LANG-32", "SLPF-4")
@pytest.mark.parametrize("args", [{}, {"response_requested": "complete"}])
def test_complete_and_no_wish_are_one_final_reply(bench, args):
    bench.ask(deny(**args))
    bench.settle()
    assert bench.statuses == [200]


@pytest.mark.req("LANG-31", "LANG-30", "AMB-18")
@pytest.mark.parametrize(("kind", "after"), [("status", 0.2), ("complete", 10)])
def test_what_takes_long_is_told_once_with_102_and_then_finally(build, door, kind, after):
    door.behave = gate = Gate()
    bench = build(door, limits=Limits(interim_after=10))
    bench.ask(deny(response_requested=kind))
    gate.wait()
    bench.advance(after - 0.15)
    assert bench.replies == []
    bench.advance(0.2)
    assert bench.reply(1).response == {"status": 102, "status_text": "in progress"}
    bench.advance(30)
    assert len(bench.replies) == 1
    gate.open.set()
    bench.settle()
    assert bench.statuses == [102, 200]


@pytest.mark.req("LANG-30")
def test_status_of_what_is_quick_is_the_final_reply(bench):
    bench.ask(deny(response_requested="status"))
    bench.settle()
    bench.advance(5)
    assert bench.statuses == [200]


@pytest.mark.req("AMB-25")
def test_what_was_reserved_is_told_though_a_102_went_out_before(build, door):
    door.behave = gate = Gate()
    bench = build(door)
    bench.ask(deny(), request_id="r-slow")
    gate.wait()
    start = bench.turned.wall + FUTURE
    bench.ask(deny(start_time=start, response_requested="status"), request_id="r-later")
    assert bench.consumer.engine.settle(5)
    bench.advance(1)
    assert bench.reply(1).response["status_text"] == "in progress"
    gate.open.set()
    bench.settle()
    told = [r.response for r in bench.replies if r.headers["request_id"] == "r-later"]
    assert [response["status"] for response in told] == [102, 102]
    assert told[1]["results"] == {"x-door": {"number": 7}}


@pytest.mark.req("AMB-25", "LANG-21", "LANG-40")
@pytest.mark.parametrize("kind", ["complete", "status", "ack", "none"])
def test_a_deferred_command_is_reserved_told_and_carried_out_at_its_time(build, door, kind):
    door.behave = lambda command: Response(results=command.reserved)
    bench = build(door)
    start = bench.turned.wall + FUTURE
    bench.ask(deny(start_time=start, response_requested=kind))
    bench.settle()
    reserved = {"x-door": {"number": 7}}
    if kind == "none":
        assert bench.replies == []
    else:
        assert bench.reply(1).response == {
            "status": 102,
            "status_text": "waits for its start time",
            "results": reserved,
        }
    bench.advance(FUTURE / 1000 - 1)
    bench.settle()
    assert door.executed == []
    bench.advance(1)
    bench.settle()
    assert len(door.executed) == 1
    assert door.executed[0].reserved == DoorResults(number=7)
    assert door.executed[0].key == door.reserved[0].key
    if kind in ("complete", "status"):
        assert [bench.statuses, bench.replies[1].response["results"]] == [[102, 200], reserved]
    bench.advance(FUTURE)
    bench.settle()
    assert door.reverted == []
    assert len(bench.replies) == {"complete": 2, "status": 2, "ack": 1, "none": 0}[kind]


def test_a_duplicate_of_a_deferred_command_is_told_that_it_waits(bench, door):
    message = bench.ask(deny(start_time=bench.turned.wall + FUTURE))
    bench.reply(1)
    bench.settle()
    bench.deliver(message)
    assert bench.reply(2).response == bench.replies[0].response
    bench.advance(FUTURE / 1000)
    bench.settle()
    bench.deliver(message)
    bench.settle()
    assert bench.statuses == [102, 102, 200, 200]
    assert len(door.reserved) == len(door.executed) == 1


@pytest.mark.req("AMB-24", "LANG-26")
@pytest.mark.parametrize("kind", ["complete", "ack", "none"])
@pytest.mark.parametrize(
    "times",
    [
        {"stop_time": 5},
        {"start_time": 1_534_775_460_000, "duration": 500},
        {"start_time": 1_534_775_460_000, "stop_time": 1_534_775_460_500},
        {"stop_time": 1_534_775_460_000, "duration": 500},
        {"duration": 0},
        {"start_time": 4_000_000_000_000, "duration": 0},
        {"start_time": 4_000_000_000_000, "stop_time": 4_000_000_000_000},
    ],
)
def test_a_window_that_is_over_puts_nothing_in_force(bench, door, times, kind):
    bench.ask(deny(**times, response_requested=kind))
    bench.settle()
    assert door.executed == door.reserved == []
    expected = {
        "complete": [(500, "Rule not updated: time window is over")],
        "ack": [(102, "")],
        "none": [],
    }
    assert [(r.status, r.text) for r in bench.replies] == expected[kind]


@pytest.mark.req("LANG-22", "LANG-23", "LANG-24", "LANG-27", "LANG-20")
@pytest.mark.parametrize(
    ("times", "begin", "end"),
    [
        (lambda _: {}, 0, None),
        (lambda now: {"start_time": now - DAY}, 0, None),
        (lambda now: {"stop_time": now + 60_000}, 0, 60),
        (lambda _: {"duration": 500}, 0, 0.5),
        (lambda now: {"start_time": now + 10_000, "duration": 5_000}, 10, 15),
        (lambda now: {"start_time": now + 10_000, "stop_time": now + 15_000}, 10, 15),
        (lambda now: {"stop_time": now + 15_000, "duration": 5_000}, 10, 15),
        (lambda now: {"stop_time": now + 15_000, "duration": 60_000}, 0, 15),
    ],
)
def test_a_command_is_in_effect_exactly_in_its_window(bench, door, times, begin, end):
    bench.ask(deny(**times(bench.turned.wall)))
    bench.settle()
    if begin:
        bench.advance(begin - 0.01)
        bench.settle()
        assert door.executed == []
        bench.advance(0.01)
        bench.settle()
    assert len(door.executed) == 1
    if end is None:
        bench.advance(10 * DAY / 1000)
        bench.settle()
        assert door.reverted == []
        return
    bench.advance(end - begin - 0.01)
    bench.settle()
    assert door.reverted == []
    bench.advance(0.01)
    bench.settle()
    assert door.reverted == [door.executed[0].key]
    bench.advance(DAY)
    bench.settle()
    assert len(door.reverted) == len(door.executed) == 1


def test_what_was_refused_has_no_window_to_end(build, door):
    door.behave = fails
    bench = build(door)
    bench.ask(deny(duration=500))
    bench.settle()
    bench.advance(1)
    bench.settle()
    assert door.reverted == []
    assert bench.consumer._journal.timers() == []


@pytest.mark.req("LANG-23")
@pytest.mark.parametrize("step", [DAY, -DAY])
def test_start_and_stop_follow_a_wall_clock_that_is_set_and_a_duration_does_not(bench, door, step):
    now = bench.turned.wall
    bench.ask(deny("192.0.2.1", duration=60_000))
    bench.ask(deny("192.0.2.2", stop_time=now + 60_000), request_id="2")
    bench.ask(deny("192.0.2.3", start_time=now + 60_000), request_id="3")
    bench.settle()
    keys = {str(command.target): command.key for command in door.executed}
    assert len(keys) == 2
    bench.set_wall(step)
    bench.settle()
    if step > 0:
        assert len(door.executed) == 3
        assert door.reverted == [door.executed[1].key]
    else:
        assert (len(door.executed), door.reverted) == (2, [])
    bench.advance(60)
    bench.settle()
    assert door.executed[0].key in door.reverted
    if step < 0:
        assert door.reverted == [door.executed[0].key]
        bench.set_wall(DAY)
        bench.settle()
        assert sorted(door.reverted) == sorted(c.key for c in door.executed[:2])
        assert len(door.executed) == 3


def test_a_revert_that_fails_is_tried_again_until_it_works(build, door):
    door.on_revert = fails
    bench = build(door)
    bench.ask(deny(duration=500))
    bench.settle()
    bench.advance(1)
    bench.settle()
    assert len(door.reverted) == 1
    for _ in range(3):
        bench.advance(10.1)
        bench.settle()
    assert len(door.reverted) == 4
    assert [timer.attempts for timer in bench.consumer._journal.timers()] == [0]
    door.on_revert = lambda _: None
    bench.advance(10.1)
    bench.settle()
    bench.advance(100)
    bench.settle()
    assert len(door.reverted) == 5
    assert bench.consumer._journal.timers() == []
    assert list(bench.consumer._journal.pending()) == []
    assert bench.statuses == [200]
