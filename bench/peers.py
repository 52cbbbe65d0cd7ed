"""fail2ban and otupy, where the registries have them: fetched into build/peers, never installed.

`fetch` needs the network and runs before the namespaces are made; `measure` bans in a table of
their own, each by its own means.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from machine import QUIET, ROOT, Figure, running

HOME = ROOT / "build/peers"
PACKAGES = HOME / "fail2ban/usr/lib/python3/dist-packages"
PYTHON = "/usr/bin/python3" if Path("/usr/bin/python3").exists() else sys.executable
OTUPY = HOME / "otupy/bin/python"
# what its iptables actuator imports; all that the package asks for needs libvirt to be built
_NEEDED = (
    "aenum apscheduler<4 sqlalchemy pandas werkzeug flask flask-api xmltodict cbor2 pyyaml requests"
    " psutil paho-mqtt rfc3987 fqdn email-validator macaddress mediatype idna python-dotenv"
    " pyroute2 watchdog gunicorn"
)
_LOCAL = {
    "jail.local": """\
[DEFAULT]
banaction = nftables[type=allports]
backend = polling
[sshd]
enabled = true
logpath = {0}/log
""",
    "fail2ban.local": """\
[Definition]
logtarget = {0}/fail2ban.log
dbfile = {0}/fail2ban.sqlite3
""",
}


def fetch() -> None:
    """Get what is not there yet; says what is not to be had."""
    HOME.mkdir(parents=True, exist_ok=True)
    _fetch("fail2ban", PACKAGES, _fetch_fail2ban)
    _fetch("otupy", OTUPY, _fetch_otupy)


def _fetch(name: str, sign: Path, get) -> None:
    if sign.exists():
        return
    try:
        get()
    except (OSError, subprocess.CalledProcessError):
        shutil.rmtree(HOME / name, ignore_errors=True)
        print(f"{name}: left out, it is not to be had here")


def _fetch_fail2ban() -> None:
    subprocess.run(["apt-get", "download", "fail2ban"], check=True, cwd=HOME, **QUIET)
    package = next(HOME.glob("fail2ban_*.deb"))
    subprocess.run(["dpkg", "-x", package, HOME / "fail2ban"], check=True)


def _fetch_otupy() -> None:
    subprocess.run([sys.executable, "-m", "venv", HOME / "otupy"], check=True)
    pip = [OTUPY, "-m", "pip", "install", "-q", "--disable-pip-version-check"]
    subprocess.run([*pip, "--no-deps", "otupy==1.1.46"], check=True, **QUIET)
    subprocess.run([*pip, *_NEEDED.split()], check=True, **QUIET)


def measure(directory: Path, rounds: int, count: int) -> list[Figure]:
    """Ban so many addresses one after the other in each round."""
    figures = []
    if PACKAGES.exists():
        figures.append(Figure("fail2ban, banip", "/s", list(_fail2ban(directory, rounds, count))))
    if OTUPY.exists():
        command = [OTUPY, ROOT / "bench/otupy_deny.py", directory, str(rounds), str(count // 5)]
        done = subprocess.run(  # it leaves a userdata.db where it stands
            command, cwd=directory, capture_output=True, text=True, check=False
        )
        if done.returncode:
            print(f"otupy: left out, it does not run here: {done.stderr.splitlines()[-1]}")
        else:
            rates = [float(line) for line in done.stdout.splitlines()]
            figures.append(Figure("otupy, its iptables actuator alone", "/s", rates))
    return figures


def _fail2ban(directory: Path, rounds: int, count: int) -> Iterator[float]:
    config = directory / "fail2ban"
    shutil.copytree(HOME / "fail2ban/etc/fail2ban", config)
    shutil.rmtree(config / "jail.d")
    for name, text in _LOCAL.items():
        (config / name).write_text(text.format(directory))
    (directory / "log").touch()
    binaries = HOME / "fail2ban/usr/bin"
    options = ["-c", config, "-s", directory / "f2b.sock", "-p", directory / "f2b.pid"]
    server = [PYTHON, binaries / "fail2ban-server", *options, "-f", "-x", "start"]
    client = [PYTHON, binaries / "fail2ban-client", *options]
    known = {**os.environ, "PYTHONPATH": str(PACKAGES)}

    def ask(*words: str) -> float:
        begun = time.monotonic()
        done = subprocess.run([*client, *words], env=known, check=False, **QUIET)
        return time.monotonic() - begun if done.returncode == 0 else 0.0

    with running(*server, env=known, **QUIET):
        _until(lambda: ask("ping"))
        for turn in range(rounds):
            names = [f"10.{turn}.{index // 250}.{index % 250 + 1}" for index in range(count)]
            own = ask("ping")  # what its client takes to start
            begun = time.monotonic()
            ask("set", "sshd", "banip", *names)
            _until(lambda last=f" {names[-1]} ": last in _banned())
            yield count / (time.monotonic() - begun - own)


def _banned() -> str:
    command = ["nft", "list", "ruleset"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def _until(true) -> None:
    deadline = time.monotonic() + 60
    while not true():
        if time.monotonic() > deadline:
            raise SystemExit("fail2ban does not ban")
        time.sleep(0.02)
