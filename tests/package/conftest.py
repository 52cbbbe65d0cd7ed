"""The package, built once, and machines that it is installed on."""

from __future__ import annotations

import hashlib
import itertools
import shutil
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.package.machine import HOME, Machine, base_root

ROOT = Path(__file__).parents[2]
BUILD = ROOT / "build"
NEWER = "0.1.1~test"
_SOURCES = ("oc2d", "plugins", "etc", "packaging", "docs", "pyproject.toml", "README.md", "LICENSE")
_numbers = itertools.count(1)


def _mark() -> str:
    """What the package is made of."""
    mark = hashlib.sha256((ROOT / "scripts/package").read_bytes())
    for name in _SOURCES:
        top = ROOT / name
        for path in sorted(top.rglob("*")) if top.is_dir() else [top]:
            if path.is_file() and "__pycache__" not in path.parts:
                mark.update(str(path).encode() + path.read_bytes())
    return mark.hexdigest()


def _package() -> Path:
    mark = BUILD / "package.mark"
    found = list(BUILD.glob("oc2d_*.deb"))
    if not (found and mark.exists() and mark.read_text() == _mark()):
        done = subprocess.run(
            [ROOT / "scripts/package"], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        mark.write_text(_mark())
    return next(BUILD.glob("oc2d_*.deb"))


@pytest.fixture(scope="session")
def built() -> Iterator[tuple[Callable[[], Path], Callable[[], Path]]]:
    """The package and the root of machines, while both are made at the same time."""
    if missing := [tool for tool in ("dpkg-buildpackage", "dh") if shutil.which(tool) is None]:
        pytest.skip(f"needs {', '.join(missing)} to build the package")
    BUILD.mkdir(exist_ok=True)
    with ThreadPoolExecutor(2) as pool:
        package, root = pool.submit(_package), pool.submit(base_root, BUILD)
        yield package.result, root.result


@pytest.fixture(scope="session")
def deb(built) -> Path:
    """The Debian package as `scripts/package` makes it."""
    return built[0]()


@pytest.fixture(scope="session")
def wheels(deb) -> Path:
    """The directory with our wheels; those of the libraries are in `wheels` there."""
    return deb.parent


@pytest.fixture(scope="session")
def newer_deb(deb, tmp_path_factory) -> Path:
    """The same with a higher version, which `oc2d status` tells too."""
    tree = tmp_path_factory.mktemp("newer") / "oc2d"
    subprocess.run(["dpkg-deb", "-R", deb, tree], check=True)
    control = tree / "DEBIAN/control"
    version = next(line for line in control.read_text().splitlines() if line.startswith("Version:"))
    control.write_text(control.read_text().replace(version, f"Version: {NEWER}"))
    module = next(tree.glob("usr/lib/oc2d/lib/python3*/site-packages/oc2d/__init__.py"))
    version = version.removeprefix("Version: ")
    module.write_text(module.read_text().replace(f'"{version}"', f'"{NEWER}"'))
    compiler = ("/usr/bin/python3", "-m", "compileall", "-q", "--invalidation-mode")
    subprocess.run([*compiler, "unchecked-hash", "-s", tree, "-f", module], check=True)
    made = tree.with_suffix(".deb")
    subprocess.run(["dpkg-deb", "--root-owner-group", "-b", tree, made], check=True)
    return made


@pytest.fixture(scope="session")
def make_machine(built, tmp_path_factory) -> Iterator[Callable[[], Machine]]:
    """A function that makes a machine: a clean one, not booted."""
    machines: list[Machine] = []

    def make() -> Machine:
        place = tmp_path_factory.mktemp(f"machine{next(_numbers)}")
        machines.append(Machine(built[1](), place))
        return machines[-1]

    yield make
    for machine in machines:
        machine.close()


CONFIGURATION = """\
device_id = "fw-7"
[broker]
host = "127.0.0.1"
tls = false
username = "fw-7"
password_file = "broker-password"
[actuators.slpf]
"""
BROKER = """\
listener 1883 127.0.0.1
allow_anonymous false
password_file /etc/mosquitto/passwords
autosave_interval 1
autosave_on_changes true
"""
PRODUCER = """\
from = "soc@example.com"
[broker]
host = "127.0.0.1"
tls = false
username = "soc"
password_file = "./password"
"""
# Less patience than in the unit as it is: a test does not wait for half a minute.
HASTE = "[Service]\nWatchdogSec=4s\nRestartSec=200ms\n"


def configure(machine: Machine) -> None:
    """Write everything that an administrator writes, for broker, Consumer and Producer."""
    for account in ("fw-7", "soc"):
        made = "" if account == "soc" else "-c"
        machine.run("sh", "-c", f"mosquitto_passwd -b {made} /etc/mosquitto/passwords {account} x")
    machine.run("chown", "mosquitto", "/etc/mosquitto/passwords")
    machine.write("/etc/mosquitto/conf.d/oc2d.conf", BROKER)
    machine.run("systemctl", "restart", "mosquitto")
    machine.write("/etc/oc2d/oc2d.toml", CONFIGURATION)
    machine.write("/etc/oc2d/credentials/broker-password", "x\n", 0o600)
    machine.write(f"{HOME}/.config/oc2d/oc2ctl.toml", PRODUCER)
    machine.write(f"{HOME}/.config/oc2d/password", "x\n", 0o600)
    machine.write("/etc/systemd/system/oc2d.service.d/haste.conf", HASTE)
    machine.run("systemctl", "daemon-reload")
