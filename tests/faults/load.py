"""More than it can do: bounded memory, 503 beyond the queue, nobody starves, the rate is exact.

Afterwards everything that was accepted was done, once and in the order of its Producer.
"""

from __future__ import annotations

import time
from collections import Counter

from tests.consumer import Consumer, query
from tests.faults.plugins import effects, start
from tests.faults.scenario import Run
from tests.producer import Producer
from tests.waiting import wait_until

__all__ = ["run"]

_QUEUE = 60
_SHARE = 20  # as many as a flood sends at once
_GROWTH = 32 << 20
_RATE = 90
_MEEK_PAUSE = 0.2
_AHEAD = 1500  # messages that a flooding Producer has out at most


def run(this: Run) -> None:
    """Two Producers flood, one is meek; then the rate limit."""
    _flood(this, this.many(6, 600))
    _rate(this)


def _flood(this: Run, seconds: int) -> None:
    host = this.host(isolated=False)
    zulu = host.consumer(
        limits={"queue": _QUEUE, "queue_per_producer": _SHARE},
        **{"actuators_x-count": {}},
    )
    zulu.start(**this.environment())
    floods = [host.producer(f"flood{number}@example.com") for number in range(2)]
    meek = host.producer("meek@example.com")
    before = zulu.resident()
    sent: dict[str, list[str]] = {one.sender: [] for one in (*floods, meek)}
    most = 0
    end, next_meek = time.monotonic() + seconds, 0.0
    while (now := time.monotonic()) < end:
        everything = sum(map(len, sent.values()))
        if everything - len(meek.replies) < _AHEAD:
            for flood in floods:
                for _ in range(20):
                    _send(flood, sent)
        else:
            time.sleep(0.005)
        if now >= next_meek:
            next_meek = now + _MEEK_PAUSE
            _send(meek, sent)
            most = max(most, zulu.resident())
    everything = sum(map(len, sent.values()))
    wait_until(lambda: len(meek.replies) >= everything, 120, "each is answered")
    most = max(most, zulu.resident())
    _done(this, zulu, meek, sent)
    this.figures["MB more in the flood"] = (most - before) >> 20
    assert most - before < _GROWTH, most - before
    assert zulu.stop() == 0


def _send(producer: Producer, sent: dict[str, list[str]]) -> None:
    own = sent[producer.sender]
    what = f"{producer.sender} {len(own)}"
    own.append(producer.send(start("x-count", what), request_id=what))


def _done(this: Run, zulu: Consumer, watcher: Producer, sent: dict[str, list[str]]) -> None:
    status = {reply.headers["request_id"]: reply.status for reply in list(watcher.replies)}
    order = [*effects(zulu, "x-count").elements()]
    assert len(order) == len(set(order)), "twice"
    for sender, own in sent.items():
        accepted = [what for what in own if status[what] == 200]
        assert [what for what in order if what.startswith(f"{sender} ")] == accepted
        refused = Counter(status[what] for what in own)
        assert set(refused) <= {200, 503}, refused
        this.figures[f"{sender.split('@')[0]}: 200"] = refused[200]
        this.figures[f"{sender.split('@')[0]}: 503"] = refused[503]
        if sender.startswith("meek"):
            assert refused[503] == 0, f"the meek were refused: {refused}"
    many = [this.figures[f"flood{number}: 200"] for number in range(2)]
    assert min(many) * 4 > max(many), f"one flood starves the other: {many}"
    assert sum(this.figures[f"flood{number}: 503"] for number in range(2)) > 0, "no flood"


def _rate(this: Run) -> None:
    """So many in a minute, not one more nor less."""
    host = this.host(isolated=False)
    zulu = host.consumer(limits={"rate_per_minute": _RATE}, **{"actuators_x-count": {}})
    zulu.start(**this.environment())
    soc = host.producer()
    sent = [soc.send(start("x-count", str(number))) for number in range(3 * _RATE)]
    wait_until(lambda: len(soc.replies) >= len(sent), 60)
    status = [soc.of(one)[0].status for one in sent]
    assert status == [200] * _RATE + [503] * 2 * _RATE
    assert len(effects(zulu, "x-count")) == _RATE
    assert soc.ask(query()).status == 503
    this.figures["accepted of the rate"] = _RATE
    assert zulu.stop() == 0
