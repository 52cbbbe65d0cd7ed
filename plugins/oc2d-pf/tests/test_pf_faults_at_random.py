"""Random commands over disks and a packet filter that refuse at random, and deaths in between.

What is in force is listed; what was answered 200 is in force; what was refused is not.
"""

from __future__ import annotations

import random
import sqlite3

import pytest

from oc2d.actuator import Response
from oc2d.errors import Refusal
from oc2d_slpf.backend import BackendError

from .world import NAME, Death, make

ADDRESSES = ("192.0.2.1", "192.0.2.2", "2001:db8::1", "2001:db8::2")


class Fate:
    """Lets so many things happen, then refuses the next ones of a kind, or ends the process."""

    def __init__(self, dice):
        self.dice = dice
        self.calm()

    def calm(self):
        self.left = self.times = -1

    def draw(self):
        self.left = self.dice.choice([-1, *range(40)])
        self.times = self.dice.choice([1, 1, 2, 3, 8, 50])
        self.error = self.dice.choice(
            [sqlite3.OperationalError("full")] * 2 + [BackendError("no"), Death()]
        )

    def hit(self, *kinds):
        self.left -= self.left > 0
        if self.left or not isinstance(self.error, (*kinds, Death)):
            return
        self.times -= 1
        if not self.times or isinstance(self.error, Death):
            self.calm()
        raise self.error


class Shaky:
    """The connection of a store."""

    def __init__(self, file, fate):
        self.file, self.fate = file, fate

    def execute(self, *statement):
        self.fate.hit(sqlite3.Error)
        return self.file.execute(*statement)

    def executemany(self, *statement):
        self.fate.hit(sqlite3.Error)
        return self.file.executemany(*statement)

    def __getattr__(self, name):
        return getattr(self.file, name)


class Trial:
    """A `World` whose disks and packet filter obey a `Fate`, and what it owes to Producers."""

    def __init__(self, world, seed):
        self.world, self.dice = world, random.Random(seed)
        self.fate = Fate(self.dice)
        self.told = {}  # key: command and number, answered 200 and not deleted
        self.vague = set()  # keys of which nobody knows, or that are gone
        self.shake()

    def shake(self):
        pf = self.world.running
        rules = pf._engine._rules
        pf._store._file = pf._store._numbering._file = Shaky(pf._store._file, self.fate)
        rules.store._file = Shaky(rules.store._file, self.fate)
        backend = rules.firewall._backend
        for name in ("apply", "replace"):
            setattr(backend, name, self.shaken(getattr(backend, name)))

    def shaken(self, real):
        def call(steps):
            self.fate.hit(BackendError)
            real(steps)

        return call

    def drawn(self):
        dice, draw = self.dice, self.dice.random()
        if draw < 0.6 or not self.told:
            args = {}
            for name, chance, value in (
                ("insert_rule", 0.2, dice.randrange(1, 6)),
                ("priority", 0.2, dice.randrange(2)),
                ("persistent", 0.15, False),
            ):
                if dice.random() < chance and ("insert_rule" not in args or name == "persistent"):
                    args[name] = value
            target = dice.choice(
                [
                    {"ipv4_net": f"10.{dice.randrange(5)}.{dice.randrange(5)}.0/24"},
                    {"pf:advanced_connection": {"dst_port": dice.randrange(1, 9)}},
                    NAME,
                ]
            )
            return make(dice.choice(["allow", "deny"]), target, **args)
        command, number = dice.choice([*self.told.values()])
        return make("delete", {"pf:rule_number": number}) if draw < 0.85 else command

    def run(self, batch):
        """Carry out a batch; return it if the process died, to be run again."""
        world = self.world
        self.fate.draw()
        try:
            answers = world.running.execute_many(batch)
        except Death:
            self.fate.calm()
            world.kill()
            world.start()
            self.shake()
            return batch
        except (RuntimeError, sqlite3.Error) as error:  # outcome unknown
            answers = [error] * len(batch)
        self.fate.calm()
        for command, answer in zip(batch, answers, strict=True):
            self.note(command, answer)
        return []

    def note(self, command, answer):
        done = isinstance(answer, Response) and answer.status == 200
        if command.action.value == "delete":
            for key in [key for key, (_, number) in self.told.items() if number == command.target]:
                del self.told[key]
                self.vague.add(key)
        elif done and command.key not in self.vague:
            self.told[command.key] = command, answer.results.rule_number
        elif isinstance(answer, Refusal):
            assert command.key not in self.told
            assert not [key for key in self.in_force() if key.startswith(f"{command.key}.")]
        elif not done:
            self.vague.add(command.key)

    def in_force(self):
        return {entry.key for entry in self.world.running._engine._rules.store.first(10_000)}

    def look(self, again):
        pf = self.world.running
        pf._engine._rules.take_back()
        there = self.in_force()
        assert len(pf._engine._rules.firewall.tiers) == len(there)
        rows = {row.key: row for row in pf._store.first(10_000)}
        assert there <= {key for row in rows.values() for key, _ in row.slots.values()}
        leaving = {command.target for command in again if command.action.value == "delete"}
        for key, (command, number) in self.told.items():
            if number not in leaving:
                assert (rows[key].number, rows[key].state) == (number, "done")
                # the addresses of a name come and go
                slots = {slot for slot, _ in rows[key].slots.values()}
                assert slots <= there or command.target_name == "domain_name"


@pytest.mark.parametrize("seed", range(3))
def test_all_that_is_in_force_is_listed_and_all_that_was_answered_200_is_in_force(world, seed):
    trial = Trial(world, seed)
    dice, again = trial.dice, []
    for _ in range(100):
        world.names.addresses[NAME["domain_name"]] = dice.sample(ADDRESSES, dice.randrange(1, 4))
        again = trial.run(again or [trial.drawn() for _ in range(dice.randrange(1, 4))])
        if not again and dice.random() < 0.1:
            dice.choice([world.kill, world.running.stop])()
            world.start()
            trial.shake()
        if dice.random() < 0.2:
            for row in world.running._store.names():
                if row.number in world.running._refresher._wanted:
                    world.renew(row.number)
        trial.look(again)
