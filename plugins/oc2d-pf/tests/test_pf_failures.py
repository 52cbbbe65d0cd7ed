"""What pf answers for when its disk or the packet filter fails half way."""

from __future__ import annotations

import sqlite3

import pytest

from oc2d.actuator import Response
from oc2d.errors import Failed, StateError
from oc2d_slpf.backend import BackendError
from oc2d_slpf.operations import AddKeys

from .world import NAME, NET, Death, act, ask, make, number_of, refused


def full(*_):
    raise sqlite3.OperationalError("database or disk is full")


def refuse(_):
    raise BackendError("no")


def refuses(monkeypatch, world, what):
    backend = world.running._engine._rules.firewall._backend
    monkeypatch.setattr(backend, "apply", what)
    monkeypatch.setattr(backend, "replace", what)


def test_a_part_that_can_neither_be_whole_nor_go_ends_with_its_window(world, monkeypatch):
    """A refusal would say that nothing has happened."""
    pf = world.running
    command = make("deny", NAME, window=(None, 1000))
    withdraw = pf._engine.withdraw

    def no_ipv6(steps):
        if any(isinstance(step, AddKeys) and step.id.shape.version == 6 for step in steps):
            refuse(steps)

    def stays(slots):
        refuses(broken, world, refuse)
        withdraw(slots)

    with monkeypatch.context() as broken:
        refuses(broken, world, no_ipv6)
        broken.setattr(pf._engine, "withdraw", stays)
        (answer,) = pf.execute_many([command])
    assert isinstance(answer, Response)
    number = answer.results.rule_number
    assert answer.status == 500
    assert answer.text.endswith(f"a part is in force as rule {number}")
    assert number not in pf._refresher._wanted
    assert pf.execute_many([command]) == [answer]
    assert world.matches() == ["ipv4_net 192.0.2.1/32"]
    assert ask(world, number).text == "may not be in force"
    world.renew(number)  # what was answered 500 does not become whole
    assert world.matches() == ["ipv4_net 192.0.2.1/32"]
    pf.revert(command)
    assert world.rules() == []
    assert pf.status()["count"] == 0


@pytest.mark.parametrize("restart", [False, True])
@pytest.mark.parametrize("step", ["remember", "moved"])
@pytest.mark.parametrize("target", [NET, NAME])
def test_what_the_disk_did_not_take_has_its_number_no_longer(
    world, monkeypatch, target, step, restart
):
    pf = world.running
    with monkeypatch.context() as broken:
        broken.setattr(pf._store, step, full)
        refused(world, Failed, "Rule not implemented", "deny", target, insert_rule=7)
    assert world.rules() == []
    if restart:
        world.restart()
        assert world.running.status()["count"] == 0
    assert number_of(world, "allow", NET, insert_rule=7) == 7
    assert len(world.rules()) == 1


@pytest.mark.parametrize("window", [(None, None), (1, None)])
@pytest.mark.parametrize("target", [NET, NAME])
def test_what_was_withdrawn_is_put_in_force_when_its_command_comes_again(
    world, monkeypatch, target, window
):
    """The daemon died on a full disk, and nobody was told the first outcome."""
    command = make("deny", target, window=window)
    with monkeypatch.context() as broken:
        broken.setattr(world.running._store, "remember", full)
        assert isinstance(world.running.execute_many([command])[0], Failed)
    world.kill()
    world.start()
    (answer,) = world.running.execute_many([command])
    assert answer.status == 200
    assert len(world.rules()) == len(world.running.status()["rules"][0].get("addresses", [0]))


@pytest.mark.parametrize("step", ["drop", "withdraw"])
def test_what_an_earlier_run_put_in_force_is_not_refused_as_if_it_were_not(
    world, monkeypatch, step
):
    command = make("deny", NET, window=(None, 1000))
    ask_ = world.running._engine.ask

    def die(commands):
        raise Death(ask_(commands))

    with monkeypatch.context() as broken:
        broken.setattr(world.running._engine, "ask", die)
        with pytest.raises(Death):
            world.running.execute(command)
    world.kill()
    world.start()
    assert world.rules()
    with monkeypatch.context() as broken:
        broken.setattr(world.running._store, "put", full)
        broken.setattr(world.running._store, "remember", full)
        if step == "withdraw":
            refuses(broken, world, refuse)
            with pytest.raises(RuntimeError, match="may be in force"):
                world.running.execute(command)
        else:
            refused_ = world.running.execute_many([command])[0]
            assert isinstance(refused_, Failed)
    assert bool(world.rules()) is (step == "withdraw")
    world.running.revert(command)
    assert world.rules() == []


def test_what_was_done_before_is_answered_so_though_the_disk_takes_nothing_more(world, monkeypatch):
    done, new = make("deny", NET), make("allow", NET)
    (first,) = world.running.execute_many([done])
    with monkeypatch.context() as broken:
        broken.setattr(world.running._store, "remember", full)
        again, failed = world.running.execute_many([done, new])
    assert again == first
    assert isinstance(failed, Failed)


@pytest.mark.req("PF-29")
@pytest.mark.parametrize("target", [NET, NAME])
def test_what_ended_with_the_boot_is_carried_out_when_its_command_comes_again(world, target):
    command = make("deny", target, persistent=False)
    world.running.execute(command)
    world.boot()
    assert world.running.execute(command).status == 200
    assert world.rules()


@pytest.mark.req("PF-29")
def test_what_ended_with_the_runtime_directory_is_told_no_more(world):
    number_of(world, "deny", NET, persistent=False)
    kept = number_of(world, "allow", NET)
    world.running.stop()
    for mark in (world.path / "run" / "pf").iterdir():
        mark.unlink()
    world.start()
    assert [rule["number"] for rule in world.running.status()["rules"]] == [kept]
    assert len(world.rules()) == 1


@pytest.mark.req("PF-29")
@pytest.mark.parametrize("persistent", [True, False])
def test_a_name_of_which_no_address_is_in_force_just_now_outlives_a_restart(
    world, monkeypatch, persistent
):
    world.names.addresses["www.example.com"] = ("192.0.2.1",)
    number = number_of(world, "deny", NAME, persistent=persistent)
    world.names.addresses["www.example.com"] = ("192.0.2.77",)
    with monkeypatch.context() as broken:

        def die(*_):
            raise Death

        broken.setattr(world.running._engine, "put_in", die)
        with pytest.raises(Death):
            world.renew(number)
    assert world.rules() == []
    world.kill()
    world.start()
    assert world.matches() == ["ipv4_net 192.0.2.77/32"]


def test_a_name_whose_rule_could_not_be_removed_is_looked_up_again(world, monkeypatch):
    number = number_of(world, "deny", NAME)
    with monkeypatch.context() as broken:
        refuses(broken, world, refuse)
        assert isinstance(act(world, "delete", {"pf:rule_number": number}), Failed)
    assert number in world.running._refresher._wanted
    assert act(world, "delete", {"pf:rule_number": number}).status == 200
    assert number not in world.running._refresher._wanted


def test_rules_of_which_nothing_is_known_any_more_do_not_stay_in_force_unseen(world):
    number_of(world, "deny", NET)
    world.running.stop()
    for file in (world.path / "state" / "pf").glob("pf.db*"):
        file.unlink()
    with pytest.raises(StateError, match=r"slpf\.db"):
        world.start()
