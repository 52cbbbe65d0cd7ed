"""What survives what: restarts, reboots, failures of the store."""

from __future__ import annotations

import sqlite3
from contextlib import contextmanager

import pytest

from oc2d.actuator import Endpoint
from oc2d.errors import Failed, NotSupported
from oc2d_slpf.language import Results
from oc2d_slpf.rules import FIRST_AUTOMATIC

from .conftest import numbers


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
    assert paper.elements() == 3
    bench.stop()
    bench.boot_id = "boot-2"
    paper = model.Paper()
    slpf = bench.start(paper)
    assert numbers(slpf) == [7, FIRST_AUTOMATIC - 1]
    assert paper.elements() == 2
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


def test_a_refusal_that_is_remembered_leaves_the_rest_of_its_batch_alone(bench, paper, command):
    slpf = bench.start(paper)
    commands = [
        command("deny", "10.0.0.0/8"),
        command("delete", 42),
        command("deny", "10.1.0.0/16"),
    ]
    first = slpf.execute_many(commands[:2])
    bench.stop()
    slpf = bench.start(paper)
    calls = len(paper.calls)
    again = slpf.execute_many(commands)  # after a power loss, all that waits comes together
    assert again[0] == first[0]
    assert (again[1].status, again[1].text) == (first[1].status, first[1].text)
    assert again[2].status == 200
    assert numbers(slpf) == [FIRST_AUTOMATIC - 1, FIRST_AUTOMATIC]
    assert len(paper.calls) == calls + 1


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
    assert paper.elements() == 0


@pytest.mark.req("SLPF-19")
def test_rules_whose_time_was_over_while_away_are_not_restored(bench, paper, model, command):
    slpf = bench.start(paper)
    over, lasting = command("deny", "10.0.0.0/8"), command("deny", "10.1.0.0/16")
    slpf.execute_many([over, lasting])
    bench.stop()
    paper = model.Paper()
    slpf = bench.start(paper, ended=[over.key, "unknown"])
    assert paper.elements() == 1
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


@pytest.mark.req("AMB-57")
@pytest.mark.parametrize("by", ["the next change", "the next attempt to connect"])
def test_an_endpoint_that_could_not_be_opened_is_with(bench, paper, command, by):
    slpf = bench.start(paper)
    paper.failing = 2
    slpf.link_changing([Endpoint("192.0.2.1", 8883)])
    assert not paper.permits
    if by == "the next change":
        slpf.execute(command("deny", "10.0.0.0/8"))
    else:
        slpf.link_changing([Endpoint("192.0.2.1", 8883)])
    assert {permit.address for permit in paper.permits} == {"192.0.2.1"}


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
    assert paper.elements() == 1
    bench.kill()
    paper = model.Paper()
    slpf = bench.start(paper)
    assert numbers(slpf) == [FIRST_AUTOMATIC]
    assert paper.elements() == 1
    assert slpf.execute(refused).status == 200


def test_a_disk_that_is_full_is_not_asked_for_each_of_a_batch(bench, paper, monkeypatch, command):
    slpf = bench.start(paper)
    disk = Broken(slpf, monkeypatch)
    disk.failing = True
    calls = len(paper.calls)
    answers = slpf.execute_many([command("deny", f"10.0.0.{last}") for last in range(9)])
    assert {answer.text for answer in answers} == {"Rule not updated: the rule could not be stored"}
    # to load all of the rules anew takes a second for 200 000
    assert len(paper.calls) - calls <= 2
    assert paper.elements() == 0
    disk.failing = False
    assert slpf.execute(command("deny", "10.0.0.1")).status == 200


@pytest.mark.req("SLPF-18")
def test_a_disk_that_is_full_does_not_keep_rules_from_being_restored(
    bench, paper, monkeypatch, command
):
    slpf = bench.start(paper)
    slpf.execute(command("deny", "10.0.0.0/8"))
    slpf._rules.store._file.execute("DELETE FROM meta WHERE name = 'backend'")
    bench.stop()
    slpf = bench.start(paper, restore=False)
    disk = Broken(slpf, monkeypatch)
    slpf._rules.restore((), ())
    disk.failing = True  # from here on: what restored the rules wrote nothing
    slpf._rules.succeed("nftables", paper)
    disk.failing = False
    assert slpf.execute(command("deny", "10.1.0.0/16")).status == 200
    bench.stop()
    assert bench.start(paper)._rules.store.backends() == {"nftables"}


def test_what_was_carried_out_before_is_answered_so_by_a_disk_that_is_full(
    bench, paper, monkeypatch, command
):
    slpf = bench.start(paper)
    done = command("deny", "10.0.0.0/8")
    first = slpf.execute(done)
    disk = Broken(slpf, monkeypatch)
    disk.failing = True
    again, refused_ = slpf.execute_many([done, command("deny", "10.0.0.0/9")])
    assert again == first
    assert isinstance(refused_, Failed)


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
    assert (paper.elements(), paper.permits) == (1, set())
    paper.changed()  # nor a repair of what others did
    bench.calls.get_nowait()()
    assert paper.elements() == 1
    monkeypatch.undo()
    assert slpf.execute(command("deny", "10.2.0.0/16")).status == 200
    assert paper.elements() == len(numbers(slpf)) == 2


def test_outcomes_are_bounded(bench, paper, command, monkeypatch):
    monkeypatch.setattr("oc2d_slpf.store._OUTCOMES", 10)
    slpf = bench.start(paper)
    for _ in range(30):
        slpf.execute(command("deny", "10.0.0.0/8"))
    count = slpf._rules.store._file.execute("SELECT count(*) FROM outcome").fetchone()[0]
    assert count == 10


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
    assert paper.elements() == 2


@pytest.mark.req("SLPF-18", "SLPF-19")
def test_rules_that_went_between_opening_and_restoring_do_not_come_back(bench, paper, command):
    slpf = bench.start(paper)
    for n, key in enumerate(("one", "two", "three")):
        slpf.execute(command("deny", f"10.{n}.0.0/16", key=key))
    bench.stop()
    slpf = bench.start(paper, ended=("two",))
    assert paper.elements() == 2
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
