"""What faults of the broker share: a Consumer at a mosquitto, and whether it is back in time."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from tests.consumer import Consumer, Host
from tests.faults.plugins import effects, start
from tests.faults.scenario import Run
from tests.producer import Producer
from tests.waiting import wait_until

__all__ = ["BACK", "SILENCE", "all_done", "ask", "back", "gone", "scene"]

BACK = 60 + 10 + 20  # seconds: the longest wait, a connect that hangs, an answer that lacks
SILENCE = 20 + 10  # seconds until a broker that says nothing is left, at keep_alive = 1


@contextmanager
def scene(
    this: Run, *options: str, isolated: bool = False, persistent: bool = True, keep_alive: int = 300
) -> Iterator[tuple[Host, Consumer, Producer]]:
    host = this.host(*options, isolated=isolated, persistent=persistent)
    zulu = host.consumer(broker={"keep_alive": keep_alive}, **{"actuators_x-count": {}})
    yield host, zulu.start(**this.environment()), host.producer()
    assert zulu.process is not None
    assert zulu.process.poll() == 0 or zulu.stop() == 0


def ask(soc: Producer, mark: str, count: int = 20) -> list[str]:
    for number in range(count):
        soc.send(start("x-count", f"{mark}-{number}"), request_id=f"{mark}-{number}")
    return [f"{mark}-{number}" for number in range(count)]


def all_done(zulu: Consumer, soc: Producer, asked: list[str]) -> None:
    """Each is answered 200 and took effect once."""
    assert {soc.wait(one, timeout=BACK)[-1].status for one in asked} <= {200}
    done = effects(zulu, "x-count")
    assert [done[one] for one in asked] == [1] * len(asked)


def back(this: Run, zulu: Consumer, begun: float, reason: str) -> None:
    """It is back in time, and has said what was wrong."""
    zulu.until_subscribed(BACK)
    took = time.monotonic() - begun
    this.figures["slowest return, ms"] = max(this.figures["slowest return, ms"], round(1000 * took))
    told = [
        entry["reason"]
        for entry in zulu.entries()
        if entry["event"] in {"mqtt.disconnected", "mqtt.connect_failed"}
    ]
    assert any(reason in one for one in told), (reason, told)


def gone(zulu: Consumer, reason: str, timeout: float = 15) -> None:
    """The status says that it is gone, and why."""
    wait_until(lambda: not zulu.told()["link"]["connected"], timeout)
    wait_until(lambda: reason in (zulu.told()["link"]["last_error"] or ""), timeout, reason)
