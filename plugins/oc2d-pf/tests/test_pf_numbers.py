"""Numbers and the order of rules, for years: with a packet filter that only talks."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from dataclasses import replace
from operator import attrgetter

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from oc2d.actuator import Response
from oc2d.errors import (
    Failed,
    NotSupported,
    StateError,
)
from oc2d_pf import numbering
from oc2d_pf.store import Outcome
from oc2d_slpf.backend import BackendError

from .world import (
    NAME,
    NET,
    Death,
    World,
    act,
    ask,
    delete,
    make,
    number_of,
    refused,
)


def use_up(world, priority, last):
    """All automatic numbers of a priority were given, `last` is what remains of them."""
    store = world.running._store
    with store.transaction():
        store._file.execute("REPLACE INTO next VALUES (?, ?)", (priority, last))


def last_bytes(world):
    """What is in force, in order, by the last byte of its address."""
    return [match.rpartition(".")[2].partition("/")[0] for match in world.matches()]


def net(number):
    return {"ipv4_net": f"192.0.2.{number}"}


@pytest.mark.req("PF-18", "PF-32")
def test_a_priority_whose_numbers_are_used_up_goes_on_with_further_ones(world):
    number_of(world, "deny", net(0), priority=2)
    use_up(world, 3, 1_048_001)
    given = [number_of(world, "deny", net(n), priority=3) for n in range(1, 5)]
    assert given == [1_048_001, 1_048_000, 2_147_483_647, 2_147_483_646]
    number_of(world, "deny", net(5), priority=4)
    number_of(world, "deny", net(6))
    assert last_bytes(world) == ["0", "4", "3", "2", "1", "5", "6"]
    world.restart()
    given.append(number_of(world, "deny", net(7), priority=3))
    assert given[-1] == 2_147_483_645
    assert last_bytes(world) == ["0", "7", "4", "3", "2", "1", "5", "6"]
    assert [rule["number"] for rule in world.running.status()["rules"]][1:4] == given[:1:-1]
    for number in given:
        assert ask(world, number).results.rule_number == number
        assert isinstance(delete(world, number), Response)
    assert last_bytes(world) == ["0", "5", "6"]
    assert number_of(world, "deny", NET, priority=3) == given[-1] - 1
    use_up(world, -2, 33_554_431)
    refused(world, NotSupported, "Rule not implemented", "deny", NET, priority=3)


@pytest.mark.usefixtures("narrow")
def test_the_places_of_a_priority_are_used_again_and_all_at_once_are_its_most(world):
    """Only the order is said by place, so what moves is not seen."""
    given = [number_of(world, "deny", net(n), priority=1) for n in range(8)]
    refused(world, NotSupported, "Rule not implemented", "deny", net(8), priority=1)
    for n in range(8, 60):
        assert isinstance(delete(world, given.pop(n % 5)), Response)
        given.append(number_of(world, "deny", net(n), priority=1))
        assert len(world.rules()) == 8
    assert len(set(given)) == 8
    told = [rule["number"] for rule in world.running.status()["rules"]]
    assert told == given[::-1]
    refused(world, NotSupported, "Rule not implemented", "deny", NET, insert_rule=1_000_009)


class Model:
    """The order as docs/pf.md has it: rules by priority and number."""

    FURTHER = numbering.MAX_NUMBER

    def __init__(self):
        self.rules = {}
        self.given = set()

    def add(self, number, priority, octet):
        place = 1001 if priority is None else priority
        self.rules[number] = (place, number <= self.FURTHER, number, str(octet))

    def order(self):
        return [octet for *_, octet in sorted(self.rules.values())]

    def is_free(self, number, priority):
        place = 1001 if priority is None else priority
        return number not in self.rules and sum(r[0] == place for r in self.rules.values()) < 8


@pytest.mark.usefixtures("narrow")
@pytest.mark.req("PF-18", "PF-32", "PF-16")
@settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    steps=st.lists(
        st.tuples(
            st.sampled_from(["add", "add", "add", "insert", "delete", "delete", "restart"]),
            st.sampled_from([None, 0, 1]),
            st.integers(0, 7),
        ),
        min_size=20,
        max_size=60,
    )
)
def test_rules_come_and_go_and_the_order_is_by_priority_and_number(tmp_path_factory, steps):
    world, model = World(tmp_path_factory.mktemp("world")), Model()
    world.start()
    try:
        for octet, (what, priority, which) in enumerate(steps):
            args = {} if priority is None else {"priority": priority}
            if what == "restart":
                world.restart()
            elif what == "delete" and model.rules:
                number = sorted(model.rules)[which % len(model.rules)]
                assert isinstance(delete(world, number), Response)
                del model.rules[number]
            elif what in {"add", "insert"}:
                number = numbering.band(priority)[which]
                if what == "insert":
                    args["insert_rule"] = number
                answer = act(world, "deny", net(octet), **args)
                if what == "add":
                    full = not model.is_free(0, priority)
                    assert isinstance(answer, Response) is not full
                else:
                    assert isinstance(answer, Response) is model.is_free(number, priority)
                if isinstance(answer, Response):
                    told = answer.results.rule_number
                    assert what == "insert" or told not in model.given
                    model.given.add(told)
                    model.add(told, priority, octet)
            assert last_bytes(world) == model.order()
        world.kill()
        world.start()
        assert last_bytes(world) == model.order()
        assert world.running._store.moved() == []
    finally:
        world.running.stop()


def crowd(world):
    """Rules of one priority of which three are left, with no place ahead of them."""
    for number in [number_of(world, "allow", net(n), priority=1) for n in range(9, 14)]:
        delete(world, number)
    number_of(world, "deny", net(1), priority=1)
    number_of(world, "deny", NAME, priority=1)
    number_of(world, "allow", net(3), priority=1)


CROWD = ["ipv4_net 192.0.2.3/32", "ipv6_net 2001:db8::1/128", "ipv4_net 192.0.2.1/32"]
MOVING = [
    ("_engine", "move"),
    ("_engine._rules.firewall", "commit"),
    ("_store", "settled"),
    ("_store", "moved"),
    ("_engine", "ask"),
]


@pytest.mark.usefixtures("narrow")
@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize(("holder", "step"), MOVING, ids=str)
def test_a_death_while_rules_move_is_set_right_by_the_next_run(
    world, monkeypatch, holder, step, after
):
    crowd(world)
    dying = attrgetter(holder)(world.running)
    real = getattr(dying, step)
    command = make("deny", net(4), priority=1)

    def die(*args):
        raise Death(real(*args) if after else None)

    with monkeypatch.context() as broken:
        broken.setattr(dying, step, die)
        with pytest.raises(Death):
            world.running.execute(command)
        world.kill()
    world.start()
    # the name has the address of the first rule too
    here = [match for match in world.matches() if match in CROWD]
    assert here == [CROWD[0], CROWD[1], CROWD[2], CROWD[2]]
    names = world.names.addresses
    names["www.example.com"] = ("192.0.2.1", "192.0.2.77", "2001:db8::1")
    world.renew(world.running._store.names()[0].number)
    here[1:3] = [CROWD[2], "ipv4_net 192.0.2.77/32", CROWD[1]]
    found = [match for match in world.matches() if match != "ipv4_net 192.0.2.4/32"]
    assert sorted(found[1:4]) == here[1:4]
    assert found[::4] == here[::4]
    answer = world.running.execute(command)
    assert world.running.execute(command) == answer
    # nobody was told the number of what had not come into force
    assert answer.results.rule_number == 2_147_483_647 - (step != "ask" or not after)
    assert world.matches()[0] == "ipv4_net 192.0.2.4/32"
    assert world.matches()[1:] == found


@pytest.mark.usefixtures("narrow")
def test_a_rule_whose_room_the_packet_filter_does_not_make_is_500_and_its_number_is_gone(
    world, monkeypatch
):
    crowd(world)
    before = world.rules()
    backend = world.running._engine._rules.firewall._backend

    def refuse(_):
        raise BackendError("no")

    with monkeypatch.context() as broken:
        broken.setattr(backend, "apply", refuse)
        broken.setattr(backend, "replace", refuse)
        for _ in range(2):
            refused(world, Failed, "Rule not implemented", "deny", net(4), priority=1)
        assert world.rules() == before
    assert number_of(world, "deny", net(5), priority=1) == 2_147_483_645
    assert world.rules()[1:] == before
    assert world.running._store.count() == 4


@pytest.mark.usefixtures("narrow")
def test_a_rule_that_waits_for_its_time_moves_with_the_others(world):
    later = make("deny", net(1), priority=1)
    held = world.running.reserve(later)
    for n in range(10, 30):
        delete(world, number_of(world, "deny", net(n), priority=1))
    numbers = [number_of(world, "deny", net(n), priority=1) for n in (2, 3)]
    assert last_bytes(world) == ["3", "2"]
    begun = make("deny", net(1), key=later.key, reserved=held, priority=1)
    assert world.running.execute(begun).results == held
    assert last_bytes(world) == ["3", "2", "1"]
    delete(world, numbers[0])
    assert last_bytes(world) == ["3", "1"]


@pytest.mark.usefixtures("narrow")
def test_commands_that_wait_together_move_each_other(world):
    crowd(world)
    commands = [make("deny", net(n), priority=1) for n in range(50, 56)]
    kinds = [type(one) for one in world.running.execute_many(commands)]
    assert kinds == [Response] * 5 + [NotSupported]
    assert last_bytes(world)[:6] == ["54", "53", "52", "51", "50", "3"]


def test_a_store_of_before_there_were_places_is_taken_over(world):
    """Rules keep their numbers and their order, and what was noted without need goes."""
    given = [number_of(world, "deny", net(n), priority=1) for n in range(4)]
    delete(world, given[1])
    file = world.running._store._file
    file.executescript(
        "DROP TABLE moved; DROP INDEX place; ALTER TABLE rule DROP COLUMN place;"
        " PRAGMA user_version = 1; INSERT INTO spent VALUES (7), (1031999), (1031998);"
    )
    world.restart()
    number_of(world, "deny", net(4), priority=1)
    assert last_bytes(world) == ["4", "3", "2", "0"]
    assert rows(world, "spent") == 0
    world.running._store._file.execute("PRAGMA user_version = 3")
    world.running.stop()
    with pytest.raises(StateError, match="made by another oc2d-pf"):
        world.start()
    world.running.stop()
    with closing(sqlite3.connect(world.path / "state" / "pf" / "pf.db")) as file:
        file.execute("PRAGMA user_version = 2")
    world.start()


def rows(world, table):
    query = f"SELECT count(*) FROM {table}"  # noqa: S608 - constants
    return world.running._store._file.execute(query).fetchone()[0]


def test_rules_that_come_and_go_leave_nothing_behind_but_their_outcomes(world):
    """Of each priority and of none, by number and not, of names that move: three years of them."""

    def life(n):
        world.names.addresses["www.example.com"] = (f"198.51.100.{n}",)
        for args in ({}, {"priority": 1}, {"insert_rule": 7}, {"insert_rule": 16_000_000 + n}):
            for target in (net(n), NAME):
                delete(world, number_of(world, "deny", target, **args))
        world.renew(moving)

    world.names.addresses["www.example.com"] = ("198.51.100.7",)
    moving = number_of(world, "deny", NAME, priority=2)

    def sizes():
        engine = world.running._engine._rules.store._file
        found = {}
        for name, file in (("pf", world.running._store._file), ("engine", engine)):
            tables = file.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
            for (table,) in tables:
                query = f"SELECT count(*) FROM {table}"  # noqa: S608 - constants
                (count,) = file.execute(query).fetchone()
                found[name, table] = count
        return {key: count for key, count in found.items() if key[1] != "outcome"}

    life(1)
    before = sizes()
    for n in range(2, 12):
        life(n)
    after = sizes()
    # numbers that were asked for, and that an automatic one could still be
    assert after.pop(("pf", "spent")) == 11
    assert before.pop(("pf", "spent")) == 1
    assert after == before
    assert after["engine", "spent"] == 0


def test_an_outcome_that_is_told_twice_is_the_first_and_no_other_is_lost(world):
    store = world.running._store
    number_of(world, "deny", NET)
    with store.transaction():
        store.remember("one", Outcome(200, "first"))
        row = replace(store.first(1)[0], number=33_100_000, key="another")
        store.put(row)
        store.remember("one", Outcome(500, "second"))
    assert rows(world, "outcome") == 2
    assert store.outcome("one") == Outcome(200, "first")
