"""Shared by the tests of slpf: commands, actuators, and real network namespaces."""

from __future__ import annotations

import itertools
import os
import queue
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from ipaddress import ip_network
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace

import msgspec
import pytest

from oc2d.actuator import Command, Context
from oc2d.language.targets import IPv4Connection, IPv6Connection
from oc2d.language.values import IPv4Net, IPv6Net
from oc2d.language.vocabulary import Action, L4Protocol
from oc2d_slpf import Slpf, resolvers
from oc2d_slpf.iptables_tools import Family
from oc2d_slpf.language import Args
from oc2d_slpf.nftables import Nftables
from oc2d_slpf.rules import encode
from oc2d_slpf.specifiers import Specifiers
from tests.namespace import Namespace
from tests.unprivileged import environment

from .paper import Paper, first_match, hits

_keys = itertools.count(1)


# -- commands


def _net(text):
    network = ip_network(text)
    return (IPv4Net if network.version == 4 else IPv6Net)(network)


def _target(text):
    """`10.0.0.0/8`, or `4 src_addr=… dst_port=…` for a connection."""
    if "=" not in text:
        value = _net(text)
        return ("ipv4_net" if isinstance(value, IPv4Net) else "ipv6_net"), value
    version, *members = text.split()
    read = {"src_addr": _net, "dst_addr": _net, "protocol": L4Protocol}
    values = dict(member.split("=") for member in members)
    struct = IPv4Connection if version == "4" else IPv6Connection
    return f"ipv{version}_connection", struct(
        **{name: read.get(name, int)(value) for name, value in values.items()}
    )


def make_command(action, target, *, key=None, reserved=None, notes=(), window=(None, None), **args):
    name, value = ("slpf:rule_number", target) if action == "delete" else _target(target)
    return Command(
        key or f"key-{next(_keys)}",
        "soc@example.com",
        Action(action),
        name,
        value,
        msgspec.convert(args, Args),
        Specifiers(),
        reserved,
        *window,
        notes,
    )


# -- actuators


class Bench:
    """Actuators on one state directory; `boot()` and `restart()` are what happens to hosts."""

    def __init__(self, path: Path):
        self.path = path
        self.boot_id = "boot-1"
        self.running = []
        self.calls = queue.SimpleQueue()  # what the worker is asked to do between commands
        for name in ("state", "run"):
            (path / name).mkdir()

    def start(self, filter_=None, *, ended=(), restore=True, **table):
        """Without `filter_`, the configured back end, as in life."""
        actuator = Slpf(Slpf.parse_config({"backend": "nftables", **table}))
        if filter_ is not None:
            actuator._rules.firewall._backend = filter_
        actuator.start(
            Context(
                "fw-7",
                self.path / "state",
                self.path / "run",
                self.boot_id,
                lambda: 0,
                self.calls.put,
            )
        )
        self.running.append(actuator)
        if restore:
            actuator.restore(ended)
        return actuator

    def stop(self):
        while self.running:
            self.running.pop().stop()

    def kill(self):
        """Forget the actuator as a killed process would: nothing is finished or written."""
        for actuator in self.running:
            actuator._rules.firewall.close()
            if actuator._rules._opened is not None:
                actuator._rules.store.close()
        self.running.clear()


@pytest.fixture(autouse=True)
def resolv_conf(tmp_path, monkeypatch):
    """The name servers of this machine are none of the tests' business."""
    path = tmp_path / "resolv.conf"
    monkeypatch.setattr(resolvers, "FILES", (path,))
    return path


@pytest.fixture(autouse=True)
def own_rules_only(monkeypatch):
    """The rules of this machine are none of the tests' business: changes need a namespace."""
    home, run = Path("/proc/self/ns/net").readlink(), Family._run

    def guarded(command, text=""):
        assert not text or Path("/proc/thread-self/ns/net").readlink() != home, (
            "outside a namespace"
        )
        return run(command, text)

    monkeypatch.setattr(Family, "_run", staticmethod(guarded))


@pytest.fixture
def bench(tmp_path):
    bench = Bench(tmp_path)
    yield bench
    bench.stop()


@pytest.fixture
def command():
    return make_command


@pytest.fixture
def paper():
    return Paper()


@pytest.fixture(scope="session")
def model():
    return SimpleNamespace(
        first_match=first_match, hits=hits, encode=encode, Paper=Paper, Bench=Bench
    )


# -- network namespaces


def require_root():
    if os.geteuid() != 0:
        pytest.skip("needs root: network namespaces")
    for tool in ("ip", "nft", "iptables", "ip6tables"):
        if not shutil.which(tool, path=os.environ["PATH"] + ":/usr/sbin:/sbin"):
            pytest.skip(f"needs {tool}")


@pytest.fixture
def namespace() -> Iterator[Namespace]:
    require_root()
    space = Namespace()
    yield space
    space.close()


@pytest.fixture
def filter_(namespace):
    made = Nftables()
    namespace.run(made.check)
    yield made
    made.close()


NOBODY = """
import os
from oc2d.errors import StateError
from {0.__module__} import {0.__name__}
os.setgid(65534)
os.setuid(65534)
try:
    {0.__name__}().check()
except StateError as error:
    print(error)
"""


@pytest.fixture
def told_nobody(namespace):
    """What a back end says to a user without any right who looks whether it can be used."""

    def told(backend):
        program = [sys.executable, "-c", NOBODY.format(backend)]
        return namespace.run(
            subprocess.run, program, capture_output=True, text=True, check=True
        ).stdout

    return told


@pytest.fixture
def nobody(namespace):
    """Start a program in the namespace, with two directories of which it makes nobody's."""
    # not tmp_path: nobody else may pass its parents
    with TemporaryDirectory() as path:
        Path(path).chmod(0o755)

        def start(program, *arguments):
            words = [sys.executable, "-c", program, f"{path}/s", f"{path}/r", *arguments]
            pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
            return namespace.run(lambda: subprocess.Popen(words, env=environment(), **pipes))

        yield start


@pytest.fixture(scope="module")
def world():
    """Client — firewall — server: two links, both families; the firewall forwards."""
    require_root()
    with ExitStack() as stack:
        spaces = {}
        for role in ("client", "wall", "server"):
            spaces[role] = Namespace(role)
            stack.callback(spaces[role].close)
        yield _wire(**spaces)


def _wire(client, wall, server):
    client.ip("link", "add", "eth0", "type", "veth", "peer", "name", "west", "netns", wall.name)
    server.ip("link", "add", "eth0", "type", "veth", "peer", "name", "east", "netns", wall.name)
    for space, device, number, host in (
        (client, "eth0", 1, 2),
        (wall, "west", 1, 1),
        (server, "eth0", 2, 2),
        (wall, "east", 2, 1),
    ):
        space.ip("addr", "add", f"10.77.{number}.{host}/24", "dev", device)
        space.ip("addr", "add", f"fd77:{number}::{host}/64", "dev", device, "nodad")
        space.ip("link", "set", device, "up")
    for space, number in ((client, 1), (server, 2)):
        space.ip("route", "add", "default", "via", f"10.77.{number}.1")
        space.ip("-6", "route", "add", "default", "via", f"fd77:{number}::1")
    # what is nobody's goes to the server, so that packets of any destination are forwarded
    wall.ip("route", "add", "default", "via", "10.77.2.2")
    wall.ip("-6", "route", "add", "default", "via", "fd77:2::2")
    wall.sysctl("ipv4/ip_forward", 1)
    wall.sysctl("ipv6/conf/all/forwarding", 1)
    for space in (wall, client, server):
        # the kernel's own brake on ICMP errors would make a test of rejects depend on the last one
        space.sysctl("ipv4/icmp_ratelimit", 0)
        space.sysctl("ipv6/icmp/ratelimit", 0)
    return SimpleNamespace(client=client, wall=wall, server=server)


@pytest.fixture(params=["nftables", "iptables"])
def backend(request):
    """The back ends that are to be no different to what a packet meets."""
    return request.param


@pytest.fixture
def walled(world, bench, backend):
    """Run an actuator inside the firewall's namespace: `walled(function, …)` on its thread."""

    def start(**table):
        actuator = world.wall.run(bench.start, backend=backend, **table)
        return SimpleNamespace(
            actuator=actuator,
            do=lambda *args, **kwargs: world.wall.run(
                actuator.execute, make_command(*args, **kwargs)
            ),
            run=world.wall.run,
        )

    yield start
    world.wall.run(bench.stop)
    world.wall.nft(text="flush ruleset\n")


def numbers(slpf):
    listed = [rule["number"] for rule in slpf.status()["rules"]]
    assert slpf.status()["count"] == len(listed)
    return listed


class Death(BaseException):
    """The process ends here."""
