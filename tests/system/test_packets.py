"""Real packets between a host that oc2d guards and the outside, commanded over the broker."""

from __future__ import annotations

import errno
import itertools
import select
import socket
import struct
from contextlib import ExitStack
from types import SimpleNamespace

import pytest

from tests.consumer import allow, command, delete, deny
from tests.namespace import Namespace
from tests.waiting import wait_until

pytestmark = [pytest.mark.root, pytest.mark.req("SLPF-2", "SLPF-14", "SLPF-59")]

HOST = {4: "10.78.1.1", 6: "fd78::1"}
OUTSIDE = {4: "10.78.1.2", 6: "fd78::2"}
FAMILY = {4: socket.AF_INET, 6: socket.AF_INET6}
UDP, TCP = 5000, 6000
QUIET = 0.03  # seconds in which a packet on a veth pair would have come
PATIENCE = 2.0


class Side:
    """One end of the link: its listeners, and what it sends to the other end."""

    def __init__(self, space, address, peer, stack):
        self.space, self.address, self.peer, self._stack = space, address, peer, stack
        self._udp = {v: self._open(v, socket.SOCK_DGRAM, UDP) for v in (4, 6)}
        for version in (4, 6):
            self._open(version, socket.SOCK_STREAM, TCP).listen()

    def _open(self, version, kind, port=0, protocol=0):
        made = self.space.run(socket.socket, FAMILY[version], kind, protocol)
        self._stack.callback(made.close)
        made.setblocking(False)
        if port:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            made.bind((self.address[version], port))
        return made

    def sends(self, other, version, *, expected):
        """Tell whether a datagram of ours arrives."""
        ear = other._udp[version]
        while select.select([ear], [], [], 0)[0]:
            ear.recv(100)
        try:
            self._udp[version].sendto(b"probe", (self.peer[version], UDP))
        except PermissionError:  # the packet filter stopped it on the way out
            return False
        return bool(select.select([ear], [], [], PATIENCE if expected else QUIET)[0])

    def connects(self, version, *, expected):
        """0: a TCP connection stands; an errno: refused so; None: nothing came."""
        with self.space.run(socket.socket, FAMILY[version], socket.SOCK_STREAM) as made:
            made.setblocking(False)
            made.connect_ex((self.peer[version], TCP))
            patience = QUIET if expected is None else PATIENCE
            if not select.select([], [made], [], patience)[1]:
                return None
            return made.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)

    def pings(self, version, *, expected):
        """Tell whether an echo request is answered."""
        protocol = socket.IPPROTO_ICMP if version == 4 else socket.IPPROTO_ICMPV6
        with self.space.run(socket.socket, FAMILY[version], socket.SOCK_RAW, protocol) as made:
            kind, reply = (8, 0) if version == 4 else (128, 129)
            checksum = ~((kind << 8) + 7) & 0xFFFF if version == 4 else 0
            made.sendto(struct.pack(">BBHHH", kind, 0, checksum, 0, 7), (self.peer[version], 0))
            while select.select([made], [], [], PATIENCE if expected else QUIET)[0]:
                data = made.recv(200)
                if (data[20] if version == 4 else data[0]) == reply:
                    return True
        return False


@pytest.fixture(scope="module")
def wire(make_broker_host, request):
    """The host with its Consumer, the outside, and a Producer on the host; a back end if asked."""
    backend = getattr(request, "param", "nftables")
    host = make_broker_host()
    with ExitStack() as stack:
        outside = Namespace()
        stack.callback(outside.close)
        inner = host.space
        outside.ip("link", "add", "out", "type", "veth", "peer", "name", "in", "netns", inner.name)
        for space, device, address in ((outside, "out", OUTSIDE), (inner, "in", HOST)):
            space.sysctl(f"ipv6/conf/{device}/accept_dad", 0)
            space.sysctl("ipv4/icmp_ratelimit", 0)
            space.sysctl("ipv6/icmp/ratelimit", 0)
            space.ip("addr", "add", f"{address[4]}/24", "dev", device)
            space.ip("addr", "add", f"{address[6]}/64", "dev", device, "nodad")
            space.ip("link", "set", device, "up")
        zulu = host.consumer(actuators_slpf={"backend": backend}).start()
        sides = [Side(inner, HOST, OUTSIDE, stack), Side(outside, OUTSIDE, HOST, stack)]
        made = SimpleNamespace(host=sides[0], outside=sides[1], zulu=zulu, soc=host.producer())
        for version in (4, 6):
            wait_until(lambda v=version: made.host.connects(v, expected=0) == 0)
        yield made


def seen(wire, version, wanted):
    """What passes between the two, probed as long as `wanted` makes it worth waiting."""
    return {
        "udp in": wire.outside.sends(wire.host, version, expected=wanted["udp in"]),
        "udp out": wire.host.sends(wire.outside, version, expected=wanted["udp out"]),
        "tcp in": wire.outside.connects(version, expected=wanted["tcp in"]),
        "tcp out": wire.host.connects(version, expected=wanted["tcp out"]),
        "ping in": wire.outside.pings(version, expected=wanted["ping in"]),
    }


OPEN = {"udp in": True, "udp out": True, "tcp in": 0, "tcp out": 0, "ping in": True}


def expected(kind, direction, refused):
    """What a deny leaves, by the kind of its target; `refused` is what a rejected client sees."""
    comes, leaves = direction != "egress", direction != "ingress"
    if kind == "udp":
        return OPEN | {"udp in": not comes, "udp out": not leaves}
    if kind == "tcp":
        return OPEN | {"tcp in": refused if comes else 0, "tcp out": refused if leaves else 0}
    return {
        "udp in": not comes,
        "udp out": not leaves,
        "tcp in": refused if comes else None,  # else the answer to it is stopped
        "tcp out": refused if leaves else None,
        "ping in": False,
    }


BACKENDS = pytest.mark.parametrize("wire", ["nftables", "iptables"], indirect=True)
WAYS = [
    (None, None),  # the defaults: both, none
    *itertools.product(("both", "ingress", "egress"), ("none", "reject")),
]


@pytest.mark.req("SLPF-15", "SLPF-16", "SLPF-29", "SLPF-31", "SLPF-37", "SLPF-39")
@pytest.mark.parametrize(("direction", "process"), WAYS)
@pytest.mark.parametrize("kind", ["net", "udp", "tcp"])
@pytest.mark.parametrize("version", [4, 6])
def test_a_deny_stops_what_it_says_and_no_more_until_it_is_deleted(
    wire, version, kind, direction, process
):
    given = {"direction": direction, "drop_process": process}
    slpf = {name: value for name, value in given.items() if value}
    target = {
        "net": {f"ipv{version}_net": OUTSIDE[version]},
        "udp": {f"ipv{version}_connection": {"protocol": "udp", "dst_port": UDP}},
        "tcp": {f"ipv{version}_connection": {"protocol": "tcp", "dst_port": TCP}},
    }[kind]
    sent = command("deny", target, **({"slpf": slpf} if slpf else {}))
    reply = wire.soc.ask(sent)
    assert reply.status == 200, reply.text
    left = expected(kind, direction or "both", errno.ECONNREFUSED if process == "reject" else None)
    assert seen(wire, version, left) == left
    other = 10 - version
    assert wire.outside.sends(wire.host, other, expected=True)
    assert wire.soc.ask(delete(reply.number)).status == 200
    assert seen(wire, version, OPEN) == OPEN


@BACKENDS
@pytest.mark.req("AMB-39", "SLPF-22", "SLPF-37")
@pytest.mark.parametrize("version", [4, 6])
def test_an_allow_ahead_of_a_deny_opens_its_part_and_goes_with_its_number(wire, version):
    everything = {4: "0.0.0.0/0", 6: "::/0"}[version]
    shut = expected("net", "both", None)
    shut["udp out"] = shut["udp in"] = False
    denied = wire.soc.ask(deny(everything)).number
    assert seen(wire, version, shut) == shut
    newest = wire.soc.ask(allow(OUTSIDE[version])).number
    assert newest < denied
    assert seen(wire, version, OPEN) == OPEN
    first = wire.soc.ask(deny(OUTSIDE[version], insert_rule=5)).number
    assert seen(wire, version, shut) == shut
    assert wire.soc.ask(delete(first)).status == 200
    assert seen(wire, version, OPEN) == OPEN
    for number in (newest, denied):
        assert wire.soc.ask(delete(number)).status == 200
    assert wire.zulu.rules() == {}


@BACKENDS
@pytest.mark.req("SLPF-18", "SLPF-38")
def test_a_denied_packet_never_passes_while_the_daemon_dies_and_starts(wire):
    denied = wire.soc.ask(deny(OUTSIDE[4])).number
    wire.zulu.kill()
    assert not wire.outside.sends(wire.host, 4, expected=False)
    wire.zulu.launch()
    tried = 0
    while not wire.zulu.told().get("link", {}).get("healthy"):
        assert not wire.outside.sends(wire.host, 4, expected=False)
        tried += 1
    assert tried > 3
    assert wire.soc.ask(delete(denied)).status == 200
    assert seen(wire, 4, OPEN) == OPEN
