"""What is kept of a damaged store."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from oc2d.actuator import Endpoint
from oc2d.errors import StateError
from oc2d_slpf.language import Results
from oc2d_slpf.rules import FIRST_AUTOMATIC

from .conftest import Death, numbers

PAGE = 4096


def damage(file, page, bytes_=b"\xff" * PAGE):
    with file.open("r+b") as stream:
        stream.seek((page - 1) * PAGE)
        stream.write(bytes_)


@pytest.fixture
def many(bench, paper, command):
    """A store of many pages that is closed; its rules by number, and the file."""
    slpf = bench.start(paper)
    batch = [command("deny", f"10.{i // 250}.{i % 250}.0/24", key=f"k{i}") for i in range(400)]
    slpf.execute_many(batch)
    slpf.link_changed([Endpoint("192.0.2.1", 8883)])
    known = {rule["number"]: rule for rule in slpf.status()["rules"]}
    bench.stop()
    return known, bench.path / "state" / "slpf.db"


@pytest.mark.parametrize("part", range(8))
def test_of_a_damaged_store_all_rules_are_kept_that_can_be_read(
    bench, paper, command, many, part, capsys
):
    known, file = many
    pages = range(2, file.stat().st_size // PAGE + 1)
    hurt = [page for page in pages if page % 8 == part][:2]
    for page in hurt:
        damage(file, page)
    slpf = bench.start(paper)
    kept = {rule["number"]: rule for rule in slpf.status()["rules"]}
    assert kept.items() <= known.items()
    # each rule is there twice, on two pages: two bad ones rarely hold the same
    assert len(known) - len(kept) <= 50
    assert paper.elements() == len(kept)
    (aside,) = slpf.status()["damaged"]
    assert (file.parent / aside).stat().st_size == len(pages) * PAGE + PAGE
    assert "slpf_store_damaged" in capsys.readouterr().out
    new = slpf.execute(command("deny", "10.99.0.0/24")).results.rule_number
    assert new < min(known)
    for number in list(kept)[:3]:
        assert slpf.execute(command("delete", number)).status == 200
    bench.stop()
    # reported as long as it is there, repaired once
    assert bench.start(paper).status()["damaged"] == [aside]
    assert capsys.readouterr().out.count("slpf_store_damaged") == 0


def test_of_a_table_without_a_root_and_an_index_without_a_beginning_the_rest_is_kept(
    bench, paper, many
):
    known, file = many
    with closing(sqlite3.connect(file)) as db:
        (root,) = db.execute("SELECT rootpage FROM sqlite_master WHERE name = 'rule'").fetchone()
        leaves = db.execute(
            "SELECT pageno FROM dbstat WHERE name = 'twin' AND pagetype = 'leaf' ORDER BY path"
        ).fetchall()
    damage(file, root)
    damage(file, leaves[0][0])
    kept = {rule["number"]: rule for rule in bench.start(paper).status()["rules"]}
    assert kept.items() <= known.items()
    assert len(known) - len(kept) <= 2 * len(known) / len(leaves)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"CREATE TABLE rule", b"CREATE TABLX rule"),
        (b"number INTEGER PRIMARY", b"number INTEGEX PRIMARY"),
        (b"match BLOB", b"natch BLOB"),
        (b"number INTEGER", b"number\xc7INTEGER"),  # sqlite quotes it, which is no text then
        (b"outcome(", b"outcome\x8b"),
        (b"SQLite format 3", b"SQLite format 4"),
        (b"SQLite format 3", b"\xff" * PAGE),
    ],
)
@pytest.mark.parametrize("killed", [False, True])
def test_all_rules_are_kept_when_the_first_page_is_damaged(
    bench, paper, command, many, old, new, killed
):
    known, file = many
    if killed:  # with what was written last beside the file
        slpf = bench.start(paper)
        slpf.execute(command("deny", "10.98.0.0/24"))
        known = {rule["number"]: rule for rule in slpf.status()["rules"]}
        kept = {at: at.read_bytes() for at in (file, file.with_name("slpf.db-wal"))}
        bench.stop()
        for at, content in kept.items():
            at.write_bytes(content)
    content = file.read_bytes()
    assert old in content[:PAGE]
    damage(file, 1, content[:PAGE].replace(old, new)[:PAGE])
    slpf = bench.start(paper)
    assert {rule["number"]: rule for rule in slpf.status()["rules"]} == known
    assert {permit.address for permit in paper.permits} == {"192.0.2.1"}
    # unless the page was written anew since
    assert len(slpf.status()["damaged"]) == (0 if killed and not slpf._rules.store.repaired else 1)
    assert slpf.execute(command("deny", "10.99.0.0/24")).results.rule_number == min(known) - 1
    assert {path.name for path in file.parent.iterdir()} <= {
        *(file.name + suffix for suffix in ("", "-wal", "-shm")),
        *slpf.status()["damaged"],
        *(f"{name}-wal" for name in slpf.status()["damaged"]),
    }


@pytest.mark.parametrize("rubbish", [b"", b"rubbish" * 1000])
def test_a_store_of_which_nothing_can_be_read_is_reported_and_its_numbers_are_not_used_again(
    bench, paper, command, many, rubbish, capsys
):
    known, file = many
    file.write_bytes(rubbish)
    slpf = bench.start(paper)
    assert numbers(slpf) == []
    assert slpf.status()["damaged"]
    assert "slpf_store_damaged" in capsys.readouterr().out
    assert slpf.execute(command("deny", "10.0.0.0/8")).results.rule_number < min(known)


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE rule SET match = x'0a' WHERE number % 2",
        "UPDATE rule SET match = match || x'00' WHERE number % 2",
        "UPDATE rule SET match = 'text' WHERE number % 2",
        "UPDATE rule SET verdict = CAST(x'ff' AS TEXT) WHERE number % 2",
        "UPDATE rule SET shape = 'both_ip5' WHERE number % 2",
    ],
)
def test_rules_that_make_no_sense_are_left_out(bench, paper, many, change):
    known, file = many
    with closing(sqlite3.connect(file)) as store:
        store.execute(change)
        store.commit()
    assert numbers(bench.start(paper)) == sorted(number for number in known if not number % 2)


def test_what_was_answered_and_opened_outlives_damage_too(bench, paper, command, many):
    known, file = many
    with closing(sqlite3.connect(file)) as store:
        store.execute("UPDATE rule SET verdict = '' WHERE key = 'k5'")
        store.commit()
    slpf = bench.start(paper)
    assert len(numbers(slpf)) == len(known) - 1
    assert {permit.address for permit in paper.permits} == {"192.0.2.1"}
    again = slpf.execute(command("deny", "10.0.7.0/24", key="k7"))
    assert again.results == Results(FIRST_AUTOMATIC - 7)
    assert len(numbers(slpf)) == len(known) - 1


@pytest.mark.parametrize("step", range(8))
def test_a_death_while_a_store_is_repaired_loses_nothing(bench, paper, many, monkeypatch, step):
    known, file = many
    damage(file, 5)
    calls = []

    def mortal(real):
        def call(self, *args, **kwargs):
            calls.append(self.name)
            if len(calls) > step:
                raise Death
            return real(self, *args, **kwargs)

        return call

    for name in ("unlink", "rename"):
        monkeypatch.setattr(Path, name, mortal(getattr(Path, name)))
    try:
        bench.start(paper)
    except Death:
        assert len(calls) == step + 1
    else:
        assert step == 7
    monkeypatch.undo()
    bench.kill()
    assert numbers(bench.start(paper)) == sorted(known)
    assert not list(file.parent.glob("*.new"))


def test_a_store_that_is_not_ours_to_repair_ends_the_start(bench, paper, command):
    bench.start(paper).execute(command("deny", "10.0.0.0/8"))
    bench.stop()
    file = bench.path / "state" / "slpf.db"
    with closing(sqlite3.connect(file)) as store:
        store.execute("PRAGMA user_version = 99")
    with pytest.raises(StateError, match=r"slpf\.db cannot be used: made by another oc2d-slpf"):
        bench.start(paper)
    file.unlink()
    file.mkdir()
    with pytest.raises(StateError, match=r"slpf\.db cannot be used"):
        bench.start(paper)
    assert [path.name for path in file.parent.iterdir()] == ["slpf.db"]
