"""A Debian machine of our own: a root made by mmdebstrap, booted with its systemd and a network."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
# What the package depends on, a broker, and what the tests look with.
PACKAGES = (
    "systemd-sysv dbus python3 python3-systemd libgcc-s1 nftables iptables iproute2 mosquitto"
)
TOOLS = ("mmdebstrap", "systemd-nspawn", "nsenter", "ip", "setpriv")
_PATH = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
HOME = "/var/lib/producer"  # of whoever commands
_ENVIRONMENT = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": HOME, "LANG": "C.UTF-8"}
_MASKED = ("apt-daily.timer", "apt-daily-upgrade.timer", "console-getty.service", "getty@.service")


def base_root(build: Path) -> Path:
    """The root that all machines begin with; made once and kept in `build`."""
    if missing := [tool for tool in TOOLS if shutil.which(tool, path=_PATH) is None]:
        pytest.skip(f"needs {', '.join(missing)}")
    release = dict(
        line.split("=", 1) for line in Path("/etc/os-release").read_text().splitlines() if line
    )
    if release["ID"] != "debian":
        pytest.skip("needs Debian: the package is for the release that it is built on")
    suite = release["VERSION_CODENAME"].strip('"')
    mark = hashlib.sha256(f"{suite} {PACKAGES}".encode()).hexdigest()[:8]
    root = build / f"root-{suite}-{mark}"
    if not root.exists():
        fresh = build / f"{root.name}.new"
        shutil.rmtree(fresh, ignore_errors=True)
        _debootstrap(suite, fresh, build / f"{root.name}.log")
        fresh.rename(root)
    return root


def _debootstrap(suite: str, root: Path, log: Path) -> None:
    """Make a minimal Debian with the archives and the way to them that this host uses."""
    options = ["--mode=root", "--variant=minbase", f"--include={PACKAGES.replace(' ', ',')}"]
    options += ["--dpkgopt=force-unsafe-io"]  # it is thrown away should the host die
    told = subprocess.run(["apt-config", "dump"], capture_output=True, text=True, check=True)
    acquire = [line for line in told.stdout.splitlines() if line.startswith("Acquire::")]
    options += [f"--aptopt={line}" for line in acquire]
    options += [
        "--customize-hook=rm -f $1/etc/apt/apt.conf.d/99mmdebstrap $1/etc/resolv.conf",
        *(f"--customize-hook=ln -sf /dev/null $1/etc/systemd/system/{unit}" for unit in _MASKED),
        "--customize-hook=echo machine > $1/etc/hostname; : > $1/etc/machine-id",
    ]
    places = [Path("/etc/apt/sources.list.d/debian.sources"), Path("/etc/apt/sources.list")]
    sources = next(place for place in places if place.exists())
    with log.open("wb") as out:
        done = subprocess.run(
            ["mmdebstrap", *options, suite, str(root), str(sources)],
            stdout=out,
            stderr=out,
            check=False,
        )
    if done.returncode:
        pytest.fail(f"mmdebstrap failed:\n{log.read_text(errors='replace')[-3000:]}")


class Machine:
    """A copy of the base root (in memory, over the original) that can be booted again and again."""

    def __init__(self, base: Path, place: Path) -> None:
        self._undo = ExitStack()
        self.root = place / "root"
        layer = place / "layer"
        for directory in (self.root, layer):
            directory.mkdir(parents=True)
        self._mount("-t", "tmpfs", "-o", "size=1g,mode=755", "tmpfs", layer)
        for part in ("upper", "scratch"):
            (layer / part).mkdir()
        options = f"lowerdir={base},upperdir={layer}/upper,workdir={layer}/scratch"
        self._mount("-t", "overlay", "-o", options, "overlay", self.root)
        self.init = 0
        self._nspawn: subprocess.Popen[bytes] | None = None
        self._place = place
        self._cgroup = Path()

    def _mount(self, *arguments: object) -> None:
        subprocess.run(["mount", *map(str, arguments)], check=True)
        self._undo.callback(subprocess.run, ["umount", "-l", str(arguments[-1])], check=True)

    # -- life

    def boot(self) -> Machine:
        """Boot, and wait until it has come up."""
        self.begin()
        self.until(self.is_up, 60, "booted")
        return self

    def begin(self) -> None:
        """Boot, and wait only for its first process."""
        top = Path("/sys/fs/cgroup/unified")
        self._cgroup = (top if top.exists() else top.parent) / f"oc2d-test-{os.getpid()}-{id(self)}"
        try:
            self._cgroup.mkdir()
        except OSError as error:
            pytest.skip(f"needs to make control groups (version 2) to boot a machine: {error}")
        with (self._place / "console").open("ab") as out:
            self._nspawn = subprocess.Popen(
                [HERE / "boot", self.root, self._cgroup],
                stdout=out,
                stderr=out,
                env={**os.environ, "PATH": _PATH},
            )
        first = self._cgroup / "payload/init.scope/cgroup.procs"

        def begun() -> bool:
            assert self._nspawn is not None
            if self._nspawn.poll() is not None:
                pytest.fail(f"no boot: {(self._place / 'console').read_text()[-3000:]}")
            return first.exists() and bool(first.read_text().strip())

        self.until(begun, 20, "the machine's first process")
        self.init = int(first.read_text().split()[0])

    def until(self, condition: Callable[[], object], timeout: float, what: str) -> None:
        """Wait for something that is told by a program: less often than `wait_until` looks."""
        deadline = time.monotonic() + timeout
        while not condition():
            if time.monotonic() > deadline:
                log = self.run("journalctl", "--no-pager", "-n", "40", check=False).stdout
                pytest.fail(f"not within {timeout} s: {what}\n{log}")
            time.sleep(0.05)

    def is_up(self) -> bool:
        """Whether it has come up."""
        state = self.run("systemctl", "is-system-running", check=False).stdout.strip()
        return state in {"running", "degraded"}

    def power_off(self) -> None:
        if self._nspawn is None:
            return
        os.kill(self.init, signal.SIGRTMIN + 3)
        try:
            self._nspawn.wait(60)
        finally:
            self._end()

    def _end(self) -> None:
        assert self._nspawn is not None
        self._nspawn.kill()
        self._nspawn.wait(10)
        self._nspawn = None
        deadline = time.monotonic() + 10
        while self._cgroup.exists():
            for group in [*sorted(self._cgroup.rglob("*/"), reverse=True), self._cgroup]:
                if group.is_dir():
                    subprocess.run(["rmdir", group], stderr=subprocess.DEVNULL, check=False)
            assert time.monotonic() < deadline, f"{self._cgroup} does not end"

    def close(self) -> None:
        with self._undo:
            if self._nspawn is not None:
                self._end()

    # -- what is done on it

    def command(self, *words: str) -> list[str]:
        """Turn into what runs a command on the machine, as root."""
        settings = [f"{name}={value}" for name, value in _ENVIRONMENT.items()]
        return ["nsenter", "-t", str(self.init), "-a", "env", "-i", *settings, *words]

    def run(
        self, *words: str, check: bool = True, timeout: float = 100, text: str | None = None
    ) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            self.command(*words),
            input=text or "",
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        assert not check or done.returncode == 0, f"{words}: {done.stdout}{done.stderr}"
        return done

    def path(self, name: str) -> Path:
        """A file of the machine, seen from here (not what is mounted in it, as /run)."""
        return self.root / name.lstrip("/")

    def write(self, name: str, text: str, mode: int = 0o644) -> None:
        self.path(name).parent.mkdir(parents=True, exist_ok=True)
        self.path(name).write_text(text)
        self.path(name).chmod(mode)

    def install(self, deb: Path) -> str:
        """Install a package as apt does when everything it needs is there."""
        shutil.copy(deb, self.path("/var/cache/new.deb"))
        done = self.run("env", "DEBIAN_FRONTEND=noninteractive", "dpkg", "-i", "/var/cache/new.deb")
        return done.stdout + done.stderr

    # -- what its systemd and its journal say

    def unit(self, name: str = "oc2d") -> dict[str, str]:
        """The properties of a service."""
        shown = self.run("systemctl", "show", name).stdout
        return dict(line.split("=", 1) for line in shown.splitlines())

    def journal(self, *words: str) -> list[dict[str, Any]]:
        """Entries of the journal as objects."""
        self.run("journalctl", "--sync")
        lines = self.run("journalctl", "-o", "json", "--all", *words).stdout.splitlines()
        return [json.loads(line) for line in lines]
