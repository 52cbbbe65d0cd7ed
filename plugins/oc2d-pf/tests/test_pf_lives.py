"""What of pf's rules outlives restarts, windows, failures and deaths."""

from __future__ import annotations

import sqlite3

import pytest

from oc2d.actuator import Response
from oc2d.errors import (
    Failed,
    NoMatch,
    Refusal,
)
from oc2d_slpf.backend import BackendError

from .world import (
    NAME,
    NET,
    Death,
    ask,
    delete,
    make,
    number_of,
    refused,
)


@pytest.mark.req("PF-18", "PF-29")
def test_rules_outlive_a_restart_and_those_that_should_not_end_with_the_boot(world):
    kept = number_of(world, "deny", NET)
    gone = number_of(world, "allow", NET, persistent=False)
    world.restart()
    assert [ask(world, number).results.rule_number for number in (kept, gone)] == [kept, gone]
    assert len(world.rules()) == 2
    world.boot()
    assert len(world.rules()) == 1
    assert type(ask(world, gone)) is NoMatch


def test_a_key_is_carried_out_once(world):
    for target in (NET, NAME):
        command = make("deny", target)
        first, again = (world.running.execute_many([command])[0] for _ in range(2))
        assert first == again
        removal = make("delete", {"pf:rule_number": first.results.rule_number})
        assert [type(world.running.execute_many([removal])[0]) for _ in range(2)] == [Response] * 2
        assert world.running.execute_many([command])[0] == first
        assert world.rules() == []


def test_a_window_reserves_its_number_and_ends_with_its_rule(world):
    pf = world.running
    for target, rules in ((NET, 1), (NAME, 2)):
        later = make("deny", target)
        held = pf.reserve(later)
        assert held == pf.reserve(later)
        assert ask(world, held.rule_number).text == "not in force yet"
        refused(world, Failed, "Rule number currently in use", "deny", NET,
                insert_rule=held.rule_number)  # fmt: skip
        assert world.rules() == []
        begun = make("deny", target, key=later.key, reserved=held)
        assert pf.execute(begun).results == held
        assert len(world.rules()) == rules
        for _ in range(2):
            pf.revert(begun)
        assert world.rules() == []
    never = make("deny", NET)
    held = pf.reserve(never)
    assert isinstance(delete(world, held.rule_number), Response)
    text = "was deleted before its start"
    with pytest.raises(Failed, match=text):
        pf.execute(make("deny", NET, key=never.key, reserved=held))


def test_what_ended_while_we_were_away_does_not_come_back(world):
    over = [make("deny", target) for target in (NET, NAME)]
    for command in over:
        world.running.execute(command)
    world.restart(ended=[command.key for command in over])
    assert world.rules() == []
    for command in over:
        world.running.revert(command)
    assert world.running._store.count() == 0


def test_commands_that_wait_share_transactions_and_keep_their_order(world):
    commands = [make("deny", {"ipv4_net": f"10.0.{n}.0/24"}) for n in range(50)]
    commands.insert(25, make("deny", NAME))
    commands.append(make("deny", NET, insert_rule=9))
    commands.append(make("deny", NET, insert_rule=9))
    commands.append(make("query", {"pf:rule_number": 9}))
    commands.append(make("delete", {"pf:rule_number": 9}))
    answers = world.running.execute_many(commands)
    kinds = [type(one) for one in answers]
    assert kinds == [Response] * 52 + [Failed] + [Response] * 2
    numbers = [one.results.rule_number for one in answers[:51]]
    assert numbers == sorted(numbers, reverse=True)
    assert len(world.rules()) == 52


STEPS = ("put", "ask", "remember", "withdraw", "drop")


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("target", [NET, NAME])
def test_a_death_at_any_step_leaves_what_the_next_run_sets_right(
    world, monkeypatch, step, after, target
):
    """A rule is made, renewed and deleted; each is run again with its key, as the engine does."""
    names = world.names.addresses
    made = make("deny", target)
    removed = None
    holders = {"ask": "_engine", "withdraw": "_engine"}

    def deadly(pf):
        holder = getattr(pf, holders.get(step, "_store"))
        real = getattr(holder, step)

        def call(*args):
            result = real(*args) if after else None
            monkeypatch.setattr(holder, step, real)
            raise Death(result)

        monkeypatch.setattr(holder, step, call)

    def survive(action):
        for attempt in range(2):
            if attempt == 0:
                deadly(world.running)
            try:
                return action()
            except Death:
                world.kill()
                world.start()
        return None

    number = survive(lambda: world.running.execute(made)).results.rule_number
    if target is NAME:
        names["www.example.com"] = ("192.0.2.1", "192.0.2.77")
        survive(lambda: world.renew(number))
        assert sorted(world.matches()) == ["ipv4_net 192.0.2.1/32", "ipv4_net 192.0.2.77/32"]
    else:
        assert world.matches() == ["ipv4_net 198.51.100.0/24"]
    world.running.status()
    removed = make("delete", {"pf:rule_number": number})
    answer = survive(lambda: world.running.execute_many([removed])[0])
    assert isinstance(answer, Response | Refusal)
    assert world.rules() == []
    assert world.running._store.by_number(number) is None


@pytest.mark.req("PF-14")
@pytest.mark.parametrize("target", [NET, NAME, {"pf:advanced_connection": {"dst_port": 1}}])
def test_what_the_packet_filter_refuses_is_500_and_leaves_nothing(world, monkeypatch, target):
    firewall = world.running._engine._rules.firewall

    def refuse(_):
        raise BackendError("no")

    with monkeypatch.context() as broken:
        broken.setattr(firewall._backend, "apply", refuse)
        broken.setattr(firewall._backend, "replace", refuse)
        refused(world, Failed, "Rule not implemented", "deny", target)
    assert world.rules() == []
    assert world.running._store.count() == 0
    number = number_of(world, "deny", target)
    with monkeypatch.context() as broken:
        broken.setattr(firewall._backend, "apply", refuse)
        broken.setattr(firewall._backend, "replace", refuse)
        refused(world, Failed, "Firewall rule not removed or updated", "delete",
                {"pf:rule_number": number})  # fmt: skip
    assert world.rules()
    assert isinstance(delete(world, number), Response)


@pytest.mark.parametrize("target", [NET, NAME])
def test_what_a_full_disk_leaves_in_force_is_not_answered_as_if_it_were_not(
    world, monkeypatch, target
):
    """A `Refusal` says that nothing has happened, and then nobody ends the window."""
    pf = world.running
    command = make("deny", target, window=(None, 1000))

    def full(*_):
        raise sqlite3.OperationalError("database or disk is full")

    with monkeypatch.context() as broken:
        broken.setattr(pf._store, "remember", full)
        broken.setattr(pf._engine._rules.store, "remove", full)
        with pytest.raises(RuntimeError, match="may be in force"):
            pf.execute(command)
    assert world.rules()
    (shown,) = pf.status()["rules"]
    assert ask(world, shown["number"]).text.endswith("may not be in force")
    pf.revert(command)
    assert world.rules() == []
    assert pf.status()["count"] == 0
