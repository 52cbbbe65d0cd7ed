"""Plugins that raise or answer nonsense (DESIGN 5, LANG-44)."""

from __future__ import annotations

import pytest
import structlog

from oc2d.actuator import Response
from oc2d.errors import Failed, Forbidden, Refusal, Unavailable
from oc2d.language.reading import Value
from oc2d.language.vocabulary import StatusCode
from tests.unit.engine.bench import deny
from tests.unit.engine.plugins import DoorResults, Gate, Together

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
        (raises(Forbidden("not \ud800")), 403, "not ?"),
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
    assert not bench.consumer._cases.open


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
    # what broke off may have reserved something
    broke_off = where == "on_reserve" and not isinstance(error, Forbidden)
    assert door.reverted == [command.key for command in door.reserved if broke_off]
    assert not bench.consumer._cases.open


@pytest.mark.parametrize("reserved", [object(), "text", {"a": {1, object()}}])
def test_reserve_may_return_nonsense(build, door, reserved):
    door.on_reserve = lambda _: reserved
    bench = build(door)
    reply = bench.answered(deny(start_time=bench.turned.wall + 5000))
    assert (reply.status, reply.text) == (500, "internal error")
    bench.settle()
    assert door.reverted == [door.reserved[0].key]
    assert not bench.consumer._cases.open


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


def test_a_response_that_is_no_refusal_has_done_something_and_its_window_ends(build, door):
    door.behave = lambda _: Response(StatusCode.INTERNAL_ERROR, "a part is in force")
    bench = build(door)
    answer = bench.answered(deny(duration=5000))
    assert (answer.status, answer.text) == (500, "a part is in force")
    bench.settle()
    assert door.reverted == []
    bench.advance(5)
    bench.settle()
    assert door.reverted == [door.executed[0].key]


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
