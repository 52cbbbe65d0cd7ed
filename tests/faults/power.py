"""Power loss: what the daemon had not synced is gone, torn or out of order, and so is the kernel.

The stream, the model and the comparison are those of `kill`: whatever was acknowledged to the
broker is carried out or was, and whatever was answered stays so. In between the process is killed
now and then and the disk lives on, so that it also dies of what an earlier process did not sync.
"""

from __future__ import annotations

import shutil

from tests.consumer import Consumer, Host
from tests.faults.disk import Disk, build_recorder
from tests.faults.kill import (
    MOST_OPEN,
    Deaths,
    Model,
    compare,
    deadly_point,
    final_responses,
    make_model,
    one_life,
    send_more,
)
from tests.faults.scenario import Run
from tests.producer import Producer

__all__ = ["run"]

_COMPARE = 25  # cuts


def run(this: Run) -> None:
    """Cut the power, start again, go on; now and then and at the end compare with the model."""
    cuts = this.many(6, 250)
    host = this.host()
    zulu = this.consumer(
        host,
        broker={"qos": 2},
        actuators_slpf={},
        **{"actuators_x-count": {}},  # type: ignore[arg-type]
    )
    disk = Disk(zulu.directory / "state", this.directory / "disk.log")
    plain = {**this.environment(), **disk.environment(build_recorder(this.directory))}
    this.start(zulu, **plain)
    watcher = host.producer("watcher@example.com")
    models = [make_model(this, host, index) for index in range(4)]
    deaths = Deaths(zulu)
    zulu.kill()
    number = 0
    while this.figures["power cuts"] < cuts:
        if sum(len(model.sent) for model in models) - len(final_responses(watcher)) < MOST_OPEN:
            send_more(models, this.rnd.randrange(0, 4))
        point = deadly_point(this, number)
        in_sync = not point and this.rnd.random() < 0.5
        death = {"OC2D_DISK_DEATH": str(this.rnd.randrange(1, 40))} if in_sync else {}
        zulu.launch(**{**plain, **death, "OC2D_FAULTS": point})
        one_life(this, zulu, models, point or str(death or ""))
        number += 1
        if this.rnd.random() < 0.7:
            _cut(this, host, zulu, disk)
        deaths.note()
        if number % _COMPARE == 0:
            _compare(this, host, zulu, watcher, models, deaths, plain)
    _compare(this, host, zulu, watcher, models, deaths, plain)
    this.figures["syncs"] = disk.syncs
    this.figures["files that lost something"] = disk.lost
    this.figures["commands"] = sum(len(model.sent) for model in models)
    this.figures["lost"] = this.figures["twice"] = 0  # or we were not here


def _cut(this: Run, host: Host, zulu: Consumer, disk: Disk) -> None:
    """Disk, kernel and runtime directory, as after a reboot."""
    disk.lose_power(this.rnd)
    shutil.rmtree(zulu.directory / "run", ignore_errors=True)
    if "table inet oc2d" in host.nft("list", "tables"):
        host.nft("delete", "table", "inet", "oc2d")
    this.figures["power cuts"] += 1


def _compare(
    this: Run,
    host: Host,
    zulu: Consumer,
    watcher: Producer,
    models: list[Model],
    deaths: Deaths,
    plain: dict[str, str],
) -> None:
    this.start(zulu, **plain)
    compare(this, host, zulu, watcher, models, deaths)
    zulu.kill()
    deaths.note()
