"""Rules and answers after a death at any step."""

from __future__ import annotations

import signal
import subprocess
import sys
from contextlib import contextmanager

import pytest

from oc2d_slpf.language import Results

from .conftest import Death, numbers

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
    assert paper.elements() == len(expected)
    slpf.revert(made)
    assert numbers(slpf) == [1]


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
    assert paper.elements() == len(listed)
