"""Memory and patience have bounds, whatever is sent and however long nobody takes the answers."""

from __future__ import annotations

import sqlite3
from contextlib import closing

import pytest

from oc2d.config import Limits
from oc2d.engine.answers import Handles
from tests.unit.engine.bench import DAY, again, deny, features
from tests.unit.engine.plugins import Gate, Together


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr("oc2d.engine.engine._PATIENCE", 0.01)


class Unwritable:
    """A method of the journal that fails for what is written, not for the disk."""

    def __init__(self, bench, method, error, wanted):
        self.method = getattr(bench.consumer._journal, method)
        self.error, self.wanted, self.failed = error, wanted, 0
        setattr(bench.consumer._journal, method, self)

    def __call__(self, *args, **options):
        if any(self.wanted in repr(value) for value in args):
            self.failed += 1
            raise self.error
        return self.method(*args, **options)


@pytest.mark.req("MQTT-54", "LANG-44")
@pytest.mark.parametrize("together", [True, False])
@pytest.mark.parametrize(
    "error",
    [OverflowError("too large"), sqlite3.InterfaceError("no such type"), KeyError("a fault")],
)
def test_a_delivery_that_cannot_be_written_down_is_acknowledged_and_holds_nothing_up(
    build, door, error, together
):
    bench = build(door)
    unwritable = Unwritable(bench, "add", error, "192.0.2.66")
    messages = [
        bench.message(deny(address), request_id=address)
        for address in ("192.0.2.1", "192.0.2.66", "192.0.2.2", "192.0.2.66/31", "192.0.2.3")
    ]
    if together:
        bench.deliver(*messages)
    else:
        for message in messages:
            bench.deliver(message)
    bench.settle()
    assert unwritable.failed == 2
    assert bench.broker.acknowledged == [message.token for message in messages]
    assert [str(command.target) for command in door.executed] == [f"192.0.2.{n}" for n in (1, 2, 3)]
    assert bench.statuses == [200, 200, 200]
    # and one that comes under the same packet identifier is judged anew
    bench.deliver(again(messages[0], token=messages[1].token))
    bench.settle()
    assert bench.statuses == [200] * 4


def test_deliveries_wait_while_the_answers_on_their_way_take_too_much_memory():
    handles = Handles({1: 156 << 20})
    assert not handles.scarce(0)
    handle = handles.take(5 << 20)
    assert handles.scarce(0)
    handles.give_back(handle)
    handles.give_back(handle)
    assert not handles.scarce(0)
    assert len(handles) == 1


@pytest.mark.req("LANG-22", "LANG-23")
def test_too_many_open_windows_are_answered_503(build, door, monkeypatch):
    monkeypatch.setattr("oc2d.engine.intake._MOST_WINDOWS", 3)
    bench = build(door)
    for number in range(5):
        bench.answered(deny(duration=60_000), request_id=str(number))
        bench.settle()
    assert bench.statuses == [200, 200, 200, 503, 503]
    assert bench.replies[-1].text == "too many time windows are open"
    assert bench.answered(deny(), request_id="no window").status == 200
    bench.advance(61)
    bench.settle()
    assert bench.answered(deny(duration=60_000), request_id="later").status == 200


@pytest.mark.req("LANG-44")
def test_a_refusal_that_quotes_a_long_name_is_cut(bench):
    name = "x" * 100_000
    reply = bench.answered({"action": "deny", "target": {f"x-door:{name}": {}}})
    assert reply.status == 400
    assert len(reply.text) <= 1000
    assert bench.answered(deny(**{name: 1}), request_id="2").status == 501
    assert len(bench.replies[-1].text) <= 1000


@pytest.mark.req("AMB-21")
def test_questions_that_change_nothing_do_not_fill_the_memory(build, door):
    bench = build(door, limits=Limits(remember_count=5))
    for number in range(20):
        assert bench.answered(features("pairs"), request_id=str(number)).status == 200
    assert bench.answered(deny(), request_id="deny").status == 200


def test_after_a_death_only_what_was_running_runs_alone(build):
    actuator = Together()
    gate = actuator.behave = Gate()
    bench = build(actuator)
    bench.ask(deny("192.0.2.0"), request_id="0")
    gate.wait()
    bench.deliver(*(bench.message(deny(f"192.0.2.{n}"), request_id=str(n)) for n in range(1, 30)))
    assert bench.consumer.engine.settle(10)
    later = Together()
    after = build(later, directory=bench.dead_copy("dead"), clock=bench.turned)
    gate.open.set()
    after.settle()
    assert [str(command.target) for command in later.executed] == [
        f"192.0.2.{n}" for n in range(30)
    ]
    assert max(later.batches) > 1


@pytest.mark.parametrize(
    ("limits", "taken", "others"),
    [
        (Limits(queue=4), 2, "soc"),
        (Limits(queue=10, queue_per_producer=6), 3, "soc"),
        (Limits(queue=6, queue_per_producer=3), 1, "noc"),
    ],
)
def test_commands_that_wait_for_years_leave_room_for_others(build, door, limits, taken, others):
    """Half of the queue: else nothing would be taken before they start, whoever deletes them."""
    bench = build(door, limits=limits)
    years = 3650 * DAY
    far = bench.turned.wall + years
    asked = [
        bench.answered(deny(start_time=far), request_id=f"d{number}").status
        for number in range(taken + 2)
    ]
    assert asked == [102] * taken + [503] * 2
    for number in range(limits.queue):
        assert bench.answered(deny(), request_id=f"n{number}", sender=others).status == 200
    bench.settle()
    bench.set_wall(years)
    bench.settle()
    assert len(door.executed) == taken + limits.queue
    soon = bench.turned.wall + 5000
    assert bench.answered(deny(start_time=soon), request_id="later").status == 102


def test_large_commands_that_wait_leave_room_for_others(build, door, monkeypatch):
    monkeypatch.setattr("oc2d.engine.intake._MOST_HELD", 4000)
    bench = build(door, limits=Limits(payload=1000))
    far = bench.turned.wall + DAY
    large = {**deny(start_time=far), "command_id": "x"}
    size = len(bench.message(large, request_id="0" * 400).payload)
    asked = [
        bench.answered(large, request_id=str(number) * 400).status
        for number in range(2000 // size + 1)
    ]
    assert asked == [102] * (2000 // size) + [503]
    assert bench.answered(deny(), request_id="n" * 400).status == 200


def test_correlation_data_count_as_what_they_are(build, door, monkeypatch):
    """64 KiB of them with thousands of short commands took more memory than the unit gives."""
    monkeypatch.setattr("oc2d.engine.intake._MOST_HELD", 4000)
    door.behave = gate = Gate()
    bench = build(door, limits=Limits(payload=1000))
    for number in range(3):
        bench.ask(deny(), request_id=str(number), correlation=bytes(1500))
    assert (bench.reply(1).headers["request_id"], bench.reply(1).status) == ("2", 503)
    assert bench.consumer._cases.open.held > 3000
    gate.open.set()
    bench.reply(3)
    bench.settle()
    assert bench.consumer._cases.open.held == 0
    assert bench.consumer.answers._handles._held > 3 * 1500
    assert len(bench.broker.sent) == 3


def test_a_revert_is_counted_before_it_begins_whatever_was_noted_of_its_command(build):
    actuator = Together()
    bench = build(actuator)
    assert bench.answered(deny(duration=5000)).status == 200
    gate = actuator.on_revert = Gate()
    bench.clock.turn(6)
    bench.consumer.look_at_the_clock()
    gate.wait()
    with closing(sqlite3.connect(bench.dead_copy("dead") / "journal.db")) as journal:
        assert journal.execute("SELECT attempts FROM timers WHERE revert").fetchall() == [(1,)]
    gate.open.set()
