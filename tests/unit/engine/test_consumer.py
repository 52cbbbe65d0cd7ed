"""The Consumer's life around the engine: starting, the link, status, answers that are too long."""

from __future__ import annotations

import json
import threading

import msgspec
import pytest

from oc2d.actuator import Endpoint, Response
from oc2d.engine.answers import Answers
from oc2d.errors import BadRequest, StateError
from tests.unit.engine.bench import deny
from tests.unit.engine.plugins import Gate, Recording, Window

ENDPOINTS = (Endpoint("192.0.2.1", 8883),)


def raises(error):
    def function(*_):
        raise error

    return function


@pytest.mark.parametrize("where", ["start", "restore"])
@pytest.mark.parametrize(
    ("error", "text"),
    [
        (RuntimeError("no bolt"), "actuator x-door: {} failed: RuntimeError: no bolt"),
        (SystemExit(1), "actuator x-door: {} failed: RuntimeError: raised SystemExit"),
        (StateError("the file is not ours"), "the file is not ours"),
    ],
)
def test_an_actuator_that_cannot_start_is_told_of_and_all_are_stopped(
    build, door, where, error, text
):
    setattr(door, where, raises(error))
    window = Window()
    bench = build(window, door, start=False)
    with pytest.raises(StateError) as told:
        bench.start()
    assert str(told.value) == text.format(where)
    bench.stop()
    assert door.calls.count("stop") == window.calls.count("stop") == 1
    assert bench.broker.sent == []


def test_an_actuator_that_takes_too_long_to_start_is_told_of(build, door, monkeypatch):
    monkeypatch.setattr("oc2d.engine.consumer._START_TIME", 0.05)
    gate = Gate()
    door.start = gate
    bench = build(door, start=False)
    with pytest.raises(StateError, match="x-door: start takes too long"):
        bench.start()
    gate.open.set()


def test_every_actuator_hears_of_the_link_and_none_can_hold_it_up(build, door, monkeypatch):
    monkeypatch.setattr("oc2d.engine.consumer._LINK_TIME", 0.1)
    heard = []
    door.link_resolving = door.link_changing = raises(SystemExit())
    door.link_changed = raises(RuntimeError("no"))
    window = Window()
    changed = threading.Event()
    window.link_resolving = lambda: heard.append("resolving")
    window.link_changing = lambda endpoints: heard.append(("changing", endpoints))

    def link_changed(endpoints):
        heard.append(("changed", endpoints))
        changed.set()

    window.link_changed = link_changed
    bench = build(door, window)
    bench.consumer.link_resolving()
    bench.consumer.link_changing(ENDPOINTS)
    assert heard == ["resolving", ("changing", ENDPOINTS)]
    bench.consumer.link_changed(ENDPOINTS)
    assert changed.wait(10)
    assert bench.answered({**deny(), "actuator": {"x-door": {}}}).status == 200
    gate = door.link_changing = Gate()
    bench.consumer.link_changing(ENDPOINTS)
    assert len(heard) == 4
    gate.open.set()


class Speechless:
    """It exits when it is written."""

    def __str__(self):
        raise SystemExit(3)

    __repr__ = __str__


class Endless(dict):
    """It holds itself."""

    def __init__(self):
        super().__init__()
        self["self"] = self


@pytest.mark.parametrize("status", [{("a", "b"): 1}, {"a": Speechless()}, 5, None, Endless()])
def test_a_status_that_cannot_be_written_spoils_no_other(build, door, status):
    window = Window()
    window.status = lambda: {"panes": {3: object}}
    door.status = lambda: status
    bench = build(door, window)
    told = bench.consumer.snapshot()["actuators"]
    assert told["x-door"]["error"].startswith("status failed: ")
    assert json.loads(json.dumps(told))["x-window"]["panes"]["3"].startswith("<class")
    assert bench.answered(deny()).status == 200


def test_status_tells_of_each_actuator_whatever_it_does(build, door, monkeypatch):
    monkeypatch.setattr("oc2d.engine.consumer._STATUS_TIME", 0.1)
    window = Window()
    window.status = lambda: {"panes": 3}
    door.status = raises(RuntimeError("secret"))
    bench = build(door, window)
    bench.answered(deny())
    bench.settle()
    told = bench.consumer.snapshot()
    assert told["actuators"] == {
        "x-door": {"state": "running", "error": "status failed: RuntimeError"},
        "x-window": {"state": "running", "panes": 3},
    }
    assert told["windows"] == 0
    assert told["engine"]["queue"] == bench.consumer.queued == 0
    assert told["engine"]["remembered"] == 1
    assert told["engine"]["outcomes"] == [
        {"profile": "x-door", "action": "deny", "status": 200, "count": 1}
    ]
    assert told["engine"]["last"][0]["request_id"] == "r-1"
    json.dumps(told)
    gate = window.behave = Gate()
    bench.ask({**deny(), "actuator": {"x-window": {}}}, request_id="2")
    gate.wait()
    assert bench.consumer.snapshot()["actuators"]["x-window"] == {"state": "busy"}
    gate.open.set()


def test_the_parts_say_whether_they_are_alive(bench):
    assert bench.consumer.alive(5) == {"engine": True, "scheduler": True, "actuator x-door": True}


@pytest.mark.req("MQTT-12")
@pytest.mark.parametrize("encoding", ["json", "cbor"])
def test_an_answer_that_the_broker_cannot_take_becomes_a_short_one(build, door, encoding):
    door.behave = lambda _: Response(text="x" * 5000)
    bench = build(door)
    reply = bench.answered(deny(), encoding=encoding, correlation=b"c")
    short = Answers.shorten(reply.outgoing, 400)
    assert (short.handle, short.correlation) == (reply.outgoing.handle, b"c")
    bench.broker.sent[0] = short
    again = bench.replies[0]
    assert (again.status, again.headers) == (500, reply.headers)
    assert Answers.shorten(reply.outgoing, 10) is None
    unreadable = msgspec.structs.replace(reply.outgoing, payload=b'{"a":' * 40 + b"1" + b"}" * 40)
    assert Answers.shorten(unreadable, 400) is None


@pytest.mark.req("LANG-44")
@pytest.mark.parametrize("step", ["_read", "_judge"])
def test_a_fault_of_ours_in_judging_costs_one_message_only(build, door, monkeypatch, step):
    bench = build(door)
    gate = bench.consumer._gate
    part = gate._reader if step == "_read" else gate
    whole = getattr(part, step)

    def faulty(what):
        if getattr(what, "message", what).token.packet_id == 2:
            raise RecursionError("ours")
        return whole(what)

    monkeypatch.setattr(part, step, faulty)
    messages = [bench.message(deny(), request_id=str(number)) for number in range(3)]
    bench.deliver(*messages)
    bench.settle()
    assert sorted(bench.statuses) == [200, 200, 500]
    assert bench.broker.acknowledged == [message.token for message in messages]


def unreadable(bench, request_id):
    """Let the journal hold something that nobody understands any more."""
    reread = bench.consumer._gate.reread

    def faulty(origin):
        if origin.request_id == request_id:
            raise BadRequest("no longer understood")
        return reread(origin)

    bench.consumer._gate.reread = faulty
    return bench.start()


@pytest.mark.req("MQTT-54")
def test_a_journalled_request_that_cannot_be_read_any_more_is_answered_500(build, door):
    gate = door.behave = Gate()
    bench = build(door)
    bench.ask(deny("192.0.2.1"))
    gate.wait()
    bench.ask(deny("192.0.2.2"), request_id="2")
    bench.ask(deny("192.0.2.3"), request_id="3")
    assert bench.consumer.engine.settle(10)
    later = Recording()
    copy = bench.dead_copy("dead")
    after = unreadable(build(later, directory=copy, clock=bench.turned, start=False), "2")
    gate.open.set()
    after.settle()
    assert [str(command.target) for command in later.executed] == ["192.0.2.3"]
    answers = {reply.headers["request_id"]: reply for reply in after.replies}
    assert (answers["2"].status, answers["2"].text) == (500, "the command cannot be read any more")
    assert (answers["r-1"].status, answers["r-1"].text) == (500, "outcome unknown")
    assert answers["3"].status == 200
    assert list(after.consumer._journal.pending()) == []


@pytest.mark.req("LANG-23")
def test_the_window_of_one_that_cannot_be_read_any_more_is_ended_all_the_same(build, door):
    bench = build(door)
    bench.answered(deny(duration=60_000))
    bench.settle()
    later = Recording()
    copy = bench.dead_copy("dead")
    after = unreadable(build(later, directory=copy, clock=bench.turned, start=False), "r-1")
    after.advance(61)
    after.settle()
    assert later.reverted == [door.executed[0].key]
    assert 500 not in after.statuses
