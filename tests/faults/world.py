"""A clock that is set by days, and a kernel that has no memory for what netlink asks of it."""

from __future__ import annotations

import struct
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.consumer import Consumer, Host, deny
from tests.faults.plugins import effects, start
from tests.faults.scenario import Run
from tests.producer import Producer
from tests.waiting import wait_until

__all__ = ["clock_set", "no_kernel_memory"]

_DAY = 86_400


class World:
    """What `world.c` makes a process believe."""

    def __init__(self, directory: Path) -> None:
        self._file = directory / "world"
        self._shim = directory / "world.so"
        source = Path(__file__).with_name("world.c")
        command = ["gcc", "-shared", "-fPIC", "-O2", "-o", str(self._shim), str(source), "-ldl"]
        subprocess.run(command, check=True)
        self._file.write_bytes(bytes(16))

    @property
    def environment(self) -> dict[str, str]:
        return {"OC2D_WORLD": str(self._file), "LD_PRELOAD": str(self._shim)}

    def _set(self, at: int, number: int) -> None:
        with self._file.open("r+b") as file:
            file.seek(at)
            file.write(struct.pack("=q", number))

    def turn(self, days: float) -> None:
        """Set the wall clock to so many days from now."""
        self._set(0, int(days * _DAY))

    @contextmanager
    def netlink(self, fault: int) -> Iterator[None]:
        self._set(8, fault)
        try:
            yield
        finally:
            self._set(8, 0)


def _in(seconds: float) -> int:
    return int((time.time() + seconds) * 1000)


def _timed(soc: Producer, address: str, **args: int) -> str:
    return soc.send({**deny(address), "args": args})


def clock_set(this: Run, host: Host, zulu: Consumer) -> None:
    """Forward and back by days, with windows pending; once with a restart in between."""
    world = World(zulu.directory)
    zulu.start(**this.environment(), **world.environment)
    soc = host.producer()

    def stands(*wanted: str) -> bool:
        return {one for one in host.elements() if one.startswith("10.5.")} == set(wanted)

    once = soc.send(start("x-count", "once"), request_id="once")
    soc.wait(once)
    asked = [
        _timed(soc, "10.5.0.1", duration=12_000),  # follows no clock that is set
        _timed(soc, "10.5.0.2", start_time=_in(_DAY / 2)),
        _timed(soc, "10.5.0.3", stop_time=_in(_DAY / 2)),
        _timed(soc, "10.5.0.4", start_time=_in(3 * _DAY / 2)),
    ]
    begun = time.monotonic()
    wait_until(lambda: stands("10.5.0.1", "10.5.0.3"), 8)
    world.turn(1)
    wait_until(lambda: stands("10.5.0.1", "10.5.0.2"), 5)
    assert time.monotonic() - begun < 12
    wait_until(lambda: soc.wait(asked[1])[-1].status == 200)  # in force a moment before it is told
    again = soc.send(start("x-count", "once"), request_id="once")
    wait_until(lambda: len(soc.of(again)) == 2)
    wait_until(lambda: stands("10.5.0.2"), 20)
    assert time.monotonic() - begun >= 10
    world.turn(-1)  # two days back
    soc.wait(_timed(soc, "10.5.0.5", stop_time=_in(1)))  # in a day and a second by its clock
    time.sleep(1.2)
    assert stands("10.5.0.2", "10.5.0.5")
    zulu.kill()
    zulu.start(**this.environment(), **world.environment)
    assert stands("10.5.0.2", "10.5.0.5")
    world.turn(0)
    wait_until(lambda: stands("10.5.0.2"), 5)
    world.turn(2)
    wait_until(lambda: stands("10.5.0.2", "10.5.0.4"), 5)
    wait_until(lambda: soc.wait(asked[3])[-1].status == 200)
    soc.send(start("x-count", "once"), request_id="once")
    wait_until(lambda: len(soc.of(once)) == 3)
    assert effects(zulu, "x-count")["once"] == 1
    link = zulu.told()["link"]
    assert (link["connected"], link["reconnects"]) == (True, 0)


def no_kernel_memory(this: Run, host: Host, zulu: Consumer) -> None:
    """What the kernel cannot take is answered 500 and not in force; afterwards all is as before."""
    world = World(zulu.directory)
    zulu.start(**this.environment(), **world.environment)
    soc = host.producer()
    assert soc.ask(deny("10.6.0.1")).status == 200
    wanted = {"10.6.0.1"}
    for number, fault in enumerate((1, 2, 3, 4, 5, 8, 3)):
        with world.netlink(fault):
            told = {
                address: soc.ask(deny(address)).status
                for address in (f"10.6.{number + 1}.{n}" for n in range(1, 5))
            }
        wanted |= {address for address, status in told.items() if status == 200}
        failed = [status == 500 for status in told.values()]
        assert all(failed) if fault < 3 else not all(failed)  # what lost one answer tries again
        this.figures["answers of the kernel lost"] += max(0, fault - 2)
        assert soc.ask(deny(f"10.6.{number + 1}.99")).status == 200
        wanted.add(f"10.6.{number + 1}.99")
        assert set(host.elements()) == wanted
        assert {rule["match"].split()[1][:-3] for rule in zulu.rules().values()} == wanted
    zulu.kill()
    zulu.start(**this.environment(), **world.environment)
    assert set(host.elements()) == wanted
