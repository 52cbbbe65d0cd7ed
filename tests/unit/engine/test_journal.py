"""The journal: what it refuses to open, what it costs, and what happens when the disk says no."""

from __future__ import annotations

import re
import sqlite3
import time
from contextlib import closing

import pytest
import structlog

from oc2d.config import Limits
from oc2d.engine.answers import Handles
from oc2d.engine.journal import Journal
from oc2d.engine.ports import Outgoing
from oc2d.engine.records import Origin
from oc2d.engine.window import Window
from oc2d.errors import StateError
from oc2d.hookspecs import hookimpl
from oc2d.language.codec import Encoding
from tests.unit.engine.bench import Failing, deny, features, until
from tests.unit.engine.plugins import Gate, Recording, Together

ORIGIN = Origin(
    request_id="r",
    producer="soc",
    topic="oc2/cmd/all",
    encoding=Encoding.JSON,
    correlation=None,
    payload=b'{"body": {"openc2": {"request": {}}}}',
    accepted=0,
    window=Window(),
)


def test_a_journal_of_another_version_is_refused(tmp_path):
    path = tmp_path / "journal.db"
    Journal(path).close()
    with closing(sqlite3.connect(path)) as database:
        database.execute("PRAGMA user_version = 99")
    with pytest.raises(StateError, match=r"journal\.db was written by another version .*99"):
        Journal(path)


@pytest.mark.parametrize("octets", [b"rubbish" * 1000, b"SQLite format 3\0" + b"\xff" * 5000])
def test_a_file_that_is_no_journal_is_refused(tmp_path, octets):
    path = tmp_path / "journal.db"
    path.write_bytes(octets)
    with pytest.raises(StateError, match=r"cannot use the journal .*journal\.db"):
        Journal(path)
    assert path.read_bytes() == octets


def test_a_journal_that_is_damaged_inside_is_told_of(tmp_path):
    path = tmp_path / "journal.db"
    Journal(path).close()
    whole = path.read_bytes()
    path.write_bytes(whole[:4096] + b"\xee" * (len(whole) - 4096))
    with pytest.raises(StateError, match=r"cannot use the journal .*malformed"):
        Journal(path)


@pytest.mark.parametrize("octet", [b"\xc7", b"Z"])
def test_a_journal_whose_schema_is_damaged_is_told_of(tmp_path, octet):
    path = tmp_path / "journal.db"
    Journal(path).close()
    before, after = b"requests(", b"expires)"
    whole = path.read_bytes()
    path.write_bytes(whole.replace(before + after, before + octet + after[1:]))
    with pytest.raises(StateError, match=r"cannot use the journal"):
        Journal(path)


def test_a_journal_that_counted_its_requests_otherwise_gives_no_id_twice(tmp_path):
    """Made with AUTOINCREMENT, by an earlier version that kept the last id there only."""
    path = tmp_path / "journal.db"
    Journal(path).close()
    with closing(sqlite3.connect(path)) as database:
        (made,) = database.execute(
            "SELECT sql FROM sqlite_master WHERE name = 'requests'"
        ).fetchone()
        database.execute("DROP TABLE requests")
        database.execute(made.replace("PRIMARY KEY", "PRIMARY KEY AUTOINCREMENT", 1))
        database.execute("INSERT INTO requests(id, phase, expires) VALUES(7, 2, 0)")
        database.execute("DELETE FROM requests")
        database.commit()
    with closing(Journal(path)) as journal:
        journal.begin(durable=True)
        assert journal.add_answered(None, 0, None) > 7
        journal.commit()


def test_a_directory_that_is_missing_is_told_of(tmp_path):
    with pytest.raises(StateError, match="cannot use the journal"):
        Journal(tmp_path / "none" / "journal.db")


def test_a_second_process_is_kept_out(tmp_path):
    with closing(Journal(tmp_path / "journal.db")), pytest.raises(StateError, match="locked"):
        Journal(tmp_path / "journal.db")


def test_a_damaged_entry_is_told_of(build, door):
    gate = door.behave = Gate()
    bench = build(door)
    bench.ask(deny())
    gate.wait()
    copy = bench.dead_copy("dead")
    gate.open.set()
    with closing(sqlite3.connect(copy / "journal.db")) as database:
        database.execute("UPDATE requests SET origin = X'00'")
        database.commit()
    with pytest.raises(StateError, match=r"request \d+ is damaged"):
        build(Recording(), directory=copy)


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr("oc2d.engine.engine._RETRY", 0.01)


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
    deadline = time.monotonic() + 10
    while bench.consumer.engine.journal_error is None:
        assert time.monotonic() < deadline
        time.sleep(0.005)
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
    until(lambda: not failing.times)
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


# -- what it costs


def filled(path, rows, *, origin=None, expires=1000):
    journal = Journal(path)
    journal._db.execute("PRAGMA synchronous = OFF")
    journal.begin(durable=True)
    for number in range(rows):
        key = number.to_bytes(16, "big")
        if origin is None:
            journal.add_answered(key, expires + number, b"{}")
        else:
            journal.add(key, expires + number, "x-door", origin)
    journal.commit()
    return journal


def plan(journal, statement, *values):
    rows = journal._db.execute(f"EXPLAIN QUERY PLAN {statement}", values).fetchall()
    return " | ".join(row[3] for row in rows)


def test_no_statement_of_the_journal_reads_more_than_it_must(tmp_path):
    journal = Journal(tmp_path / "journal.db")
    seen = []
    journal._db.set_trace_callback(seen.append)
    journal.begin(durable=True)
    one = journal.add(b"k" * 16, 5, "x", ORIGIN)
    two = journal.add(None, 5, "x", ORIGIN)
    journal.delivered(5, b"d", two)
    journal.delivered(5, b"d", one)
    journal.known(b"k" * 16)
    journal.known(b"k" * 8 + b"x" * 8)
    journal.delivery(5, b"d")
    journal.reoriginate(one, ORIGIN)
    journal.started([one])
    journal.postponed([one])
    journal.respond(one, b"{}")
    journal.arm(one, revert=True)
    journal.reverting(one)
    journal.revert_failed(one)
    journal.disarm(one, revert=True)
    journal.finish(one, keep=False)
    journal.expire(100, 10)
    journal.forget(two)
    journal.post(Outgoing(1, "t", b"", Encoding.JSON))
    journal.released([1])
    journal.sent([1])
    list(journal.pending())
    journal.commit()
    journal._db.set_trace_callback(None)
    statements = [s for s in seen if s.split()[0] in ("SELECT", "UPDATE", "DELETE", "INSERT")]
    assert len(statements) >= 20
    # what is looked through whole: no table of the file, but the list of ids that came along
    tables = {name for (name,) in journal._db.execute("SELECT name FROM sqlite_master")}
    for statement in statements:
        steps = plan(journal, statement)
        scanned = tables & set(re.findall(r"SCAN (\w+)", steps))
        assert not scanned or "requests_open" in steps, (statement, steps)
    assert "requests_expires" in plan(
        journal,
        "SELECT id FROM requests WHERE expires < ? AND origin IS NULL LIMIT ?",
        1,
        1,
    )
    journal.close()


def test_expiry_comes_in_slices_and_counts(tmp_path):
    with closing(filled(tmp_path / "j.db", 1000)) as journal:
        journal.begin(durable=False)
        journal.expire(1500, 64)
        journal.commit()
        assert journal.remembered == 936
        journal.begin(durable=False)
        journal.expire(1500, 1000)
        journal.rollback()
        assert journal.remembered == 936
        journal.begin(durable=False)
        journal.expire(1500, 1000)
        journal.commit()
        assert journal.remembered == 500


def test_expiry_does_not_look_at_open_windows(tmp_path):
    with closing(filled(tmp_path / "j.db", 20_000, origin=ORIGIN)) as journal:
        journal.begin(durable=False)
        begun = time.thread_time()
        for _ in range(100):
            journal.expire(10**9, 64)
        took = time.thread_time() - begun
        journal.commit()
        assert journal.remembered == 20_000
        assert took < 0.2


def test_expiry_keeps_up_with_what_arrives(build, door):
    bench = build(door, limits=Limits(remember=10))
    for turn in range(5):
        messages = [bench.message(deny(), request_id=f"{turn}-{number}") for number in range(500)]
        bench.deliver(*messages)
        bench.reply(500 * (turn + 1))
        bench.settle()
        assert bench.consumer._journal.remembered >= 500
        bench.advance(12)
    assert bench.consumer._journal.remembered <= 1000


def test_many_pending_requests_are_read_quickly(tmp_path):
    with closing(filled(tmp_path / "j.db", 100_000, origin=ORIGIN)) as journal:
        begun = time.thread_time()
        assert sum(1 for _ in journal.pending()) == 100_000
        assert time.thread_time() - begun < 5


# -- handles


def test_handles_are_used_in_turn_and_none_twice():
    handles = Handles({1: 10, 3: 20})
    assert [handles.take(1) for _ in range(3)] == [4, 5, 6]
    handles.give_back(4)
    for _ in range(60_000 - 6):
        handles.take(1)
    assert handles.take(1) == 2
    assert handles.take(1) == 4


def test_deliveries_wait_unacknowledged_while_handles_are_scarce(build, door, monkeypatch):
    monkeypatch.setattr("oc2d.engine.answers._MOST_HANDLES", 4 * 1024 + 8)
    bench = build(door, confirm=False)
    messages = [bench.message(features(), request_id=str(number)) for number in range(30)]
    bench.deliver(*messages)
    bench.settle()
    taken = len(bench.broker.sent)
    assert 0 < taken < 30
    assert len(bench.broker.acknowledged) == taken
    bench.deliver(bench.message(features(), request_id="last"))
    bench.settle()
    assert len(bench.broker.acknowledged) == taken
    for _ in range(10):
        confirmed = [out.handle for out in bench.broker.sent]
        bench.consumer.engine.sent(confirmed)
        bench.settle()
        bench.advance(2)
        bench.settle()
    assert [r.headers["request_id"] for r in bench.replies] == [*map(str, range(30)), "last"]
    tokens = [message.token for message in messages]
    assert bench.broker.acknowledged[:30] == tokens


def test_nothing_is_kept_of_a_finished_request(build, door):
    bench = build(door, limits=Limits(interim_after=3600))
    for number in range(50):
        bench.ask(deny(response_requested="status"), request_id=f"s{number}")
        bench.ask(deny(), request_id=f"c{number}")
    bench.reply(100)
    bench.settle()
    bench.advance(2)
    bench.settle()
    bench.advance(2)
    bench.settle()
    cases = bench.consumer._cases
    assert cases.open == {}
    assert cases.by_producer == {}
    assert all(not line for line in cases.patience._lines.values())
    assert len(bench.consumer.engine._handles) == 0
    assert bench.consumer.engine._done == []
    assert len(cases.ledger.last) == 20
