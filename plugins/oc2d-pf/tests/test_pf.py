"""The language of pf, on the engine of slpf, with a packet filter that only talks."""

from __future__ import annotations

import itertools
import queue
import sqlite3
import subprocess
import sys
from contextlib import closing
from dataclasses import replace
from ipaddress import ip_address, ip_network
from operator import attrgetter

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import oc2d_pf
from oc2d.actuator import TIMES, Command, Context, Endpoint, Reason, Response
from oc2d.errors import (
    BadRequest,
    ConfigError,
    Failed,
    NoMatch,
    NotSupported,
    Refusal,
    StateError,
)
from oc2d.language.codec import Encoding
from oc2d.language.command import decode_extension, parse_command
from oc2d.language.vocabulary import Action
from oc2d_pf import Pf, numbering
from oc2d_pf.entry import Entry
from oc2d_pf.names import Answer, LookUpError
from oc2d_pf.store import Outcome
from oc2d_slpf import resolvers
from oc2d_slpf.backend import BackendError
from oc2d_slpf.rules import Direction, Logged, Verdict, describe
from oc2d_slpf.specifiers import Here, Specifiers

_keys = itertools.count(1)
NET = {"ipv4_net": "198.51.100.0/24"}
NAME = {"domain_name": "www.example.com"}
TARGETS = {
    "ipv4_net": "198.51.100.0/24",
    "ipv6_net": "2001:db8::/32",
    "ipv4_connection": {"src_addr": "198.51.100.7", "dst_port": 22, "protocol": "tcp"},
    "ipv6_connection": {"dst_addr": "2001:db8::/64", "dst_port": 53, "protocol": "udp"},
    "domain_name": "www.example.com",
    "pf:advanced_connection": {"dst_addr": "198.51.100.7", "dst_port": 22, "protocol": "tcp"},
}


class Names:
    """A DNS of our own: `addresses` by name; None: no server answers."""

    def __init__(self):
        self.addresses = {"www.example.com": ("192.0.2.1", "2001:db8::1")}
        self.asked = []

    def __call__(self, name):
        self.asked.append(name)
        found = self.addresses.get(name, ())
        if found is None:
            raise LookUpError("no answer")
        return Answer(tuple(map(ip_address, found)), 3600.0)


class World:
    """The host of a Pf: `start`, `restart`, `boot`; `act` carries commands out."""

    def __init__(self, path):
        self.path, self.names = path, Names()
        self.boot_id, self.running = "boot-1", None
        self.calls = queue.SimpleQueue()
        for name in ("state", "run"):
            (path / name).mkdir()

    def start(self, ended=(), **table):
        config = Pf.parse_config({"backend": "dry-run", **table})
        self.running = Pf(config, self.names)
        state, run = self.path / "state", self.path / "run"
        put = self.calls.put
        self.running.start(Context("fw-7", state, run, self.boot_id, lambda: 0, put))
        self.running.restore(ended)
        return self.running

    def kill(self):
        self.running._refresher.stop()
        self.running._store.close()
        self.running._engine._rules._opened.close()

    def restart(self, ended=(), **table):
        self.running.stop()
        return self.start(ended, **table)

    def boot(self):
        self.running.stop()
        self.boot_id = "boot-2"
        return self.start()

    def renew(self, number):
        """What the refresher does when the time of a name is over."""
        name = self.running._store.by_number(number).target
        self.running._renew(number, name, self.names(name))

    def rules(self):
        """What is in force, in order: verdict, match, direction."""
        entries = self.running._engine._rules.store.first(1000)
        return [
            (one.rule.verdict, describe(one.rule.shape, one.rule.key), one.rule.shape.direction)
            for one in entries
        ]

    def matches(self):
        return [match for _, match, _ in self.rules()]


@pytest.fixture
def world(tmp_path, monkeypatch):
    monkeypatch.setattr(resolvers, "FILES", ())
    made = World(tmp_path)
    made.start()
    yield made
    made.running.stop()


def make(action, target, *, key=None, reserved=None, window=(None, None), **args):
    ((name, value),) = target.items()
    typed = parse_command({"action": action, "target": target}, Encoding.JSON).target.value
    if own := Pf.targets.get(name.removeprefix("pf:")):
        typed = decode_extension(value, own, Encoding.JSON, path="$")
    taken = decode_extension(args, Pf.args_type, Encoding.JSON, path="$")
    return Command(
        key or f"key-{next(_keys)}",
        "soc",
        Action(action),
        name,
        typed,
        taken,
        Specifiers(),
        reserved,
        *window,
    )


def act(world, action, target, **args):
    (answer,) = world.running.execute_many([make(action, target, **args)])
    return answer


def number_of(world, action, target, **args):
    answer = act(world, action, target, **args)
    assert isinstance(answer, Response), answer
    return answer.results.rule_number


def refused(world, kind, phrase, action, target, **args):
    answer = act(world, action, target, **args)
    assert type(answer) is kind, answer
    assert answer.text == phrase or answer.text.startswith(f"{phrase}: "), answer.text
    return answer.text


def ask(world, number):
    return act(world, "query", {"pf:rule_number": number})


def delete(world, number):
    return act(world, "delete", {"pf:rule_number": number})


# -- what is found


def test_a_daemon_without_a_table_for_pf_does_not_load_it():
    names = "{m for m in sys.modules if m.startswith(('oc2d_pf.', 'dns.'))}"
    program = f"import sys; from oc2d.plugins import discover; found = discover(); print({names})"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    assert done.stdout.decode().strip() == "{'oc2d_pf.entry'}"
    (actuator,) = Entry.create(Entry.parse_config({"backend": "dry-run"}))
    assert isinstance(actuator, Pf)
    with pytest.raises(ConfigError):
        Entry.parse_config({"update_directories": []})
    with pytest.raises(AttributeError):
        _ = oc2d_pf.Pg


# -- the matrix


@pytest.mark.req("PF-1", "PF-2", "PF-5", "PF-9", "PF-10", "PF-37")
def test_pairs_are_the_matrix_of_the_profile(world):
    assert Pf.profile == "pf"
    pairs = {(pair.action.value, pair.target): pair for pair in world.running.supported_pairs()}
    wanted = {(action, target) for action in ("allow", "deny") for target in TARGETS}
    numbers = {("query", "pf:rule_number"), ("delete", "pf:rule_number")}
    assert set(pairs) == wanted | numbers
    for pair in numbers:
        assert (pairs[pair].args, pairs[pair].times) == (frozenset(), frozenset())
    for action, target in wanted:
        pair = pairs[action, target]
        assert pair.times == TIMES
        assert ("drop_process" in pair.args) == (action == "deny")
        assert pair.args >= {"insert_rule", "logged", "description", "stateful", "priority"}


@pytest.mark.req("PF-15", "PF-19", "PF-20", "PF-21", "PF-3")
@pytest.mark.parametrize("action", ["allow", "deny"])
@pytest.mark.parametrize("name", TARGETS)
def test_every_target_is_allowed_and_denied_numbered_told_and_deleted(world, action, name):
    number = number_of(world, action, {name: TARGETS[name]})
    assert world.rules()
    told = ask(world, number).results
    assert (told.rule_number, told.action) == (number, Action(action))
    assert getattr(told, name.removeprefix("pf:")) == TARGETS[name]
    assert isinstance(delete(world, number), Response)
    assert world.rules() == []
    assert world.running._store.by_number(number) is None


@pytest.mark.req("PF-6", "PF-28")
def test_without_arguments_a_rule_is_silent_and_about_what_arrives(world):
    number_of(world, "deny", NET)
    number_of(world, "deny", NET, direction="both", drop_process="reject")
    assert world.rules() == [
        (Verdict.REJECT, "ipv4_net 198.51.100.0/24", Direction.BOTH),
        (Verdict.DROP, "ipv4_net 198.51.100.0/24", Direction.INGRESS),
    ]


@pytest.mark.req("PF-7", "PF-13", "PF-39", "PF-44")
@pytest.mark.parametrize(
    "args",
    [{"stateful": True, "drop_process": "false_ack"}, {"priority": 1000}, {"priority": -1}],
)
@pytest.mark.parametrize("target", [NET, NAME])
def test_arguments_that_the_engine_cannot_do_are_501_and_make_no_rule(world, args, target):
    refused(world, NotSupported, "Argument not supported", "deny", target, **args)
    assert world.rules() == []
    number_of(world, "deny", target, stateful=False, logged=False)
    refused(world, NotSupported, "Argument not supported", "allow", NET, drop_process="none")


@pytest.mark.req("PF-7", "PF-30", "PF-31", "PF-45", "PF-4")
@pytest.mark.parametrize("target", [NET, NAME, {"pf:advanced_connection": {"dst_port": 22}}])
def test_every_part_of_a_rule_is_stateful_and_logged_under_its_number(world, target):
    number_of(world, "deny", target)
    number = number_of(world, "deny", target, stateful=True, logged=True)
    parts = len(world.rules()) // 2
    for verdict, match, _ in world.rules()[:parts]:
        assert verdict == Logged(Verdict.DROP, number)
        assert match.endswith(" stateful")
    for verdict, match, _ in world.rules()[parts:]:
        assert verdict is Verdict.DROP
        assert "stateful" not in match
    assert ask(world, number).results.args == {"pf": {"stateful": True, "logged": True}}
    if target is NAME:
        world.names.addresses["www.example.com"] = ("192.0.2.9",)
        world.renew(number)
        assert world.rules()[0][:2] == (
            Logged(Verdict.DROP, number),
            "ipv4_net 192.0.2.9/32 stateful",
        )
    before = world.rules()
    world.restart()
    assert world.rules() == before


@pytest.mark.req("PF-45")
def test_two_hundred_rules_are_logged_and_no_more(world):
    def deny(number, **args):
        return act(world, "deny", {"ipv4_net": f"198.18.0.{number}"}, logged=True, **args)

    made = [deny(number).results.rule_number for number in range(200)]
    assert type(deny(200)) is NotSupported
    assert len(world.rules()) == 200
    delete(world, made[7])
    assert isinstance(deny(200), Response)


@pytest.mark.req("PF-8")
def test_the_phrases_are_those_of_the_profile(world):
    told = world.running.refusal
    assert told(Reason.OPTION, Action.DENY, "ipv4_net") == "Argument not supported"
    assert told(Reason.PAIR, Action.DENY, "file") == "Target type not supported"
    assert told(Reason.PAIR, Action.DELETE, "file") == "Target not supported"
    assert told(Reason.PAIR, Action.UPDATE, "file") == "Command not supported"
    assert told(Reason.WINDOW_OVER, Action.DENY, "x") == "Rule not implemented: time window is over"


# -- numbers


@pytest.mark.req("PF-16", "PF-17", "PF-18", "PF-34")
def test_a_number_that_is_asked_for_is_given_once(world):
    assert number_of(world, "deny", NET, insert_rule=7) == 7
    refused(world, Failed, "Rule number currently in use", "allow", NET, insert_rule=7)
    refused(world, Failed, "Rule number currently in use", "allow", NAME, insert_rule=7)
    assert number_of(world, "deny", NET, insert_rule=33_554_431) == 33_554_431
    for wrong in (0, 33_554_432, "7", True):
        with pytest.raises(BadRequest):
            make("deny", NET, insert_rule=wrong)
    assert len(world.rules()) == 2


def test_numbers_of_rules_that_are_gone_are_not_given_again(world):
    first = number_of(world, "deny", NET)
    delete(world, first)
    assert number_of(world, "deny", NET) == first - 1
    world.restart()
    assert number_of(world, "deny", NET, insert_rule=first - 3) == first - 3
    delete(world, first - 3)
    assert [number_of(world, "deny", NET) for _ in range(2)] == [first - 2, first - 4]
    number_of(world, "deny", NET, insert_rule=first - 5, persistent=False)
    world.boot()
    assert number_of(world, "deny", NET) == first - 6


@pytest.mark.req("PF-32")
def test_the_order_is_by_priority_then_the_newest_first_then_those_without(world):
    def net(number):
        return {"ipv4_net": f"192.0.2.{number}"}

    number_of(world, "deny", net(1))
    number_of(world, "allow", net(2), priority=10)
    number_of(world, "deny", net(3), priority=9)
    number_of(world, "allow", net(4), priority=10)
    number_of(world, "deny", net(5))
    first = number_of(world, "deny", net(6), priority=0)
    order = [match.rpartition(".")[2].partition("/")[0] for match in world.matches()]
    assert order == ["6", "3", "4", "2", "5", "1"]
    text = refused(
        world, NotSupported, "Rule not implemented", "deny", NET, priority=0, insert_rule=5
    )
    assert "1000000 to 1015999" in text
    assert number_of(world, "deny", NET, priority=0, insert_rule=first - 1) == first - 1


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
    assert answer.results.rule_number == 2_147_483_647
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


@pytest.mark.req("PF-35", "PF-36")
def test_a_number_that_no_rule_has(world):
    refused(
        world,
        Failed,
        "Firewall rule not removed or updated",
        "delete",
        {"pf:rule_number": 5},
    )
    assert type(ask(world, 5)) is NoMatch
    for wrong in ("abc", True, 0):
        with pytest.raises(BadRequest):
            make("delete", {"pf:rule_number": wrong})


@pytest.mark.req("PF-4", "PF-33")
def test_a_query_tells_what_makes_the_rule_again(world):
    args = {"description": "scanner", "direction": "both", "drop_process": "reject"}
    args |= {"persistent": False, "priority": 5}
    number = number_of(world, "deny", NET, window=(None, 1234), **args)
    told = msgspec.to_builtins(ask(world, number).results)
    assert told == {
        "rule_number": number,
        "action": "deny",
        "ipv4_net": "198.51.100.0/24",
        "args": {"stop_time": 1234, "pf": args},
    }
    with pytest.raises(BadRequest):
        make("deny", NET, description="x" * 1025)


# -- advanced connections


@pytest.mark.req("PF-3", "PF-25", "PF-26", "PF-27", "PF-14")
def test_an_advanced_connection_is_what_a_connection_can_say(world):
    def matches(**members):
        number = number_of(world, "deny", {"pf:advanced_connection": members})
        found = world.matches()
        delete(world, number)
        return found

    def wrong(kind, phrase, **members):
        refused(world, kind, phrase, "deny", {"pf:advanced_connection": members})

    assert matches(src_addr="2001:db8::1", dst_port=1, protocol="tcp", network=None) == [
        "ipv6_connection src_addr=2001:db8::1/128 dst_port=1 protocol=tcp"
    ]
    assert matches(dst_addr="10.0.0.0/8", src_port=None) == ["ipv4_connection dst_addr=10.0.0.0/8"]
    assert sorted(matches(dst_port=443, protocol="tcp")) == [
        "ipv4_connection dst_port=443 protocol=tcp",
        "ipv6_connection dst_port=443 protocol=tcp",
    ]
    for tagged in ({"src_addr": "web-servers"}, {"network": "dmz"}, {"application": "ftp"}):
        wrong(NotSupported, "Rule not implemented", **tagged)
    wrong(BadRequest, "src_addr and dst_addr are of different families", src_addr="::1",
          dst_addr="10.0.0.1")  # fmt: skip
    wrong(BadRequest, "advanced_connection needs a member")
    wrong(BadRequest, "icmp has no ports: leave out src_port and dst_port", src_port=1,
          protocol="icmp")  # fmt: skip
    for odd in ({"dst_port": 65536}, {"dst_port": "22"}, {"colour": "red"}, {"src_addr": 7}):
        with pytest.raises(BadRequest):
            make("deny", {"pf:advanced_connection": odd})


# -- names


@pytest.mark.req("PF-22")
def test_a_name_is_one_rule_for_all_its_addresses_and_follows_them(world):
    answer = act(world, "deny", NAME)
    number = answer.results.rule_number
    assert answer.text.startswith("stands for 192.0.2.1, 2001:db8::1; stays open: ")
    assert world.matches() == ["ipv6_net 2001:db8::1/128", "ipv4_net 192.0.2.1/32"]
    world.names.addresses["www.example.com"] = ("192.0.2.9", "2001:db8::1", "192.0.2.8")
    world.renew(number)
    assert sorted(world.matches()) == [
        "ipv4_net 192.0.2.8/32",
        "ipv4_net 192.0.2.9/32",
        "ipv6_net 2001:db8::1/128",
    ]
    assert set(ask(world, number).text.split(": ")[-1].removeprefix("stands for ").split(", ")) == {
        "192.0.2.9", "192.0.2.8", "2001:db8::1"
    }  # fmt: skip
    world.names.addresses["www.example.com"] = ("192.0.2.1",)
    world.renew(number)
    assert world.matches() == ["ipv4_net 192.0.2.1/32"]
    delete(world, number)
    assert world.matches() == []
    world.running._renew(number, "www.example.com", world.names("www.example.com"))
    assert world.matches() == []


def test_a_late_answer_is_not_taken_for_another_rule_that_was_given_the_number(world):
    world.names.addresses["other.example.com"] = ("192.0.2.99",)
    answer = world.names("www.example.com")
    for target in ({"domain_name": "other.example.com"}, NET):
        number_of(world, "deny", NAME, insert_rule=7)
        delete(world, 7)
        number_of(world, "deny", target, insert_rule=7)
        before = world.rules()
        world.running._renew(7, "www.example.com", answer)
        assert world.rules() == before
        delete(world, 7)


@pytest.mark.req("PF-23", "PF-14")
def test_a_name_without_addresses_is_refused_and_one_that_loses_them_comes_back(world):
    names = world.names.addresses
    for absent in ((), None):
        names["www.example.com"] = absent
        refused(world, Failed, "Rule not implemented", "deny", NAME)
    names["www.example.com"] = ("192.0.2.1",)
    number = number_of(world, "deny", NAME)
    names["www.example.com"] = ()
    world.renew(number)
    assert world.matches() == []
    assert ask(world, number).results.domain_name == "www.example.com"
    names["www.example.com"] = ("192.0.2.1",)
    world.renew(number)
    assert world.matches() == ["ipv4_net 192.0.2.1/32"]


@pytest.mark.req("PF-24")
def test_too_many_addresses_are_refused_and_protected_ones_left_out(world):
    many = tuple(str(address) for address in list(ip_network("198.18.0.0/16"))[:65])
    world.names.addresses["www.example.com"] = many
    refused(world, NotSupported, "Rule not implemented", "deny", NAME)
    world.names.addresses["www.example.com"] = many[:64]
    number = number_of(world, "deny", NAME)
    assert len(world.rules()) == 64
    world.names.addresses["www.example.com"] = many
    world.renew(number)
    assert len(world.rules()) == 64
    world.restart(never_block=["198.18.0.0/16"])
    world.names.addresses["www.example.com"] = ("198.18.0.7", "192.0.2.1")
    answer = act(world, "deny", NAME)
    assert "stays open: 198.18.0.7 (never_block)" in answer.text
    assert "stands for 192.0.2.1;" in answer.text
    world.names.addresses["www.example.com"] = ("198.18.0.7",)
    refused(world, NotSupported, "Rule not implemented", "deny", NAME)
    assert world.matches().count("ipv4_net 192.0.2.1/32") == 1


@pytest.mark.req("PF-24")
def test_whoever_owns_a_denied_name_cannot_cut_this_host_off_by_it(world):
    """Its own address is left out of a deny, of the first answer and of each later one."""
    names = world.names.addresses
    world.running._engine._here = Here(addresses=frozenset({"192.0.2.77", "2001:db8::77"}))
    names["www.example.com"] = ("192.0.2.77", "192.0.2.1")
    number = number_of(world, "deny", NAME)
    assert world.matches() == ["ipv4_net 192.0.2.1/32"]
    names["www.example.com"] = ("2001:db8::77", "192.0.2.2")
    world.renew(number)
    assert world.matches() == ["ipv4_net 192.0.2.2/32"]
    names["www.example.com"] = ("192.0.2.77",)
    refused(world, NotSupported, "Rule not implemented", "deny", NAME)
    world.renew(number)
    assert world.matches() == []
    number_of(world, "allow", NAME)
    assert world.matches() == ["ipv4_net 192.0.2.77/32"]


@pytest.mark.req("PF-22", "PF-29")
def test_names_are_looked_up_again_after_a_restart(world):
    number = number_of(world, "deny", NAME)
    number_of(world, "deny", {"domain_name": "www.example.com"}, persistent=False)
    assert len(world.rules()) == 4
    world.names.addresses["www.example.com"] = ("192.0.2.5",)
    world.boot()
    assert world.matches() == ["ipv6_net 2001:db8::1/128", "ipv4_net 192.0.2.1/32"]
    world.calls.get(timeout=10)()
    assert world.matches() == ["ipv4_net 192.0.2.5/32"]
    assert world.running._store.count() == 1
    assert world.running.status()["rules"][0]["number"] == number


# -- lives


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


class Death(BaseException):
    """What a kill is to code."""


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


def test_the_table_is_slpfs_but_for_what_pf_does_not_do():
    table = {"update_directories": ["/etc"], "backend": "iptables", "colour": 1}
    with pytest.raises(ConfigError) as caught:
        Pf.parse_config(table)
    assert {problem.path for problem in caught.value.problems} == set(table)


@pytest.mark.req("PF-38")
def test_specifiers_and_the_way_to_the_broker_are_the_engines(world):
    pf = world.restart(asset_id="30", named_groups=["perimeter"])
    assert pf.matches(Specifiers(asset_id="30"))
    assert not pf.matches(Specifiers(asset_id="31"))
    pf.link_resolving()
    pf.link_changing([Endpoint("192.0.2.1", 8883)])
    pf.link_changed([Endpoint("192.0.2.1", 8883)])
    assert pf.status()["endpoints"] == ["192.0.2.1 tcp port 8883"]
    answer = act(world, "deny", {"ipv4_net": "0.0.0.0/0"})
    assert "broker 192.0.2.1 port 8883" in answer.text
