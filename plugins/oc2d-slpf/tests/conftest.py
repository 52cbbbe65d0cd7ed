"""Shared by the tests of slpf: commands, a packet filter on paper, and real network namespaces."""

from __future__ import annotations

import itertools
import os
import queue
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from ipaddress import ip_address, ip_network
from pathlib import Path
from types import SimpleNamespace

import msgspec
import pytest

from oc2d.actuator import Command, Context
from oc2d.language.targets import IPv4Connection, IPv6Connection
from oc2d.language.values import IPv4Net, IPv6Net
from oc2d.language.vocabulary import Action, L4Protocol
from oc2d_slpf import Slpf, resolvers
from oc2d_slpf.backend import BackendError, Permit, Unpermit
from oc2d_slpf.iptables_tools import Family
from oc2d_slpf.language import Args
from oc2d_slpf.nftables import Nftables
from oc2d_slpf.operations import (
    RANKED,
    AddKeys,
    AddRanks,
    DropKeys,
    DropRanks,
    DropSet,
    DropTier,
    Fill,
    FillRanks,
    MakeRanks,
    MakeSet,
    MakeTier,
    Order,
    SetId,
)
from oc2d_slpf.rules import PORT_PROTOCOLS, Direction, Verdict, encode
from oc2d_slpf.specifiers import Specifiers
from tests.namespace import Namespace

_keys = itertools.count(1)
LISTS = {
    "ingress": (Direction.INGRESS, Direction.BOTH),
    "egress": (Direction.EGRESS, Direction.BOTH),
}


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


# -- the model: the rule list as it reads, one rule after the other


def _in(network, address):
    return network is None or ip_address(address) in network


def hits(match, packet):
    """packet: version, src, dst, protocol, sport, dport (ports None where there are none)."""
    if match.version != packet.version:
        return False
    if match.either is not None:
        return _in(match.either, packet.src) or _in(match.either, packet.dst)
    if not (_in(match.source, packet.src) and _in(match.destination, packet.dst)):
        return False
    if match.protocol not in (None, packet.protocol):
        return False
    wanted = (match.source_port, match.destination_port)
    if wanted != (None, None) and packet.protocol not in PORT_PROTOCOLS:
        return False
    return match.source_port in (None, packet.sport) and match.destination_port in (
        None,
        packet.dport,
    )


def seen(tracked, side, packet):
    """What a rule looks at: a packet and its list, or the packet that began its connection and its.

    An answer passes the other list than that did. None: it belongs to no connection.
    """
    if not tracked:
        return side, packet
    if packet.began is None:
        return None
    return (
        {"ingress": "egress", "egress": "ingress"}[side] if packet.answer else side
    ), packet.began


def first_match(rules, side, packet):
    """rules: {number: (verdict, direction, match, tracked)}; what no rule hits passes."""
    for number in sorted(rules):
        verdict, direction, match, *tracked = rules[number]
        found = seen(any(tracked), side, packet)
        if found and direction in LISTS[found[0]] and hits(match, found[1]):
            return verdict
    return Verdict.ALLOW


# -- a packet filter on paper, as strict as the kernel about what exists


class Paper:
    """Carries out operations and judges packets by sets and dispatch order, knowing no rules."""

    def __init__(self, *, ranked=True):
        self.ranked = ranked
        self.failing = 0  # how many calls to refuse
        self.calls = []
        self._clear()

    def _clear(self):
        self.sets, self.tiers, self.ordered, self.permits = {}, {}, (), set()
        self.pairs = set()  # of ranked sets: which are compared with which

    def check(self):
        pass

    def can(self, _verdict):
        return True

    def watch(self, changed):
        self.changed = changed

    def close(self):
        pass

    def _call(self, steps):
        self.calls.append(list(steps))
        if self.failing:
            self.failing -= 1
            raise BackendError("refused by the test")

    def replace(self, steps):
        steps = list(steps)
        self._call(steps)
        self._clear()
        self._do(steps)

    def apply(self, steps):
        self._call(steps)
        self._do(steps)

    def remove(self):
        self._clear()

    def _do(self, steps):  # noqa: C901, PLR0912 - one case an operation
        for step in steps:
            match step:
                case MakeTier(tier):
                    assert tier not in self.tiers
                    self.tiers[tier] = None
                case DropTier(tier):
                    assert tier not in self.ordered
                    del self.tiers[tier]
                case MakeSet(id_):
                    assert id_ not in self.sets
                    self.sets[id_] = set()
                case DropSet(id_):
                    fill = self.tiers.get(id_.tier)
                    assert fill is None or id_.shape not in fill.shapes
                    del self.sets[id_]
                case MakeRanks(tier, shapes, beside):
                    self._make_ranks(tier, shapes, beside)
                case DropRanks(tier, shapes, beside):
                    self._drop_ranks(tier, shapes, beside)
                case AddKeys(id_, keys):
                    assert isinstance(self.sets[id_], set)
                    assert not self.sets[id_] & set(keys)
                    self.sets[id_] |= set(keys)
                case AddRanks(id_, keys, ranks):
                    assert not self.sets[id_].keys() & set(keys)
                    self.sets[id_] |= dict(zip(keys, ranks, strict=True))
                case DropKeys(id_, keys):
                    assert set(self.sets[id_]) >= set(keys)
                    held = self.sets[id_]
                    for key in keys:
                        held.pop(key) if isinstance(held, dict) else held.remove(key)
                case Fill(tier) | FillRanks(tier):
                    assert tier in self.tiers
                    self.tiers[tier] = step
                case Order(tiers):
                    assert set(tiers) <= set(self.tiers)
                    self.ordered = tiers
                case Permit():
                    self.permits.add(step)
                case Unpermit(permit):
                    self.permits.remove(permit)
        for tier, fill in self.tiers.items():
            assert fill is not None, "a tier that nothing filled"
            there = {id_.shape for id_ in self.sets if id_.tier == tier}
            assert set(fill.shapes) == there

    def _make_ranks(self, tier, shapes, beside):
        assert self.ranked
        for shape in shapes:
            assert SetId(tier, shape) not in self.sets
            self.sets[SetId(tier, shape)] = {}
        for pair in itertools.product((*shapes, *beside), repeat=2):
            if set(pair) & set(shapes):
                assert (tier, pair) not in self.pairs
                self.pairs.add((tier, pair))

    def _drop_ranks(self, tier, shapes, beside):
        for shape in shapes:
            fill = self.tiers.get(tier)
            assert fill is None or shape not in fill.shapes
            del self.sets[SetId(tier, shape)]
        for pair in itertools.product((*shapes, *beside), repeat=2):
            if set(pair) & set(shapes):
                self.pairs.remove((tier, pair))

    def judge(self, side, packet):
        for tier in self.ordered:
            fill = self.tiers[tier]
            if isinstance(fill, FillRanks):
                verdict = self._ranked(fill, side, packet)
                if verdict is not None:
                    return verdict
                continue
            for id_, keys in self.sets.items():
                found = seen(id_.shape.tracked, side, packet)
                if (
                    id_.tier == tier
                    and found
                    and id_.shape.direction in LISTS[found[0]]
                    and any(key in keys for key in _packet_keys(id_.shape, found[1]))
                ):
                    return fill.verdict
        return Verdict.ALLOW

    def _ranked(self, fill, side, packet):
        """Per side of the packet the first that is found, and of the two the lower."""
        found = []
        for which in (0, 1):
            for shape in fill.shapes:
                keys = _packet_keys(shape, packet)
                here = self.sets[SetId(fill.tier, shape)]
                if shape.direction in LISTS[side] and keys and keys[which] in here:
                    found.append((shape, here[keys[which]]))
                    break
        if len(found) == 2:
            assert (fill.tier, (found[0][0], found[1][0])) in self.pairs
        return RANKED[min(rank for _, rank in found) % 4] if found else None


def _packet_keys(shape, packet):
    """What a lookup in a set of this shape would compute from the packet."""
    if shape.version != packet.version:
        return []
    if (shape.source_port or shape.destination_port) and packet.protocol not in PORT_PROTOCOLS:
        return []

    def masked(address, prefix):
        return ip_network(f"{address}/{prefix}", strict=False).network_address.packed

    if shape.either is not None:
        return [masked(packet.src, shape.either), masked(packet.dst, shape.either)]
    key = b""
    if shape.source is not None:
        key += masked(packet.src, shape.source)
    if shape.destination is not None:
        key += masked(packet.dst, shape.destination)
    if shape.protocol:
        key += bytes([packet.protocol])
    if shape.source_port:
        key += packet.sport.to_bytes(2, "big")
    if shape.destination_port:
        key += packet.dport.to_bytes(2, "big")
    return [key]


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
