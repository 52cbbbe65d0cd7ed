"""Plugins that raise, answer nonsense, or do not come back (DESIGN 5, LANG-44)."""

from __future__ import annotations

import sys
import time

import pytest
import structlog

from oc2d.actuator import Response
from oc2d.config import Policy
from oc2d.errors import Failed, Forbidden, Refusal, Unauthorized, Unavailable
from oc2d.hookspecs import hookimpl
from oc2d.language.reading import Value
from oc2d.language.vocabulary import StatusCode
from tests.unit.engine.bench import deny, features
from tests.unit.engine.plugins import DoorResults, Gate, Idempotent, Recording, Together, Window

SECRET = "/etc/secret"


class Teapot(Refusal):
    status = 418


class Unbound:
    """A proxy whose object is not there, as web frameworks have them."""

    @property
    def __class__(self):
        raise RuntimeError("working outside of context")


def raises(error):
    def function(*_):
        raise error

    return function


def nested(depth):
    return {"a": nested(depth - 1)} if depth else 1


@pytest.mark.req("LANG-22", "LANG-44")
@pytest.mark.parametrize("results", [object(), {"a": 2**53}])
def test_a_window_ends_though_its_command_was_answered_nonsense(build, door, results):
    door.behave = lambda _: Response(results=results)
    bench = build(door)
    assert bench.answered(deny(duration=1000)).status == 500
    bench.settle()
    bench.advance(2)
    bench.settle()
    assert door.reverted == [door.executed[0].key]


@pytest.mark.req("LANG-44", "LANG-76")
@pytest.mark.parametrize(
    ("behave", "status", "text"),
    [
        (raises(RuntimeError(SECRET)), 500, "internal error"),
        (raises(SystemExit(1)), 500, "internal error"),
        (raises(KeyboardInterrupt()), 500, "internal error"),
        (raises(Forbidden("not you")), 403, "not you"),
        (raises(Teapot("tea")), 500, "internal error"),
        (raises(Forbidden("\ud800")), 500, "internal error"),
        (lambda _: None, 500, "internal error"),
        (lambda _: 200, 500, "internal error"),
        (lambda _: Unbound(), 500, "internal error"),
        (lambda _: Response(status=299), 500, "internal error"),
        (lambda _: Response(status=StatusCode.PROCESSING), 500, "internal error"),
        (lambda _: Response(status="fine"), 500, "internal error"),
        (lambda _: Response(text=5), 500, "internal error"),
        (lambda _: Response(results="text"), 500, "internal error"),
        (lambda _: Response(results=[1]), 500, "internal error"),
        (lambda _: Response(results=object()), 500, "internal error"),
        (lambda _: Response(results={"a": object()}), 500, "internal error"),
        (lambda _: Response(results={"a": 2**53}), 500, "internal error"),
        (lambda _: Response(results={"a": nested(40)}), 500, "internal error"),
        (lambda _: Response(status=StatusCode.NOT_FOUND, text="nobody"), 404, "nobody"),
        (lambda _: Response(results={}), 200, ""),
    ],
)
@pytest.mark.parametrize("encoding", ["json", "cbor"])
def test_whatever_a_plugin_does_the_request_is_answered(
    build, door, behave, status, text, encoding
):
    door.behave = behave
    bench = build(door)
    reply = bench.answered(deny(), encoding=encoding)
    assert (reply.status, reply.text) == (status, text)
    bench.settle()
    door.behave = lambda _: Response()
    assert bench.answered(deny(), request_id="2").status == 200
    assert len(bench.consumer._cases.open) == 0


@pytest.mark.parametrize("where", ["on_check", "on_reserve"])
@pytest.mark.parametrize("error", [RuntimeError(SECRET), SystemExit(), Forbidden("no")])
def test_check_and_reserve_may_raise(build, door, where, error):
    setattr(door, where, raises(error))
    bench = build(door)
    reply = bench.answered(deny(start_time=bench.turned.wall + 5000))
    assert reply.status == (403 if isinstance(error, Forbidden) else 500)
    assert SECRET not in reply.text
    bench.settle()
    assert door.executed == []
    assert bench.consumer._cases.open == {}


@pytest.mark.parametrize("reserved", [object(), "text", {"a": {1, object()}}])
def test_reserve_may_return_nonsense(build, door, reserved):
    door.on_reserve = lambda _: reserved
    bench = build(door)
    reply = bench.answered(deny(start_time=bench.turned.wall + 5000))
    assert (reply.status, reply.text) == (500, "internal error")
    bench.settle()
    assert bench.consumer._cases.open == {}


def test_reserve_may_have_nothing_to_report(build, door):
    door.on_reserve = lambda _: None
    bench = build(door)
    reply = bench.answered(deny(start_time=bench.turned.wall + 5000))
    assert "results" not in reply.response
    bench.settle()
    bench.advance(5)
    bench.settle()
    assert bench.statuses == [102, 200]


@pytest.mark.req("LANG-44")
@pytest.mark.parametrize("method", ["matches", "refusal"])
@pytest.mark.parametrize("error", [RuntimeError(SECRET), SystemExit()])
def test_matches_and_refusal_may_raise(build, door, method, error):
    setattr(door, method, raises(error))
    bench = build(door)
    named = bench.answered({**deny(), "actuator": {"x-door": {}}})
    assert named.status == (500 if method == "matches" else 200)
    assert SECRET not in named.text
    pair = bench.answered({**deny(), "action": "scan"}, request_id="2")
    assert (pair.status, pair.text) == (501, "Command not supported: scan ipv4_net")
    over = bench.answered(deny(stop_time=5), request_id="3")
    assert over.status == 500
    assert bench.answered(deny(), request_id="4").status == 200


@pytest.mark.parametrize(
    "answer",
    [
        raises(RuntimeError(SECRET)),
        lambda _: None,
        lambda _: [],
        lambda commands: [Response()] * (len(commands) + 1),
        lambda commands: [None for _ in commands],
    ],
)
def test_execute_many_may_fail_altogether(build, answer):
    together = Together()
    together.behave = gate = Gate()
    bench = build(together)
    bench.ask(deny(), request_id="first")
    gate.wait()
    together.answer = answer
    bench.deliver(*(bench.message(deny(), request_id=str(number)) for number in range(5)))
    assert bench.consumer.engine.settle(10)
    gate.open.set()
    bench.reply(6)
    assert together.batches == [5]
    assert bench.statuses == [200] + [500] * 5
    assert bench.replies[1].text == "internal error"


def test_execute_many_answers_each_by_itself(build):
    together = Together()
    together.behave = gate = Gate()
    bench = build(together)
    bench.ask(deny(), request_id="first")
    gate.wait()
    together.answer = lambda commands: [
        Forbidden("odd") if number % 2 else Response(results=DoorResults(number=number))
        for number, _ in enumerate(commands)
    ]
    bench.deliver(*(bench.message(deny(), request_id=str(number)) for number in range(4)))
    assert bench.consumer.engine.settle(10)
    gate.open.set()
    bench.reply(5)
    assert bench.statuses == [200, 200, 403, 200, 403]
    assert [r.headers["request_id"] for r in bench.replies] == ["first", "0", "1", "2", "3"]


@pytest.mark.parametrize("as_response", [False, True])
def test_503_of_a_plugin_is_not_remembered(build, door, as_response):
    busy = Response(status=StatusCode.SERVICE_UNAVAILABLE, text="busy")
    door.behave = (lambda _: busy) if as_response else raises(Unavailable("busy"))
    bench = build(door)
    assert bench.answered(deny(duration=5000)).status == 503
    bench.settle()
    assert bench.consumer._journal.remembered == 0
    assert bench.consumer._journal.timers() == []
    door.behave = lambda _: Response()
    assert bench.answered(deny(duration=5000)).status == 200
    assert len(door.executed) == 2


def test_a_quick_outcome_does_not_wait_for_a_slow_one(build, idempotent):
    gates = [Gate(), Gate()]
    idempotent.behave = gates[0]
    bench = build(idempotent)
    bench.ask(deny(), request_id="first")
    gates[0].wait()

    def behave(command):
        if str(command.target).startswith("192.0.2.9"):
            return gates[1](command)
        bench.turned.monotonic += 0.1
        return Response()

    idempotent.behave = behave
    bench.deliver(bench.message(deny(), request_id="quick"))
    bench.deliver(bench.message(deny("192.0.2.9"), request_id="slow"))
    assert bench.consumer.engine.settle(10)
    gates[0].open.set()
    gates[1].wait()
    assert [bench.reply(n).headers["request_id"] for n in (1, 2)] == ["first", "quick"]
    gates[1].open.set()
    assert bench.reply(3).status == 200


def stuck(bench, gate, door):
    """Get the worker stuck on one command, with two waiting."""
    door.behave = gate
    bench.ask(deny("192.0.2.1"), request_id="runs")
    gate.wait()
    bench.ask(deny("192.0.2.2"), request_id="waits")
    bench.ask(deny("192.0.2.3", duration=60_000), request_id="waits too")
    bench.ask(deny("192.0.2.4", start_time=bench.turned.wall + 5000), request_id="deferred")
    assert bench.consumer.engine.settle(10)
    bench.advance(60)


@pytest.mark.parametrize("kind", [Recording, Idempotent])
def test_a_worker_past_its_timeout_is_stuck_and_the_others_go_on(build, kind):
    door, window, gate = kind(), Window(), Gate()
    bench = build(door, window, timeout=60.0)
    stuck(bench, gate, door)
    bench.reply(4)
    told = {r.headers["request_id"]: (r.status, r.text) for r in bench.replies}
    assert told == {
        "runs": (500, "outcome unknown"),
        "waits": (503, "x-door does not answer"),
        "waits too": (503, "x-door does not answer"),
        "deferred": (503, "x-door does not answer"),
    }
    assert bench.answered(deny(), request_id="new").status == 503
    assert bench.answered({**deny(), "actuator": {"x-window": {}}}, request_id="w").status == 200
    assert bench.answered(features(), request_id="f").status == 200
    state = bench.consumer.snapshot()["actuators"]
    assert (state["x-door"]["state"], state["x-window"]["state"]) == ("stuck", "running")
    gate.open.set()
    bench.settle()
    assert bench.consumer.snapshot()["actuators"]["x-door"]["state"] == "running"
    assert [str(command.target) for command in door.executed] == ["192.0.2.1"]
    assert door.reserved == []
    assert len(bench.replies) == 7
    assert bench.answered(deny("192.0.2.2"), request_id="waits").status == 200
    assert bench.answered(deny("192.0.2.1"), request_id="runs").text == "outcome unknown"
    assert len(door.executed) == 2


@pytest.mark.parametrize("where", ["on_check", "on_reserve"])
def test_a_worker_may_get_stuck_before_it_executes(build, door, where):
    gate = Gate()
    setattr(door, where, gate)
    bench = build(door)
    bench.ask(deny(start_time=bench.turned.wall + 5000))
    gate.wait()
    bench.advance(60)
    assert bench.reply(1).status == 503
    gate.open.set()
    bench.settle()
    assert bench.statuses == [503]
    assert door.executed == []
    assert bench.consumer._journal.remembered == 0


def test_a_deferred_command_whose_time_comes_while_the_worker_is_stuck_is_answered_503(build, door):
    bench = build(door)
    for seconds in (30, 90):
        start = bench.turned.wall + seconds * 1000
        bench.ask(deny("192.0.2.9", start_time=start), request_id=str(seconds))
    bench.reply(2)
    bench.settle()
    gate = door.behave = Gate()
    bench.ask(deny(), request_id="runs")
    gate.wait()
    bench.advance(60)
    bench.advance(60)
    last = {reply.headers["request_id"]: reply for reply in bench.replies}
    assert last["runs"].text == "outcome unknown"
    for seconds in ("30", "90"):
        assert (last[seconds].status, last[seconds].text) == (503, "x-door does not answer")
    gate.open.set()
    bench.settle()
    assert len(door.executed) == 1


def test_a_deferred_command_outlives_a_stuck_worker(build, door):
    bench = build(door)
    bench.ask(deny("192.0.2.9", start_time=bench.turned.wall + 90_000), request_id="deferred")
    bench.reply(1)
    bench.settle()
    gate = door.behave = Gate()
    bench.ask(deny(), request_id="runs")
    gate.wait()
    bench.advance(60)
    assert bench.reply(2).text == "outcome unknown"
    gate.open.set()
    bench.settle()
    bench.advance(60)
    bench.settle()
    assert [r.headers["request_id"] for r in bench.replies] == ["deferred", "runs", "deferred"]
    assert bench.statuses == [102, 500, 200]


def test_the_window_of_a_command_that_got_stuck_is_ended_all_the_same(build, door):
    bench = build(door)
    gate = door.behave = Gate()
    bench.ask(deny(duration=90_000))
    gate.wait()
    bench.advance(60)
    assert bench.reply(1).text == "outcome unknown"
    gate.open.set()
    bench.settle()
    bench.advance(30)
    bench.settle()
    assert door.reverted == [door.executed[0].key]


def test_what_a_batch_was_given_up_for_is_not_executed_afterwards(build, idempotent):
    bench = build(idempotent)
    gate = idempotent.behave = Gate()
    bench.ask(deny(), request_id="first")
    gate.wait()
    bench.deliver(*(bench.message(deny(), request_id=str(number)) for number in range(3)))
    assert bench.consumer.engine.settle(10)
    second = idempotent.behave = Gate()
    gate.open.set()
    second.wait()  # the first of a batch of three
    bench.advance(60)
    assert [bench.reply(n).status for n in range(1, 5)] == [200, 500, 500, 500]
    second.open.set()
    bench.settle()
    assert len(idempotent.executed) == 2


def test_each_command_of_a_batch_has_its_own_time(build, idempotent):
    bench = build(idempotent)
    gate = idempotent.behave = Gate()
    bench.ask(deny(), request_id="first")
    gate.wait()

    def slow(_):
        bench.turned.monotonic += 50
        assert bench.consumer.engine.settle(10)
        return Response()

    bench.deliver(*(bench.message(deny(), request_id=str(number)) for number in range(5)))
    idempotent.behave = slow
    assert bench.consumer.engine.settle(10)
    gate.open.set()
    bench.settle()
    assert bench.statuses.count(200) == 6
    assert bench.consumer.engine.stuck == set()


def test_a_revert_that_blocks_makes_new_commands_503(build, door):
    bench = build(door)
    door.on_revert = gate = Gate()
    bench.ask(deny(duration=1000))
    bench.settle()
    bench.advance(1)
    gate.wait()
    bench.advance(60)
    assert bench.answered(deny(), request_id="2").status == 503
    gate.open.set()
    bench.settle()
    assert bench.answered(deny(), request_id="2").status == 200
    assert len(door.reverted) == 1


class Watching:
    def __init__(self, error=None):
        self.error = error
        self.requests, self.responses = [], []

    @hookimpl
    def oc2d_request(self, request):
        self.requests.append(request)
        if self.error:
            raise self.error

    @hookimpl
    def oc2d_response(self, request, status, duration_ms):
        self.responses.append((request.request_id, request.profile, status, duration_ms))
        if self.error:
            raise self.error


@pytest.mark.parametrize("error", [None, RuntimeError("no"), SystemExit()])
def test_observers_are_told_and_never_disturb(build, door, error):
    watching = Watching(error)
    bench = build(door, hooks=watching)
    for number in range(3):
        assert bench.answered(deny(), request_id=str(number)).status == 200
    bench.answered(deny(), request_id="0")
    bench.settle()
    assert [r.request_id for r in watching.requests] == ["0", "1", "2"]
    assert watching.responses == [(str(n), "x-door", 200, 0.0) for n in range(3)]
    assert len(door.executed) == 3


@pytest.mark.parametrize("error", [RuntimeError(SECRET), SystemExit()])
def test_an_authoriser_that_raises_refuses(build, door, error):
    class Broken:
        @hookimpl
        def oc2d_authorise(self, request):  # noqa: ARG002 - by the hook's name
            raise error

    bench = build(door, hooks=Broken())
    reply = bench.answered(deny())
    assert (reply.status, reply.text) == (403, "not permitted")
    assert bench.answered(features(), request_id="2").status == 403
    assert door.executed == []


@pytest.mark.parametrize(("refusal", "status"), [(Unauthorized("who?"), 401), ("no", 403)])
def test_an_authoriser_may_choose_the_status_and_knows_the_profile(build, door, refusal, status):
    seen = []

    class Decides:
        @hookimpl
        def oc2d_authorise(self, request):
            seen.append(request.profile)
            return refusal

    bench = build(door, hooks=Decides())
    assert bench.answered(deny()).status == status
    assert bench.answered(features(), request_id="2").status == status
    other = {"action": "scan", "target": {"x-none:thing": 1}}
    assert bench.answered(other, request_id="3").status == status
    assert (seen, door.executed) == (["x-door", None, "x-door"], [])


def test_after_a_503_of_an_authoriser_the_same_request_may_be_sent_again(build, door):
    class Full:
        refusal = Unavailable("not now")

        @hookimpl
        def oc2d_authorise(self, request):  # noqa: ARG002 - by the hook's name
            return self.refusal

    hooks = Full()
    bench = build(door, hooks=hooks)
    assert bench.answered(deny()).status == 503
    hooks.refusal = None
    assert bench.answered(deny()).status == 200
    assert len(door.executed) == 1


def test_observers_are_told_of_what_the_list_of_producers_refused(build, door):
    watching = Watching()
    bench = build(door, hooks=watching, policy=Policy(producers=("somebody else",)))
    assert bench.answered(deny()).status == 403
    bench.settle()
    assert [row[2] for row in watching.responses] == [403]


def test_a_stop_behind_waiting_jobs_still_stops_the_actuator(build, door):
    bench = build(door)
    gate = door.behave = Gate()
    for number in range(10):
        bench.ask(deny(), request_id=str(number))
    gate.wait()
    bench.consumer._workers["x-door"]._stopping.set()
    gate.open.set()
    bench.consumer.quiesce()
    assert door.calls.count("stop") == 1
    assert len(door.executed) == 1
    assert bench.statuses == [200]


def test_a_stuck_worker_does_not_hold_up_the_end(build, door, monkeypatch):
    monkeypatch.setattr("oc2d.engine.consumer._WORKER_STOP", 0.5)
    window = Window()
    bench = build(door, window)
    gate = door.behave = Gate()
    bench.ask({**deny(), "actuator": {"x-door": {}}})
    gate.wait()
    bench.ask({**deny(), "actuator": {"x-window": {}}}, request_id="2")
    bench.ask({**deny(), "actuator": {"x-door": {}}}, request_id="3")
    bench.reply(1)
    begun = time.monotonic()
    bench.consumer.quiesce()
    bench.consumer.close()
    assert time.monotonic() - begun < 3
    assert window.calls[-1] == "stop"
    after = build(later := Recording(), window, directory=bench.dead_copy("next"))
    gate.open.set()
    after.reply(2)
    after.settle()
    told = {r.headers["request_id"]: r.text for r in after.replies}
    assert told["r-1"] == "outcome unknown"
    assert told["3"] == ""
    assert len(later.executed) == 1


def test_the_stop_times_of_the_parts_add_up_to_ten_seconds():
    consumer = sys.modules["oc2d.engine.consumer"]
    assert consumer._WORKER_STOP + 2 * consumer._ENGINE_STOP <= 10


@pytest.mark.req("LANG-44")
def test_the_log_tells_why_and_the_producer_only_the_text(build, door):
    def fails(_):
        try:
            raise OSError(SECRET)
        except OSError as error:
            raise Failed("the door does not move") from error

    door.behave = fails
    bench = build(door)
    with structlog.testing.capture_logs() as logs:
        reply = bench.answered(deny())
        bench.answered({**deny(), "action": "scan"}, request_id="r-2")
        door.behave = lambda _: Response()
        bench.answered(deny(), request_id="r-3")
        bench.settle()
    failed, refused, good = [entry for entry in logs if entry["event"] == "request"]
    assert (failed["status"], failed["text"]) == (500, "the door does not move")
    assert failed["cause"] == f"OSError: {SECRET}"
    assert SECRET not in str(reply)
    assert (refused["status"], refused["text"]) == (501, "Command not supported: scan ipv4_net")
    assert "cause" not in refused
    assert good.keys() & {"text", "cause"} == set()


def test_the_status_shows_the_text_of_a_refusal(build, door):
    door.status = raises(Failed("the door does not answer"))
    bench = build(door)
    told = bench.consumer.snapshot()["actuators"]["x-door"]
    assert told["error"] == "status failed: the door does not answer"


class Exits(Value):
    def tree(self, _encoding):
        raise SystemExit


class Incomparable:
    def __ne__(self, _other):
        raise ValueError("ambiguous")

    __eq__ = __ne__
    __hash__ = None


@pytest.mark.req("LANG-44")
@pytest.mark.parametrize(
    "wrong", [{"results": Exits()}, {"status": Incomparable()}, {"status": Unbound()}]
)
def test_a_response_that_breaks_who_looks_at_it_is_a_500_and_the_engine_lives_on(
    bench, door, wrong
):
    door.behave = lambda _: Response(**wrong)
    assert bench.answered(deny()).status == 500
    door.behave = lambda _: Response()
    assert bench.answered(deny(), request_id="2").status == 200
