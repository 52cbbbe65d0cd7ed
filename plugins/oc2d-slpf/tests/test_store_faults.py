"""Random commands over a store and a packet filter that refuse at random."""

from __future__ import annotations

import random
import sqlite3

import msgspec
import pytest

from oc2d.errors import Refusal
from oc2d_slpf.rules import FIRST_AUTOMATIC


class Shaky:
    """The connection of a store: the statement that `left` counts down to fails."""

    def __init__(self, file):
        self.file = file
        self.left = -1
        self.stuck = False

    def hit(self):
        self.left -= 1
        if self.left == -1:
            raise sqlite3.OperationalError("disk I/O error")

    def execute(self, statement, *values):
        if statement == "ROLLBACK" and self.stuck:
            self.stuck = False
            raise sqlite3.OperationalError("disk I/O error")
        self.hit()
        return self.file.execute(statement, *values)

    def executemany(self, *statement):
        self.hit()
        return self.file.executemany(*statement)

    def __getattr__(self, name):
        return getattr(self.file, name)


def shake(slpf):
    store = slpf._rules.store
    store._file = Shaky(store._file)
    return store


def drawn(dice, command, used, mine, told):
    """A command of any kind: numbers that are free, taken or spent, keys that were answered."""
    lowest = min(used | {FIRST_AUTOMATIC})
    address = f"10.{dice.randrange(250)}.{dice.randrange(250)}.0/24"
    draw = dice.random()
    if draw < 0.35 or not mine:
        return command("deny", address)
    if draw < 0.6:
        near = [lowest - 1, lowest - 2, FIRST_AUTOMATIC, *mine]
        return command("deny", address, insert_rule=dice.choice(near))
    if draw < 0.9 or not told:
        return command("delete", dice.choice([*mine, *used]))
    return dice.choice([*told.values()])


@pytest.mark.req("SLPF-25", "SLPF-18")
@pytest.mark.parametrize("seed", range(3))
def test_what_was_answered_200_is_there_and_no_number_comes_again_whatever_fails(
    bench, model, command, seed
):
    dice = random.Random(seed)
    paper = model.Paper()
    slpf = bench.start(paper)
    store = shake(slpf)
    used: set[int] = set()
    mine: dict[int, object] = {}
    told: dict[str, object] = {}

    for _ in range(200):
        some = [drawn(dice, command, used, mine, told) for _ in range(dice.randrange(1, 7))]
        store._file.left = dice.choice([-1, *range(14)])
        store._file.stuck = dice.random() < 0.2
        paper.failing = dice.choice([0, 0, 0, 1, 2, 3, 4])
        answers = slpf.execute_many(some)
        store._file.left, store._file.stuck, paper.failing = -1, False, 0
        for one, answer in zip(some, answers, strict=True):
            if one.key in told or isinstance(answer, Refusal):
                continue
            told[one.key] = one
            if one.action.value == "delete":
                del mine[one.target]
                continue
            number = answer.results.rule_number
            assert number not in mine
            if one.args.insert_rule is msgspec.UNSET:
                assert number not in used
            used.add(number)
            mine[number] = one
        if dice.random() < 0.15:
            bench.stop()
            paper = model.Paper()
            slpf = bench.start(paper)
            store = shake(slpf)
        else:
            assert slpf._rules.take_back()
        assert {entry.rule.number for entry in store.first(1_000_000)} == mine.keys()
        assert len(slpf._rules.firewall.tiers) == len(mine)
