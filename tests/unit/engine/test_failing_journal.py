"""What happens when the disk says no, for a moment or for long."""

from __future__ import annotations

import sqlite3
import time
from contextlib import closing

import pytest
import structlog

from oc2d.config import Limits
from oc2d.engine.journal import Journal
from oc2d.errors import StateError
from oc2d.hookspecs import hookimpl
from tests.unit.engine.bench import Failing, deny, features
from tests.unit.engine.plugins import Gate, Together
from tests.waiting import wait_until


@pytest.mark.req("MQTT-54")
@pytest.mark.parametrize("method", ["commit", "begin", "add", "post", "known"])
@pytest.mark.parametrize("times", [1, 3])
def test_a_disk_that_says_no_is_asked_again_and_nothing_happens_before(build, door, method, times):
    bench = build(door, limits=Limits(rate_per_minute=4, queue=4))
    failing = Failing(bench, method)
    with structlog.testing.capture_logs() as logs:
        failing.times = times
        bench.deliver(*(bench.message(deny(), request_id=str(n)) for n in range(3)))
        bench.deliver(bench.message(features(), request_id="f"), bench.raw(b"{"))
        bench.settle()
    assert failing.failed == times
    names = [entry["event"] for entry in logs]
    assert names.count("journal_failed") == names.count("journal_recovered") >= 1
    assert bench.consumer.engine.journal_error is None
    assert sorted(bench.statuses) == [200, 200, 200, 200, 400]
    assert len(bench.broker.acknowledged) == 5
    assert [token.packet_id for token in bench.broker.acknowledged] == [1, 2, 3, 4, 5]
    assert len(door.executed) == 3
    handles = [out.handle for out in bench.broker.sent]
    assert len(set(handles)) == 5
    bench.advance(2)
    bench.settle()
    bench.advance(2)
    bench.settle()
    assert len(bench.consumer._journal.outbox()) == 0
    assert bench.answered(deny(), request_id="over").status == 503


def test_what_waits_for_the_disk_is_not_judged_anew_each_time(build, door):
    asked = []

    class Counting:
        @hookimpl
        def oc2d_authorise(self, request):
            asked.append(request.request_id)

    bench = build(door, hooks=Counting())
    failing = Failing(bench)
    failing.times = 20
    bench.deliver(*(bench.message(deny(), request_id=str(n)) for n in range(3)))
    bench.settle()
    assert failing.failed == 20
    assert bench.statuses == [200, 200, 200]
    assert len(asked) <= 6


@pytest.mark.parametrize(
    "method", ["started", "finish", "arm", "disarm", "sent", "reoriginate", "reverting", "respond"]
)
def test_a_disk_that_says_no_at_any_later_moment_changes_nothing(build, door, method):
    bench = build(door)
    failing = Failing(bench, method)
    failing.times = 2
    bench.ask(deny(start_time=bench.turned.wall + 1000, duration=1000))
    bench.reply(1)
    bench.settle()
    bench.advance(1)
    bench.settle()
    bench.advance(1)
    bench.settle()
    bench.advance(2)
    bench.settle()
    bench.advance(2)
    bench.settle()
    assert failing.failed == 2
    assert bench.statuses == [102, 200]
    assert len(door.executed) == len(door.reverted) == len(door.reserved) == 1
    assert bench.consumer._journal.outbox() == []
    assert list(bench.consumer._journal.pending()) == []
    assert len(bench.consumer.engine._handles) == 0


def test_a_real_full_disk_is_survived(build, door):
    bench = build(door)
    database = bench.consumer._journal._db
    (pages,) = database.execute("PRAGMA page_count").fetchone()
    database.execute(f"PRAGMA max_page_count = {pages}")
    bench.deliver(
        *(bench.message(deny("192.0.2.1"), request_id=f"{n}" * 400) for n in range(10, 40))
    )
    wait_until(lambda: bench.consumer.engine.journal_error)
    assert bench.broker.acknowledged == []
    assert bench.consumer.engine.ping(5)
    database.execute("PRAGMA max_page_count = 1000000")
    bench.reply(30)
    bench.settle()
    assert bench.statuses == [200] * 30
    assert len(door.executed) == len(bench.broker.acknowledged) == 30


def test_a_worker_waits_while_the_journal_fails_and_is_not_stuck_for_it(build, door):
    bench = build(door)
    failing = Failing(bench, "started")
    failing.times = 1_000_000
    bench.ask(deny())
    bench.broker.wait(lambda: len(bench.broker.acknowledged) == 1)
    bench.turned.monotonic += 120
    assert bench.consumer.engine.ping(5)
    assert bench.consumer.engine.stuck == set()
    assert door.executed == []
    failing.times = 0
    assert bench.reply(1).status == 102  # it took long
    assert bench.reply(2).status == 200


@pytest.mark.parametrize("method", ["commit", "add", "finish", "started"])
def test_want_of_memory_is_waited_for_like_the_disk(build, door, method):
    bench = build(door)
    failing = Failing(bench, method, MemoryError())
    failing.times = 1
    bench.ask(deny())
    bench.settle()
    assert (failing.failed, bench.statuses, len(door.executed)) == (1, [200], 1)
    assert bench.consumer.engine.journal_error is None


@pytest.mark.parametrize("times", [2, 4])  # in company and alone, and as unknown
def test_an_error_that_is_not_the_disks_costs_one_report_only(build, door, times):
    bench = build(door)
    failing = Failing(bench, "finish", ValueError("a fault of ours"))
    failing.times = times
    bench.ask(deny())
    wait_until(lambda: not failing.times)
    bench.settle()
    bench.ask(deny(), request_id="2")
    bench.settle()
    assert bench.consumer.engine.running
    assert bench.statuses == ([500, 200] if times == 2 else [200])


def test_an_outcome_that_cannot_be_written_takes_none_of_its_company_with_it(build):
    together = Together()
    gate = together.behave = Gate()
    bench = build(together)
    bench.ask(deny(), request_id="first")
    gate.wait()
    bench.deliver(*(bench.message(deny(), request_id=str(number)) for number in range(3)))
    assert bench.consumer.engine.settle(10)
    journal = bench.consumer._journal
    finish, bad = journal.finish, journal._last - 1

    def fails(request, **options):
        if request == bad:
            raise ValueError("a fault of ours")
        finish(request, **options)

    journal.finish = fails
    gate.open.set()
    bench.reply(3)
    bench.settle()
    told = {reply.headers["request_id"]: reply.status for reply in bench.replies}
    assert (together.batches, told) == ([3], {"first": 200, "0": 200, "2": 200})


@pytest.mark.parametrize("error", [ValueError("ours"), sqlite3.IntegrityError("UNIQUE")])
def test_a_start_that_cannot_be_written_frees_the_worker_and_is_answered(build, door, error):
    bench = build(door)
    failing = Failing(bench, "started", error)
    failing.times = 2
    assert (bench.answered(deny()).status, bench.replies[0].text) == (500, "internal error")
    bench.settle()
    assert door.executed == []
    assert bench.answered(deny(), request_id="2").status == 200


def test_the_end_comes_although_the_journal_fails(build, door, monkeypatch):
    monkeypatch.setattr("oc2d.engine.consumer._ENGINE_STOP", 0.2)
    bench = build(door)
    gate = door.behave = Gate()
    bench.ask(deny())
    gate.wait()
    Failing(bench).times = 1_000_000
    gate.open.set()
    bench.consumer.quiesce()
    begun = time.monotonic()
    bench.consumer.close()
    assert time.monotonic() - begun < 2
    assert not bench.consumer.engine.running


def test_a_journal_that_fails_for_a_moment_at_the_end_loses_nothing(build, door):
    bench = build(door)
    gate = door.behave = Gate()
    bench.ask(deny())
    gate.wait()
    Failing(bench).times = 3
    gate.open.set()
    bench.consumer.quiesce()
    bench.consumer.close()
    with closing(Journal(bench.journal)) as journal:
        assert list(journal.pending()) == []
        assert journal.outbox() == []
    assert bench.statuses == [200]


def test_the_transfer_may_raise_without_anything_happening_twice(build, door):
    bench = build(door)

    def broken(_):
        bench.broker.on_send = lambda _: None
        raise RuntimeError("no")

    bench.broker.on_send = broken
    bench.ask(deny())
    bench.settle()
    assert bench.answered(deny(), request_id="2").status == 200
    assert len(door.executed) == 2
    assert len(bench.broker.acknowledged) == 2


def test_what_was_noted_is_read_though_the_disk_takes_nothing(tmp_path):
    journal = Journal(tmp_path / "journal.db")
    journal._db.execute("PRAGMA query_only = ON")
    assert journal.noted("never") == ""
    journal.close()
    with pytest.raises(StateError, match="cannot use the journal"):
        journal.noted("never")
