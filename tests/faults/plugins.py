"""Plugins that raise, talk nonsense, block, leak, and end the process: the others go on.

A command that was running at two deaths is answered 500 and never run again.
"""

from __future__ import annotations

import time
from collections import Counter
from typing import Any

from oc2d.actuator import Action
from tests.consumer import Consumer, command, deny
from tests.faults.scenario import Run
from tests.producer import Producer
from tests.waiting import wait_until

__all__ = ["run"]

_DEATHS = {"os._exit": 7, "segfault": -11, "abort": -6}
_TIMEOUT = 2.0


def start(nsid: str, what: str) -> dict[str, Any]:
    """A command for one of the plugins of the fault runs."""
    name = "item" if nsid == "x-count" else "how"
    return command(Action.START.value, {f"{nsid}:{name}": what})


def effects(zulu: Consumer, nsid: str) -> Counter[str]:
    """How often each command took effect."""
    path = zulu.directory / "state" / f"{nsid}.effects"
    return Counter(path.read_text().splitlines() if path.exists() else ())


def run(this: Run) -> None:
    """One kind of misbehaviour after the other, in one daemon as long as it can live."""
    host = this.host(isolated=False)
    zulu = host.consumer(
        actuators_slpf={"backend": "dry-run"},
        **{
            "actuators_x-unkind": {"timeout": _TIMEOUT},
            "actuators_x-steady": {"timeout": _TIMEOUT},
            "actuators_x-count": {},
        },
    )
    zulu.start(**this.environment())
    soc = host.producer()
    turns = this.many(1, 10)
    for turn in range(turns):
        _faults(this, zulu, soc, turn)
        _block(this, zulu, soc, turn)
        for how in _DEATHS if turns > 1 else [this.rnd.choice([*_DEATHS])]:
            _deadly(this, zulu, soc, f"{how} {turn}")
            _deadly_twice(this, zulu, soc, f"{how} {turn}")
    assert zulu.stop() == 0


def _others_go_on(zulu: Consumer, soc: Producer, what: str) -> None:
    assert soc.ask(start("x-count", what)).status == 200
    assert effects(zulu, "x-count")[what] == 1
    assert soc.ask(deny("10.0.0.1")).status == 200


def _faults(this: Run, zulu: Consumer, soc: Producer, turn: int) -> None:
    assert zulu.process is not None
    for nsid in ("x-unkind", "x-steady"):
        for how in ("raise", "exit", "nonsense", "recurse"):
            reply = soc.ask(start(nsid, f"{how} {turn}"))
            assert (reply.status, reply.text) == (500, "internal error"), reply
            _others_go_on(zulu, soc, f"{nsid} {how} {turn}")
            this.figures["faults answered 500"] += 1
    before = zulu.resident()
    assert soc.ask(start("x-unkind", f"leak {turn}")).status == 200
    assert zulu.resident() < before + (8 << 20)
    assert zulu.process.poll() is None


def _block(this: Run, zulu: Consumer, soc: Producer, turn: int) -> None:
    """Stuck: answered 500, the next 503, the status shows it, a stop does not wait for it."""
    blocked = soc.send(start("x-unkind", f"block {turn}"))
    behind = soc.send(start("x-unkind", f"ok behind {turn}"))
    _others_go_on(zulu, soc, f"beside {turn}")
    reply = soc.wait(blocked)[-1]
    assert (reply.status, reply.text) == (500, "outcome unknown")
    assert soc.wait(behind)[-1].status == 503
    assert soc.ask(start("x-unkind", f"ok after {turn}")).status == 503
    assert zulu.told()["actuators"]["x-unkind"]["state"] == "stuck"
    assert zulu.told()["actuators"]["x-count"]["state"] == "running"
    _others_go_on(zulu, soc, f"beside the stuck one {turn}")
    begun = time.monotonic()
    assert zulu.stop() == 0
    assert time.monotonic() - begun < 15
    zulu.start(**this.environment())
    assert soc.ask(start("x-unkind", f"ok again {turn}")).status == 200
    done = effects(zulu, "x-unkind")
    assert (done[f"block {turn}"], done[f"ok behind {turn}"], done[f"ok after {turn}"]) == (1, 0, 0)
    this.figures["workers stuck and passed over"] += 1


def _dies(this: Run, zulu: Consumer, how: str) -> None:
    assert zulu.wait() == _DEATHS[how.partition(" ")[0]]
    this.figures["deaths by a plugin"] += 1


def _deadly(this: Run, zulu: Consumer, soc: Producer, how: str) -> None:
    """Not idempotent: one death, answered 500, never run again."""
    killer = soc.send(start("x-unkind", how))
    _dies(this, zulu, how)
    zulu.start(**this.environment())
    reply = soc.wait(killer)[-1]
    assert (reply.status, reply.text) == (500, "outcome unknown")
    assert effects(zulu, "x-unkind")[how] == 1
    _others_go_on(zulu, soc, f"after {how}")


def _deadly_twice(this: Run, zulu: Consumer, soc: Producer, how: str) -> None:
    """Idempotent: run again once, alone; what came with it is carried out."""
    around = [f"ok {how} {number}" for number in range(20)]
    sent = [soc.send(start("x-steady", what)) for what in around[:10]]
    killer = soc.send(start("x-steady", how))
    sent += [soc.send(start("x-steady", what)) for what in around[10:]]
    _dies(this, zulu, how)
    zulu.launch(**this.environment())
    _dies(this, zulu, how)
    zulu.start(**this.environment())
    reply = soc.wait(killer)[-1]
    assert (reply.status, reply.text) == (500, "outcome unknown")
    assert effects(zulu, "x-steady")[how] == 2
    assert {soc.wait(one)[-1].status for one in sent} == {200}
    assert all(effects(zulu, "x-steady")[what] in {1, 2} for what in around)
    wait_until(lambda: zulu.told()["engine"]["queue"] == 0)
    this.figures["commands that killed twice, answered 500"] += 1
