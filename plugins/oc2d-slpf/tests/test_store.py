"""What survives what: restarts, reboots, deaths at every step, damage."""

from __future__ import annotations

import signal
import subprocess
import sys

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


STEPS = ("before commit", "after commit", "in the kernel", "before settle")


def _die(monkeypatch, slpf, paper, step):
    """Let the process die at a step of the next command."""
    store = slpf._store
    real_apply, real_settle = paper.apply, store.settle

    def die(*_args, **_kwargs):
        raise Death

    if step == "before commit":
        monkeypatch.setattr(store, "remember", die)
    elif step == "after commit":
        monkeypatch.setattr(paper, "apply", die)
    elif step == "in the kernel":
        monkeypatch.setattr(paper, "apply", lambda steps: (real_apply(steps), die()))
    elif step == "before settle":
        # the first settles what was before
        real_settle()
        calls = [die, lambda: None]
        monkeypatch.setattr(store, "settle", lambda: calls.pop()())  # noqa: PLW0108 - one a call


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("persistent", [True, False])
@pytest.mark.parametrize("action", ["deny", "delete", "reserved"])
def test_after_a_death_at_any_step_the_same_key_ends_as_if_nothing_had_happened(  # noqa: PLR0917 - parametrized
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
    monkeypatch.setattr(slpf, "_take_back", lambda: None)
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


BETWEEN = """
import os, sys
from pathlib import Path
from ipaddress import ip_network
from oc2d.actuator import Command, Context
from oc2d.language.values import IPv4Net
from oc2d.language.vocabulary import Action
from oc2d_slpf import Slpf
from oc2d_slpf.language import Args, Results
path = Path(sys.argv[1])
slpf = Slpf(Slpf.parse_config({"backend": "dry-run"}))
slpf.start(Context("fw", path / "state", path / "run", "boot-1", lambda: 0))
slpf.restore(())
# die when one file is committed and the other one is about to be
commits = []
def count(text):
    if text == "COMMIT":
        commits.append(text)
        if len(commits) == 2:
            os._exit(7)
for file in slpf._store._files.values():
    file.set_trace_callback(count)
net = IPv4Net(ip_network("10.0.0.0/8"))
reserved = Results(1_000_000_000) if sys.argv[2] == "reserved" else None
args = Args(persistent=False)
slpf.execute(Command("k", None, Action.DENY, "ipv4_net", net, args, None, reserved))
"""


@pytest.mark.parametrize("action", ["deny", "reserved"])
def test_a_death_between_the_two_files_leaves_no_rule_twice(bench, paper, command, action):
    slpf = bench.start(paper)
    made = command("deny", "10.0.0.0/8", persistent=False, key="k")
    if action == "reserved":
        reserved = slpf.reserve(made)
        made = command("deny", "10.0.0.0/8", persistent=False, key="k", reserved=reserved)
    bench.kill()
    arguments = [sys.executable, "-c", BETWEEN, str(bench.path), action]
    assert subprocess.run(arguments, check=False).returncode == 7
    slpf = bench.start(paper)
    assert slpf.execute(made).results == Results(FIRST_AUTOMATIC)
    assert numbers(slpf) == [FIRST_AUTOMATIC]
    slpf.execute(command("delete", FIRST_AUTOMATIC))
    assert numbers(slpf) == []
    again = slpf.execute(command("deny", "10.0.0.0/8"))
    assert again.results.rule_number == FIRST_AUTOMATIC - 1


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
    count = slpf._store._main.execute("SELECT count(*) FROM outcome").fetchone()[0]
    assert count == 10


def test_a_damaged_store_is_told_apart_and_named(bench, paper, command):
    slpf = bench.start(paper)
    slpf.execute(command("deny", "10.0.0.0/8"))
    bench.stop()
    file = bench.path / "state" / "slpf.db"
    file.write_bytes(b"rubbish" * 1000)
    with pytest.raises(StateError, match=r"slpf\.db is damaged"):
        bench.start(paper)
    file.unlink()
    file.mkdir()
    with pytest.raises(StateError, match=r"slpf\.db"):
        bench.start(paper)


def test_a_full_disk_is_answered_500_and_forgotten(bench, paper, command):
    slpf = bench.start(paper)
    slpf.execute(command("deny", "10.0.0.0/8"))
    slpf._store._main.execute("PRAGMA query_only = ON")
    with pytest.raises(Failed, match=r"^Rule not updated: the rule could not be stored$"):
        slpf.execute(command("deny", "10.1.0.0/16"))
    assert [
        answer.status for answer in slpf.execute_many([command("deny", "10.1.0.0/16")] * 2)
    ] == [
        500,
        500,
    ]
    slpf._store._main.execute("PRAGMA query_only = OFF")
    assert slpf.execute(command("deny", "10.1.0.0/16")).status == 200
    assert elements(paper) == 2
