"""What survives what: restarts, reboots, deaths at every step, damage."""

from __future__ import annotations

import signal
import sqlite3
import subprocess
import sys
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from oc2d.actuator import Endpoint
from oc2d.errors import Failed, NotSupported, StateError
from oc2d_slpf.language import Results
from oc2d_slpf.rules import FIRST_AUTOMATIC


def numbers(slpf):
    listed = [rule["number"] for rule in slpf.status()["rules"]]
    assert slpf.status()["count"] == len(listed)
    return listed


def elements(paper):
    return sum(len(keys) for keys in paper.sets.values())


@pytest.mark.req("SLPF-18", "SLPF-20", "AMB-54")
def test_rules_keep_their_numbers_over_a_restart_and_temporary_ones_end_with_the_boot(
    bench, paper, model, command
):
    slpf = bench.start(paper)
    slpf.execute(command("deny", "10.0.0.0/8", insert_rule=7))
    slpf.execute(command("deny", "10.1.0.0/16", persistent=False))
    slpf.execute(command("allow", "10.2.0.0/16"))
    before = numbers(slpf)
    bench.stop()
    paper = model.Paper()
    slpf = bench.start(paper)
    assert numbers(slpf) == before
    assert elements(paper) == 3
    bench.stop()
    bench.boot_id = "boot-2"
    paper = model.Paper()
    slpf = bench.start(paper)
    assert numbers(slpf) == [7, FIRST_AUTOMATIC - 1]
    assert elements(paper) == 2
    # the number of the one that is gone is not given again
    after = slpf.execute(command("deny", "10.3.0.0/16", persistent=False))
    assert after.results.rule_number == FIRST_AUTOMATIC - 2
    bench.stop()
    bench.boot_id = "boot-3"
    slpf = bench.start(paper)
    after = slpf.execute(command("deny", "10.3.0.0/16", persistent=False))
    assert after.results.rule_number == FIRST_AUTOMATIC - 3


@pytest.mark.parametrize("persistent", [True, False])
def test_a_key_run_again_is_answered_as_first_and_changes_nothing(
    bench, paper, command, persistent
):
    slpf = bench.start(paper)
    deny = command("deny", "10.0.0.0/8", persistent=persistent)
    first = slpf.execute(deny)
    taken = command("deny", "10.0.0.0/8", insert_rule=first.results.rule_number)
    with pytest.raises(NotSupported):
        slpf.execute(taken)
    bench.stop()
    slpf = bench.start(paper)
    assert slpf.execute(deny) == first
    delete = command("delete", first.results.rule_number)
    assert slpf.execute(delete).status == 200
    assert slpf.execute(delete).status == 200
    assert slpf.execute(deny) == first
    assert numbers(slpf) == []
    # a refusal that depended on the rules of its time stands as well
    with pytest.raises(NotSupported, match="in use"):
        slpf.execute(taken)


@pytest.mark.req("LANG-23", "SLPF-19")
def test_revert_removes_what_its_key_made_and_nothing_else(bench, paper, command):
    slpf = bench.start(paper)
    one, two = command("deny", "10.0.0.0/8"), command("deny", "10.0.0.0/8")
    slpf.execute_many([one, two])
    slpf.revert(one)
    slpf.revert(one)
    assert numbers(slpf) == [FIRST_AUTOMATIC - 1]
    assert slpf.execute(one).status == 200
    assert numbers(slpf) == [FIRST_AUTOMATIC - 1]
    paper.failing = 2
    with pytest.raises(Failed, match=r"^Rule not updated"):
        slpf.revert(two)
    assert numbers(slpf) == [FIRST_AUTOMATIC - 1]
    slpf.revert(two)
    assert numbers(slpf) == []
    assert elements(paper) == 0


@pytest.mark.req("SLPF-19")
def test_rules_whose_time_was_over_while_away_are_not_restored(bench, paper, model, command):
    slpf = bench.start(paper)
    over, lasting = command("deny", "10.0.0.0/8"), command("deny", "10.1.0.0/16")
    slpf.execute_many([over, lasting])
    bench.stop()
    paper = model.Paper()
    slpf = bench.start(paper, ended=[over.key, "unknown"])
    assert elements(paper) == 1
    assert len(paper.calls) == 1
    slpf.revert(over)
    assert numbers(slpf) == [FIRST_AUTOMATIC - 1]


@pytest.mark.req("AMB-25")
@pytest.mark.parametrize("persistent", [True, False])
def test_a_reserved_number_waits_for_its_start_over_restart_and_reboot(
    bench, paper, command, persistent
):
    slpf = bench.start(paper)
    later = command("deny", "10.0.0.0/8", key="later", persistent=persistent)
    reserved = slpf.reserve(later)
    assert reserved == slpf.reserve(later) == Results(FIRST_AUTOMATIC)
    assert numbers(slpf) == []
    bench.stop()
    bench.boot_id = "boot-2"
    slpf = bench.start(paper)
    with pytest.raises(NotSupported, match=r"^Rule number currently in use"):
        slpf.reserve(command("deny", "10.0.0.0/8", insert_rule=FIRST_AUTOMATIC))
    later = command("deny", "10.0.0.0/8", key="later", persistent=persistent, reserved=reserved)
    paper.failing = 2
    with pytest.raises(Failed):
        slpf.execute(later)
    assert slpf.execute(later).results == reserved
    assert numbers(slpf) == [FIRST_AUTOMATIC]
    assert slpf.execute(later).results == reserved


@pytest.mark.req("AMB-25")
def test_a_rule_deleted_before_its_start_never_starts(bench, paper, command):
    slpf = bench.start(paper)
    later = command("deny", "10.0.0.0/8", key="later", insert_rule=5)
    reserved = slpf.reserve(later)
    assert slpf.execute(command("delete", 5)).status == 200
    again = command("deny", "10.0.0.0/8", key="later", insert_rule=5, reserved=reserved)
    with pytest.raises(Failed, match=r"^Rule not updated: rule 5 was deleted before its start"):
        slpf.execute(again)
    assert numbers(slpf) == []
    assert slpf.reserve(command("delete", 5)) is None


@pytest.mark.req("AMB-57")
def test_the_endpoints_last_used_are_open_again_before_any_name_is_resolved(bench, paper, model):
    slpf = bench.start(paper)
    slpf.link_changing([Endpoint("192.0.2.1", 8883), Endpoint("::ffff:192.0.2.2", 8883)])
    slpf.link_changed([Endpoint("192.0.2.1", 8883), Endpoint("2001:db8::1", 8883)])
    bench.stop()
    paper = model.Paper()
    bench.start(paper)
    assert {permit.address for permit in paper.permits} == {"192.0.2.1", "2001:db8::1"}


def test_an_endpoint_that_could_not_be_opened_is_with_the_next_change(bench, paper, command):
    slpf = bench.start(paper)
    paper.failing = 2
    slpf.link_changing([Endpoint("192.0.2.1", 8883)])
    assert not paper.permits
    slpf.execute(command("deny", "10.0.0.0/8"))
    assert {permit.address for permit in paper.permits} == {"192.0.2.1"}


class Death(BaseException):
    """The process ends here."""


STEPS = ("before the kernel", "in the kernel", "after the commit")


def _die(monkeypatch, slpf, paper, step):
    """Let the process die at a step of the next command."""
    real_apply, real_transaction = paper.apply, slpf._rules.store.transaction

    def die(*_args):
        raise Death

    @contextmanager
    def transaction():
        with real_transaction():
            yield
        die()

    if step == "before the kernel":
        monkeypatch.setattr(paper, "apply", die)
    elif step == "in the kernel":
        monkeypatch.setattr(paper, "apply", lambda steps: (real_apply(steps), die()))
    else:
        monkeypatch.setattr(slpf._rules.store, "transaction", transaction)


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("persistent", [True, False])
@pytest.mark.parametrize("action", ["deny", "delete", "reserved"])
def test_after_a_death_at_any_step_the_same_key_ends_as_if_nothing_had_happened(
    bench, paper, model, monkeypatch, command, step, persistent, action
):
    slpf = bench.start(paper)
    slpf.execute(command("allow", "10.9.0.0/16", insert_rule=1))
    expected = {"deny": [1, 5], "reserved": [1, 5], "delete": [1]}[action]
    made = command("deny", "10.0.0.0/8", insert_rule=5, persistent=persistent, key="k")
    if action == "delete":
        slpf.execute(made)
        made = command("delete", 5)
    if action == "reserved":
        reserved = slpf.reserve(made)
        made = command(
            "deny", "10.0.0.0/8", insert_rule=5, persistent=persistent, key="k", reserved=reserved
        )
    _die(monkeypatch, slpf, paper, step)
    # the process is gone: nothing may clean up after it
    monkeypatch.setattr(slpf._rules, "take_back", lambda: None)
    with pytest.raises(Death):
        slpf.execute(made)
    monkeypatch.undo()
    bench.kill()
    paper = model.Paper()
    slpf = bench.start(paper)
    response = slpf.execute(made)
    assert response.status == 200
    assert response.results == (None if action == "delete" else Results(5))
    assert numbers(slpf) == expected
    assert elements(paper) == len(expected)
    slpf.revert(made)
    assert numbers(slpf) == [1]


class Broken:
    """A disk that takes nothing for a while."""

    def __init__(self, slpf, monkeypatch):
        self.store, self.failing = slpf._rules.store, False
        real = self.store.transaction

        @contextmanager
        def transaction():
            with real():
                yield
                if self.failing:
                    raise sqlite3.OperationalError("database or disk is full")

        monkeypatch.setattr(self.store, "transaction", transaction)


@pytest.mark.req("SLPF-34")
def test_what_was_answered_500_is_neither_in_force_nor_comes_back(
    bench, paper, model, monkeypatch, command
):
    slpf = bench.start(paper)
    slpf.execute(command("deny", "10.0.0.0/8"))
    disk = Broken(slpf, monkeypatch)
    # the packet filter takes it, the disk does not, and then the packet filter refuses as well
    disk.failing, real_apply = True, paper.apply

    def apply(steps):
        real_apply(steps)
        paper.failing = 1

    monkeypatch.setattr(paper, "apply", apply)
    refused = command("deny", "10.1.0.0/16")
    with pytest.raises(Failed, match=r"^Rule not updated: the rule could not be stored$"):
        slpf.execute(refused)
    monkeypatch.undo()
    assert numbers(slpf) == [FIRST_AUTOMATIC]
    slpf.revert(refused)  # any change begins with what went wrong before
    assert elements(paper) == 1
    bench.kill()
    paper = model.Paper()
    slpf = bench.start(paper)
    assert numbers(slpf) == [FIRST_AUTOMATIC]
    assert elements(paper) == 1
    assert slpf.execute(refused).status == 200


def test_a_store_that_cannot_even_be_read_after_a_failure_is_caught_up_with_later(
    bench, paper, monkeypatch, command
):
    slpf = bench.start(paper)
    slpf.execute(command("deny", "10.0.0.0/8"))

    def unreadable():
        raise sqlite3.OperationalError("disk I/O error")

    monkeypatch.setattr(slpf._rules.store, "rules", unreadable)
    paper.failing = 2
    for _ in range(2):
        with pytest.raises(Failed):
            slpf.execute(command("deny", "10.1.0.0/16"))
    # nothing may load what was refused, a new address of the broker neither
    slpf.link_changing([Endpoint("192.0.2.1", 8883)])
    assert (elements(paper), paper.permits) == (1, set())
    paper.changed()  # nor a repair of what others did
    bench.calls.get_nowait()()
    assert elements(paper) == 1
    monkeypatch.undo()
    assert slpf.execute(command("deny", "10.2.0.0/16")).status == 200
    assert elements(paper) == len(numbers(slpf)) == 2


CHILD = """
import sys
from pathlib import Path
from oc2d.actuator import Command, Context
from oc2d.language.values import IPv4Net
from oc2d.language.vocabulary import Action
from oc2d_slpf import Slpf
from oc2d_slpf.language import Args
from ipaddress import ip_network
import structlog
structlog.configure(processors=[lambda *a: (_ for _ in ()).throw(structlog.DropEvent)])
path = Path(sys.argv[1])
slpf = Slpf(Slpf.parse_config({"backend": "dry-run"}))
slpf.start(Context("fw", path / "state", path / "run", "boot-1", lambda: 0))
slpf.restore(())
for index in range(int(sys.argv[2]), 10**6):
    net = IPv4Net(ip_network(f"10.{index >> 8 & 255}.{index & 255}.0/24"))
    args = Args(persistent=bool(index % 2))
    response = slpf.execute(
        Command(f"k{index}", None, Action.DENY, "ipv4_net", net, args)
    )
    print(index, response.results.rule_number, flush=True)
"""


def test_killed_at_any_instant_no_answered_rule_is_lost_and_none_is_there_twice(bench, paper):
    answered: dict[int, int] = {}
    for _ in range(3):
        start = max(answered, default=-1) + 1
        child = subprocess.Popen(
            [sys.executable, "-c", CHILD, str(bench.path), str(start)],
            stdout=subprocess.PIPE,
            text=True,
        )
        with child:
            for _ in range(20):
                index, number = child.stdout.readline().split()
                answered[int(index)] = int(number)
            child.send_signal(signal.SIGKILL)
            for line in child.stdout:
                if line.endswith("\n"):
                    index, number = line.split()
                    answered[int(index)] = int(number)
    slpf = bench.start(paper)
    listed = numbers(slpf)
    assert set(listed) >= set(answered.values())
    assert len(set(answered.values())) == len(answered)
    # at most the one that was running at each death is there beside them
    assert len(listed) <= len(answered) + 1
    assert elements(paper) == len(listed)


def test_outcomes_are_bounded(bench, paper, command, monkeypatch):
    monkeypatch.setattr("oc2d_slpf.store._OUTCOMES", 10)
    slpf = bench.start(paper)
    for _ in range(30):
        slpf.execute(command("deny", "10.0.0.0/8"))
    count = slpf._rules.store._file.execute("SELECT count(*) FROM outcome").fetchone()[0]
    assert count == 10


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
    assert elements(paper) == len(kept)
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


def test_a_full_disk_is_answered_500_and_forgotten(bench, paper, command):
    slpf = bench.start(paper)
    slpf.execute(command("deny", "10.0.0.0/8"))
    slpf._rules.store._file.execute("PRAGMA query_only = ON")
    with pytest.raises(Failed, match=r"^Rule not updated: the rule could not be stored$"):
        slpf.execute(command("deny", "10.1.0.0/16"))
    assert [
        answer.status for answer in slpf.execute_many([command("deny", "10.1.0.0/16")] * 2)
    ] == [
        500,
        500,
    ]
    slpf._rules.store._file.execute("PRAGMA query_only = OFF")
    assert slpf.execute(command("deny", "10.1.0.0/16")).status == 200
    assert elements(paper) == 2


@pytest.mark.req("SLPF-18", "SLPF-19")
def test_rules_that_went_between_opening_and_restoring_do_not_come_back(bench, paper, command):
    slpf = bench.start(paper)
    for n, key in enumerate(("one", "two", "three")):
        slpf.execute(command("deny", f"10.{n}.0.0/16", key=key))
    bench.stop()
    slpf = bench.start(paper, ended=("two",))
    assert elements(paper) == 2
    assert len(numbers(slpf)) == 2
    assert slpf._rules.store.rules() == slpf._rules.store.rules()


@pytest.mark.req("SLPF-25")
def test_a_number_is_not_given_again_after_the_packet_filter_refused_the_one_who_had_it(
    bench, paper, model, command
):
    slpf = bench.start(paper)
    paper.failing = 3  # and the taking back as well
    with pytest.raises(Failed):
        slpf.execute(command("deny", "10.0.0.0/8"))
    number = FIRST_AUTOMATIC
    slpf.execute(command("deny", "10.1.0.0/16", insert_rule=number))
    slpf.execute(command("delete", number))
    bench.stop()
    slpf = bench.start(model.Paper())
    assert slpf.execute(command("deny", "10.1.0.0/16")).results.rule_number < number
