"""What may be sent in a minute, wait and be remembered."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from oc2d.config import Limits
from tests.unit.engine.bench import deny
from tests.unit.engine.plugins import Gate


@pytest.mark.req("LANG-51")
def test_the_rate_is_exact_over_a_sliding_minute(build, door):
    bench = build(door, limits=Limits(rate_per_minute=3))
    for number, (wait, status) in enumerate(
        [(0, 200), (10, 200), (10, 200), (10, 503), (29.5, 503), (0.5, 200), (9.9, 503), (0.2, 200)]
    ):
        bench.advance(wait)
        assert bench.answered(deny(), request_id=str(number)).status == status, number


def test_the_queue_is_full_at_its_limit_even_within_one_delivery(build, door):
    door.behave = gate = Gate()
    bench = build(door, limits=Limits(queue=3))
    bench.deliver(*(bench.message(deny(), request_id=str(number)) for number in range(5)))
    gate.wait()
    assert bench.reply(2).status == 503
    assert [r.headers["request_id"] for r in bench.replies] == ["3", "4"]
    gate.open.set()
    bench.reply(5)
    # never stored as the outcome: the same request may be tried again
    assert bench.answered(deny(), request_id="4").status == 200
    assert len(door.executed) == 4


def test_large_messages_fill_the_queue_by_their_bytes(build, door, monkeypatch):
    monkeypatch.setattr("oc2d.engine.intake._MOST_HELD", 3000)
    door.behave = gate = Gate()
    bench = build(door, limits=Limits(payload=2000))

    def padded(request_id):
        message = bench.message(deny(), request_id=request_id)
        return replace(message, payload=message.payload.ljust(1400))

    bench.deliver(*(padded(str(number)) for number in range(3)))
    assert (bench.reply(1).headers["request_id"], bench.reply(1).status) == ("2", 503)
    gate.open.set()
    bench.reply(3)
    bench.settle()
    bench.deliver(padded("2"))
    bench.reply(4)
    assert bench.statuses == [503, 200, 200, 200]
    bench.settle()
    assert bench.consumer._cases.open.held == 0


def test_a_producer_has_its_share_of_the_queue(build, door):
    door.behave = gate = Gate()
    bench = build(door, limits=Limits(queue_per_producer=1))
    bench.ask(deny())
    gate.wait()
    assert bench.answered(deny(), request_id="2").status == 503
    bench.ask(deny(), sender="other")
    bench.ask(deny(), sender=None)
    gate.open.set()
    bench.reply(4)
    assert bench.statuses == [503, 200, 200, 200]
    bench.settle()
    assert bench.answered(deny(), request_id="3").status == 200


@pytest.mark.req("AMB-21")
def test_beyond_what_can_be_remembered_new_requests_wait_and_old_ones_stay_known(build, door):
    bench = build(door, limits=Limits(remember_count=2, remember=100))
    first = bench.ask(deny())
    bench.reply(1)
    assert bench.answered(deny(), request_id="2").status == 200
    assert bench.answered(deny(), request_id="3").status == 503
    bench.deliver(first)
    assert bench.reply(4).status == 200
    assert len(door.executed) == 2
    bench.advance(101.5)
    assert bench.answered(deny(), request_id="3").status == 200
    assert len(door.executed) == 3
