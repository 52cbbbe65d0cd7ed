"""Its own resources: disk, files, descriptors, directories, the kernel's table, memory and clock.

Nothing is acknowledged that is not durable; errors say what to do; where it can the daemon goes on
by itself.
"""

from __future__ import annotations

import os
import re
import resource
import shutil
import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from pathlib import Path

from tests.consumer import OC2D, Consumer, Host, deny
from tests.faults.plugins import effects, start
from tests.faults.scenario import Run
from tests.faults.world import clock_set, no_kernel_memory
from tests.namespace import tool
from tests.producer import Producer
from tests.waiting import wait_until

__all__ = ["run"]


def run(this: Run) -> None:
    """Each shortage on a host of its own, several at a time."""
    shortages = (
        _full_disk,
        _read_only,
        _unusable_files,
        _no_descriptors,
        _no_runtime_directory,
        _foreign_table,
        _no_permission,
        clock_set,
        no_kernel_memory,
    )
    with ThreadPoolExecutor(4) as pool:
        for shortage, done in [(one, pool.submit(_one, this, one)) for one in shortages]:
            done.result()
            this.figures[shortage.__name__.strip("_").replace("_", " ")] += 1


def _one(this: Run, shortage: Callable[[Run, Host, Consumer], None]) -> None:
    with _consumer(this) as (host, zulu):
        shortage(this, host, zulu)


@contextmanager
def _consumer(this: Run) -> Iterator[tuple[Host, Consumer]]:
    """A Consumer that is not started, its state on a small disk of its own."""
    host = this.host()
    zulu = host.consumer(actuators_slpf={}, **{"actuators_x-count": {}})
    state = zulu.directory / "state"
    state.mkdir(mode=0o700)
    tool("mount", "-t", "tmpfs", "-o", "size=8m,mode=0700", "oc2d-faults", str(state))
    try:
        yield host, zulu
    finally:
        zulu.close()
        tool("umount", str(state))


def _asked(soc: Producer, count: int, mark: str) -> list[str]:
    sent = [soc.send(start("x-count", f"{mark}{number}")) for number in range(count)]
    return sent + [soc.send(deny(f"10.{len(mark)}.0.{number + 1}")) for number in range(count)]


def _answered(host: Host, zulu: Consumer, soc: Producer, sent: list[str], mark: str) -> None:
    assert {soc.wait(one, timeout=30)[-1].status for one in sent} == {200}
    half = len(sent) // 2
    done = effects(zulu, "x-count")
    assert [done[f"{mark}{number}"] for number in range(half)] == [1] * half
    assert {f"10.{len(mark)}.0.{n + 1}" for n in range(half)} <= set(host.elements())


def _true(host: Host, zulu: Consumer, soc: Producer, sent: list[str], mark: str) -> set[int]:
    """Each is answered, and 200 is told of what took effect and of nothing else."""
    half = len(sent) // 2
    status = [soc.wait(one, timeout=30)[-1].status for one in sent]
    done, kernel = effects(zulu, "x-count"), set(host.elements())
    for number in range(half):
        assert done[f"{mark}{number}"] == (status[number] == 200)
        in_force = f"10.{len(mark)}.0.{number + 1}" in kernel
        assert in_force == (status[half + number] == 200)
    return set(status)


def _full_disk(this: Run, host: Host, zulu: Consumer) -> None:
    """Full and free again, twice; with a restart of the broker in the second.

    The journal holds what it cannot write; an actuator that has no room answers 500.
    """
    zulu.start(**this.environment())
    soc = host.producer()
    _answered(host, zulu, soc, _asked(soc, 5, "a"), "a")
    ballast = zulu.directory / "state" / "ballast"
    for mark in ("bb", "dddd"):
        _fill(ballast)
        before = len(soc.replies)
        sent = _asked(soc, 100, mark)

        def told_of(before: int = before) -> bool:
            """The status tells; or the journal had room in what it wrote before."""
            answered = len(soc.replies) >= before + 200
            return answered or bool(zulu.told()["engine"]["journal_error"])

        wait_until(told_of, 30)
        assert zulu.told()["link"]["connected"]
        if mark == "dddd":
            host.broker.kill()
            host.start_broker()
            wait_until(lambda: zulu.told()["link"]["reconnects"] == 1, 20)
        ballast.unlink()
        if mark != "dddd":  # the broker kept nothing, so only some are delivered again
            assert _true(host, zulu, soc, sent, mark) <= {200, 500}
        wait_until(lambda: zulu.told()["engine"]["journal_error"] is None)
        assert soc.ask(deny(f"10.8.0.{len(mark)}")).status == 200
    zulu.until_subscribed()
    assert zulu.entries("journal_failed")
    assert zulu.entries("journal_recovered")
    assert max(effects(zulu, "x-count").values()) == 1
    assert host.producer().ask(deny("10.9.9.9")).status == 200


def _fill(path: Path) -> None:
    """Take all the room there is."""
    with path.open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(4096))


def _read_only(this: Run, host: Host, zulu: Consumer) -> None:
    state = str(zulu.directory / "state")
    zulu.start(**this.environment())
    soc = host.producer()
    _answered(host, zulu, soc, _asked(soc, 5, "a"), "a")
    assert zulu.stop() == 0
    tool("mount", "-o", "remount,ro", state)
    _refuses_to_start(this, zulu, "state.directory: cannot use .*Read-only")
    tool("mount", "-o", "remount,rw", state)
    zulu.start(**this.environment())
    assert soc.ask(deny("10.9.9.9")).status == 200


def _refuses_to_start(this: Run, zulu: Consumer, pattern: str, wrapper: Sequence[str] = ()) -> None:
    zulu.write_config()
    done = zulu.host.run(
        subprocess.run,
        [*wrapper, *OC2D, "--foreground", "--config", str(zulu.config)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        env={**os.environ, **this.environment()},
    )
    assert done.returncode == 1, done
    assert re.search(pattern, done.stderr), done.stderr
    assert "Traceback" not in done.stderr, done.stderr


def _unusable_files(this: Run, host: Host, zulu: Consumer) -> None:
    """A second daemon, a journal that another holds, and one that is damaged."""
    zulu.start(**this.environment())
    soc = host.producer()
    _answered(host, zulu, soc, _asked(soc, 5, "a"), "a")
    _refuses_to_start(this, zulu, "another oc2d runs on")
    assert soc.ask(deny("10.9.9.9")).status == 200
    assert zulu.stop() == 0
    journal = zulu.directory / "state" / "journal.db"
    with closing(sqlite3.connect(journal, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        _refuses_to_start(this, zulu, "cannot use the journal .*locked")
    whole = journal.read_bytes()
    for damage in (this.rnd.randbytes(len(whole)), whole[:4096] + bytes(8192)):
        (journal.with_name("journal.db-wal")).unlink(missing_ok=True)
        journal.write_bytes(damage)
        _refuses_to_start(this, zulu, "cannot use the journal|journal.*(damaged|malformed)")
    journal.write_bytes(whole)
    zulu.start(**this.environment())
    assert soc.ask(deny("10.9.9.8")).status == 200
    assert "10.1.0.1" in host.elements()


def _limit(zulu: Consumer, limit: int) -> None:
    assert zulu.process is not None
    _, hard = resource.prlimit(zulu.process.pid, resource.RLIMIT_NOFILE)
    resource.prlimit(zulu.process.pid, resource.RLIMIT_NOFILE, (limit, hard))


def _no_descriptors(this: Run, host: Host, zulu: Consumer) -> None:
    """What runs goes on without new ones; a link that broke comes back when there are some."""
    zulu.start(**this.environment())
    soc = host.producer()
    assert zulu.process is not None
    soft, _ = resource.prlimit(zulu.process.pid, resource.RLIMIT_NOFILE)
    _limit(zulu, 3)
    _answered(host, zulu, soc, _asked(soc, 20, "a"), "a")
    host.broker.kill()
    host.start_broker()
    time.sleep(1.5)  # attempts that fail, with growing pauses
    assert zulu.process.poll() is None
    _limit(zulu, soft)
    zulu.until_subscribed(60)
    _answered(host, zulu, soc, _asked(soc, 20, "bb"), "bb")


def _no_runtime_directory(this: Run, host: Host, zulu: Consumer) -> None:
    """Only `oc2d status` misses it; the next start makes it again."""
    zulu.start(**this.environment())
    soc = host.producer()
    shutil.rmtree(zulu.directory / "run")
    _answered(host, zulu, soc, _asked(soc, 20, "a"), "a")
    assert zulu.run("status").returncode == 1
    assert zulu.stop() == 0
    zulu.start(**this.environment())
    assert soc.ask(deny("10.9.9.9")).status == 200


def _foreign_table(this: Run, host: Host, zulu: Consumer) -> None:
    """A table of our name that another process owns: told, not fought over."""
    nft = shutil.which("nft", path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")
    assert nft is not None
    owner = host.run(
        subprocess.Popen, [nft, "-i"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
    )
    try:
        owner.stdin.write("add table inet oc2d { flags owner; }\n")
        owner.stdin.flush()
        wait_until(lambda: "oc2d" in host.nft("list", "tables"))
        _refuses_to_start(this, zulu, "no other oc2d holds the table inet oc2d")
    finally:
        owner.stdin.close()
        owner.wait(10)
    zulu.start(**this.environment())
    assert host.producer().ask(deny("10.9.9.9")).status == 200


def _no_permission(this: Run, host: Host, zulu: Consumer) -> None:
    """Without CAP_NET_ADMIN it does not start, and says so."""
    del host
    setpriv = ("setpriv", "--bounding-set", "-net_admin", "--inh-caps", "-net_admin")
    _refuses_to_start(this, zulu, "give CAP_NET_ADMIN", setpriv)
