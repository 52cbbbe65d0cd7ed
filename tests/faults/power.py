"""Power loss: what the daemon had not synced is gone, torn or out of order, and so is the kernel.

The stream, the model and the comparison are those of `kill`: whatever was acknowledged to the
broker is carried out or was, and whatever was answered stays so. In between the process is killed
now and then and the disk lives on, so that it also dies of what an earlier process did not sync.
"""

from __future__ import annotations

import shutil

from tests.consumer import Consumer
from tests.faults.disk import Disk, build_recorder
from tests.faults.kill import deadly_point
from tests.faults.ordeal import Ordeal, make_consumer
from tests.faults.scenario import Run

__all__ = ["run"]

_COMPARE = 25  # cuts


def run(this: Run) -> None:
    """Cut the power, start again, go on; now and then and at the end compare with the model."""
    cuts = this.many(6, 250)
    zulu = make_consumer(this)
    disk = Disk(zulu.directory / "state", this.directory / "disk.log")
    plain = {**this.environment(), **disk.environment(build_recorder(this.directory))}
    ordeal = Ordeal(this, zulu, plain)
    number = 0
    while this.figures["power cuts"] < cuts:
        ordeal.ask()
        point = deadly_point(this, number)
        in_sync = not point and this.rnd.random() < 0.5
        death = {"OC2D_DISK_DEATH": str(this.rnd.randrange(1, 40))} if in_sync else {}
        zulu.launch(**{**plain, **death, "OC2D_FAULTS": point})
        ordeal.one_life(point or str(death or ""))
        number += 1
        if this.rnd.random() < 0.7:
            _cut(this, zulu, disk)
        ordeal.deaths.note()
        if number % _COMPARE == 0:
            ordeal.compare()
    ordeal.compare()
    this.figures["syncs"] = disk.syncs
    this.figures["files that lost something"] = disk.lost
    ordeal.sum_up()


def _cut(this: Run, zulu: Consumer, disk: Disk) -> None:
    """Disk, kernel and runtime directory, as after a reboot."""
    disk.lose_power(this.rnd)
    shutil.rmtree(zulu.directory / "run", ignore_errors=True)
    if "table inet oc2d" in zulu.host.nft("list", "tables"):
        zulu.host.nft("delete", "table", "inet", "oc2d")
    this.figures["power cuts"] += 1
