"""The journal: what it refuses to open, what it costs, and what it keeps."""

from __future__ import annotations

import re
import sqlite3
import time
from contextlib import closing

import pytest

from oc2d.config import Limits
from oc2d.engine.answers import Handles
from oc2d.engine.journal import Journal
from oc2d.engine.ports import Outgoing
from oc2d.engine.records import Origin
from oc2d.engine.window import Window
from oc2d.errors import StateError
from oc2d.language.codec import Encoding
from tests.unit.engine.bench import deny, features
from tests.unit.engine.plugins import Gate, Recording

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
    journal.forget(two, keep=False)
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
    assert not cases.open
    assert cases.open.by_producer == {}
    assert all(not line for line in cases.patience._lines.values())
    assert len(bench.consumer.engine._handles) == 0
    assert bench.consumer.engine._done == []
    assert len(cases.ledger.last) == 20
