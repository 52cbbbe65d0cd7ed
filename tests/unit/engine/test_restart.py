"""What a kill -9 leaves behind, at each state of a request (DESIGN 4)."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from contextlib import closing
from pathlib import Path

import pytest

from oc2d.config import Compat, Limits
from oc2d.engine.journal import Journal
from oc2d.engine.ports import Token
from tests.unit.engine.bench import again, deny, dies, features
from tests.unit.engine.plugins import Gate, Idempotent, Recording, Together

FUTURE = 3_600_000


@pytest.mark.req("MQTT-54")
def test_nothing_is_acknowledged_before_it_is_on_the_disk(build, door):
    gate = Gate()
    door.behave = gate
    bench = build(door)
    seen = []
    bench.broker.on_acknowledge = lambda tokens: seen.append(
        (len(tokens), bench.dead_copy(f"seen-{len(seen)}"))
    )
    for number in range(3):
        bench.ask(deny(), request_id=str(number))
        bench.broker.wait(lambda number=number: len(bench.broker.acknowledged) > number)
    gate.open.set()
    bench.reply(3)
    total = 0
    for number, (acknowledged, copy) in enumerate(seen):
        total += acknowledged
        later = Idempotent()
        after = build(later, directory=copy, start=False)
        pending = list(after.consumer._journal.pending())
        assert len(pending) >= total, number


@pytest.mark.req("MQTT-54", "MQTT-55")
def test_deliveries_are_acknowledged_in_order_whatever_becomes_of_them(bench):
    messages = []
    for number in range(30):
        options = {"request_id": str(number)}
        messages += [
            bench.message(deny(), **options),
            bench.message(features(), request_id=f"f{number}"),
            bench.raw(b"{"),
            bench.message(deny(), message_type="rsp"),
            bench.message(deny(), **options, redelivered=True),
        ]
    for at in range(0, len(messages), 7):
        bench.deliver(*messages[at : at + 7])
    bench.settle()
    assert bench.broker.acknowledged == [message.token for message in messages]


def test_a_response_leaves_only_when_its_result_is_on_the_disk(build, door):
    bench = build(door)
    copies = []
    bench.broker.on_send = lambda messages: messages and copies.append(bench.dead_copy("sent"))
    bench.ask(deny())
    sent = bench.reply(1).outgoing
    after = build(late := Recording(), directory=copies[0])
    reply = after.reply(1)
    assert (reply.outgoing.handle, reply.outgoing.payload) == (sent.handle, sent.payload)
    assert reply.outgoing.again
    after.settle()
    assert late.executed == []
    assert len(after.replies) == 1


def test_what_was_received_runs_after_a_death(build, door):
    door.behave = gate = Gate()
    bench = build(door)
    bench.ask(deny("192.0.2.1"))
    gate.wait()
    bench.ask(deny("192.0.2.2"), request_id="2", correlation=b"c", encoding="cbor")
    assert bench.consumer.engine.settle(10)
    after = dies(bench, build, later := Recording())
    gate.open.set()
    second = after.reply(2)
    assert {r.headers["request_id"]: r.status for r in after.replies} == {"r-1": 500, "2": 200}
    assert second.outgoing.correlation in (b"c", None)
    assert [str(command.target) for command in later.executed] == ["192.0.2.2"]
    assert [out.correlation for out in after.broker.sent if out.encoding.value == "cbor"] == [b"c"]


def test_a_command_that_ran_when_the_process_died_is_of_unknown_outcome(build, door):
    door.behave = gate = Gate()
    bench = build(door)
    message = bench.ask(deny())
    gate.wait()
    after = dies(bench, build, later := Recording())
    gate.open.set()
    assert (after.reply(1).status, after.reply(1).text) == (500, "outcome unknown")
    after.deliver(message)
    assert after.reply(2).response == after.reply(1).response
    after.settle()
    assert later.executed == []


def test_an_idempotent_actuator_is_asked_again_with_the_same_key(build, idempotent):
    idempotent.behave = gate = Gate()
    bench = build(idempotent)
    bench.ask(deny())
    gate.wait()
    after = dies(bench, build, later := Idempotent())
    gate.open.set()
    assert after.reply(1).status == 200
    assert [c.key for c in later.executed] == [c.key for c in idempotent.executed]


def test_a_command_that_ran_at_two_deaths_is_never_run_again(build, idempotent):
    idempotent.behave = gate = Gate()
    bench = build(idempotent)
    bench.ask(deny())
    gate.wait()
    second = Idempotent()
    second.behave = again_gate = Gate()
    once = dies(bench, build, second, name="once")
    again_gate.wait()
    twice = dies(once, build, third := Idempotent(), name="twice")
    gate.open.set()
    again_gate.open.set()
    assert (twice.reply(1).status, twice.reply(1).text) == (500, "outcome unknown")
    twice.settle()
    assert third.executed == []


def test_only_the_command_that_runs_at_the_second_death_is_blamed(build):
    actuators = [Together(), Together()]
    gates = [Gate(), Gate(), Gate()]
    actuators[0].behave, actuators[0].answer = gates[0], gates[1]
    bench = build(actuators[0])
    bench.ask(deny("192.0.2.1"), request_id="first")
    gates[0].wait()
    bench.deliver(*(bench.message(deny(), request_id=str(number)) for number in range(5)))
    assert bench.consumer.engine.settle(10)
    gates[0].open.set()
    gates[1].wait()
    actuators[1].behave = gates[2]
    once = dies(bench, build, actuators[1], name="once")
    gates[2].wait()
    twice = dies(once, build, last := Together(), name="twice")
    for gate in gates:
        gate.open.set()
    twice.settle()
    told = {reply.headers["request_id"]: reply.status for reply in twice.replies}
    assert {name: told[name] for name in "01234"} == {"0": 500, **dict.fromkeys("1234", 200)}
    assert len(last.executed) == 4


def test_a_clean_stop_is_no_death_of_what_had_not_begun(build):
    for turn in range(3):
        one = Idempotent()
        one.behave = gate = Gate()
        bench = build(one)
        if turn == 0:
            bench.ask(deny("192.0.2.1"), request_id="first")
            gate.wait()
            bench.deliver(*(bench.message(deny(), request_id=f"{n}") for n in range(20)))
            assert bench.consumer.engine.settle(10)
        else:
            gate.wait()  # one of a batch that is marked as started
        opener = threading.Timer(0.05, gate.open.set)
        bench.consumer._workers["x-door"]._stopping.set()
        opener.start()
        bench.stop()
        opener.join()
        assert len(one.executed) == 1
    with closing(Journal(bench.journal)) as journal:
        pending = list(journal.pending())
    assert [p.attempts for p in pending] == [0] * 18


@pytest.mark.req("MQTT-54", "MQTT-56")
def test_a_response_that_the_broker_took_in_a_session_that_is_gone_is_published_anew(build, door):
    bench = build(door, confirm=False)
    bench.ask(deny(), request_id="one")
    bench.reply(1)
    engine = bench.consumer.engine
    engine.taken([bench.broker.sent[0].handle])
    engine.session_lost()
    bench.settle()
    after = dies(bench, build, Recording(), confirm=False)
    assert [out.released for out in after.broker.sent] == [False]


def test_a_response_is_sent_again_under_its_handle_until_the_broker_has_it(build, door):
    bench = build(door, confirm=False)
    for number in range(3):
        bench.ask(deny(), request_id=str(number))
    bench.reply(3)
    handles = [out.handle for out in bench.broker.sent]
    bench.consumer.engine.taken([handles[1]])
    bench.broker.wait(lambda: bench.broker.released == [handles[1]])
    bench.consumer.engine.sent([handles[0]])
    bench.settle()
    bench.advance(2)
    after = dies(bench, build, Recording(), confirm=False)
    left = after.broker.sent
    assert [(out.handle, out.again, out.released) for out in left] == [
        (handles[1], True, True),
        (handles[2], True, False),
    ]
    assert [out.payload for out in left] == [out.payload for out in bench.broker.sent[1:]]
    after.answered(deny(), request_id="new")
    assert after.broker.sent[2].handle not in handles[1:]
    after.consumer.engine.sent(handles[1:])
    after.settle()
    after.advance(2)
    assert [m.handle for m in after.consumer._journal.outbox()] == [after.broker.sent[2].handle]


def test_a_duplicate_is_known_after_a_restart(build, door):
    bench = build(door)
    message = bench.ask(deny())
    nameless = bench.message(deny(), request_id=None, packet_id=9)
    bench.deliver(nameless)
    bench.reply(2)
    bench.advance(2)
    after = dies(bench, build, later := Recording())
    after.deliver(message, again(nameless, redelivered=True))
    assert [after.reply(2).status, after.reply(1).status] == [200, 200]
    after.settle()
    assert later.executed == []


def test_a_redelivery_of_what_runs_again_gets_its_one_answer(build, idempotent):
    idempotent.behave = gate = Gate()
    bench = build(idempotent)
    message = bench.ask(deny())
    gate.wait()
    later = Idempotent()
    later.behave = second = Gate()
    after = dies(bench, build, later)
    second.wait()
    after.deliver(again(message, redelivered=True))
    assert after.consumer.engine.settle(10)
    gate.open.set()
    second.open.set()
    after.settle()
    assert after.statuses == [200]
    assert after.broker.acknowledged == [Token(1, message.token.packet_id, 1)]


def test_the_actuator_of_a_command_may_be_gone(build, door):
    door.behave = gate = Gate()
    bench = build(door)
    for number in range(2):
        bench.ask(deny(), request_id=str(number))
    bench.ask(deny(start_time=bench.turned.wall + FUTURE), request_id="later")
    gate.wait()
    assert bench.consumer.engine.settle(10)
    after = dies(bench, build)
    gate.open.set()
    after.reply(3)
    assert sorted({(r.status, r.text) for r in after.replies}) == [
        (500, "the actuator of this command is not loaded")
    ]
    back = dies(after, build, later := Recording(), name="back")
    back.poke()
    back.settle()
    # of the one that waited, it may have reserved something
    assert later.reverted == [*later.ended]
    assert len(later.reverted) == 1
    assert list(back.consumer._journal.pending()) == []
    assert back.consumer._journal.timers() == []


def test_what_was_accepted_runs_whatever_the_configuration_says_now(build, door):
    door.behave = gate = Gate()
    bench = build(door, compat=Compat(bare_command=True))
    bench.ask(deny("192.0.2.1"))
    gate.wait()
    bench.ask({**deny("192.0.2.9/24"), "profile": "x-door"}, request_id="2")
    assert bench.consumer.engine.settle(10)
    compat = Compat(profile_field=False, strict_cidr=True)
    limits = Limits(payload=10, queue=0, rate_per_minute=1)
    after = dies(bench, build, later := Recording(), compat=compat, limits=limits)
    gate.open.set()
    after.reply(2)
    assert len(later.executed) == 1


def test_keys_of_commands_are_unique_even_when_the_journal_was_deleted(build, tmp_path):
    keys = set()
    for number in range(3):
        bench = build(one := Recording(), directory=tmp_path / f"fresh-{number}")
        bench.ask(deny())
        bench.settle()
        keys.add(one.executed[0].key)
    assert len(keys) == 3


CHILD = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, {root!r})
from oc2d.actuator import Response
from tests.unit.engine.bench import Bench, deny
from tests.unit.engine.plugins import Idempotent

out = open(sys.argv[2], "a")
hook = sys.argv[3]

def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)

class Counting(Idempotent):
    def __init__(self):
        super().__init__()
        self.behave = self.note
    def note(self, command):
        seen = open(sys.argv[2]).read().split()
        if command.key not in seen:
            out.write(command.key + "\\n"); out.flush()
        if hook == "execute":
            die()
        return Response()

bench = Bench(Path(sys.argv[1]), Counting())
if hook == "acknowledge":
    bench.broker.on_acknowledge = die
if hook == "send":
    bench.broker.on_send = lambda messages: messages and die()
if hook == "commit":
    commit = bench.consumer._journal.commit
    def dying():
        if bench.consumer._cases.open: die()
        commit()
    bench.consumer._journal.commit = dying
if hook == "committed":
    commit = bench.consumer._journal.commit
    def dying():
        commit()
        if bench.consumer._cases.open: die()
    bench.consumer._journal.commit = dying
bench.start()
bench.deliver(bench.message(deny(), packet_id=1, redelivered=hook == "end"))
bench.reply(1)
bench.settle()
print(bench.statuses)
bench.stop()
"""


@pytest.mark.parametrize("hook", ["commit", "committed", "acknowledge", "execute", "send"])
def test_a_process_killed_at_any_point_loses_nothing_and_does_nothing_twice(tmp_path, hook):
    """The broker delivers again until it is acknowledged; a second delivery is harmless too."""
    root = str(Path(__file__).parents[3])
    effects = tmp_path / "effects"
    effects.touch()

    def run(name):
        script = [sys.executable, "-c", CHILD.format(root=root)]
        arguments = [str(tmp_path / "state"), str(effects), name]
        return subprocess.run([*script, *arguments], capture_output=True, text=True, check=False)

    assert run(hook).returncode == -signal.SIGKILL
    last = run("end")
    assert last.returncode == 0, last.stderr
    assert "200" in last.stdout.splitlines()[-1]
    assert len(effects.read_text().split()) == 1
