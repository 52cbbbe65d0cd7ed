"""kill -9 at random instants and at every transition of the journal, under a stream of commands."""

from __future__ import annotations

from tests.faults.ordeal import Ordeal, make_consumer
from tests.faults.scenario import Run

__all__ = ["deadly_point", "run"]

_JOURNAL = (
    *("begin", "commit", "add", "add_answered", "delivered", "started", "finish", "respond"),
    *("post", "sent", "released", "arm", "disarm", "reverting", "reoriginate", "expire"),
)
_POINTS = (
    *(f"oc2d.engine.journal:Journal.{method}" for method in _JOURNAL),
    *(f"oc2d.mqtt.session:Session.{method}" for method in ("acknowledge", "send", "release")),
    "oc2d_faults:Count.effect",
    "oc2d_slpf.nftables:Nftables.apply",
    "oc2d_slpf.store:Store.remember",
)


def run(this: Run) -> None:
    """Kill, restart, go on; every 50 kills and at the end compare with the model."""
    kills = this.many(8, 1000)
    zulu = make_consumer(this)
    ordeal = Ordeal(this, zulu, this.environment())
    for number in range(kills):
        point = deadly_point(this, number)
        ordeal.ask()
        zulu.launch(**this.environment(point))
        ordeal.one_life(point)
        ordeal.deaths.note()
        if number % 50 == 49 or number == kills - 1:
            ordeal.compare()
    ordeal.sum_up()


def deadly_point(this: Run, number: int) -> str:
    """Every second death is at a transition, the others whenever it happens."""
    if number % 2:
        return ""
    where = _POINTS[number // 2 % len(_POINTS)] if number < 2 * len(_POINTS) else ""
    where = where or this.rnd.choice(_POINTS)
    often = this.rnd.choice((1, 1, 2, 3, 5, 8))
    return f"{where}:{this.rnd.choice(('before', 'after'))}:{often}"
