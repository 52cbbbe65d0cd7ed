"""Real packets through a real kernel: client — firewall — server, in network namespaces."""

from __future__ import annotations

import errno
import random
import select
import socket
import struct
import time
from contextlib import ExitStack
from ipaddress import ip_address, ip_network
from types import SimpleNamespace

import pytest

from oc2d.actuator import Endpoint
from oc2d_slpf.operations import Change
from oc2d_slpf.rules import Direction, Match, Rule, Verdict, encode
from tests.waiting import wait_until

pytestmark = [pytest.mark.root, pytest.mark.req("SLPF-14", "SLPF-31", "SLPF-38")]

CLIENT = {4: "10.77.1.2", 6: "fd77:1::2"}
WALL_IN = {4: "10.77.1.1", 6: "fd77:1::1"}
WALL_OUT = {4: "10.77.2.1", 6: "fd77:2::1"}
SERVER = {4: "10.77.2.2", 6: "fd77:2::2"}
FAMILY = {4: socket.AF_INET, 6: socket.AF_INET6}
NET = {4: "ipv4_net", 6: "ipv6_net"}
QUIET = 0.03  # seconds in which a packet on a veth pair would have come


def _open(stack, space, kind, family, *, port=0):
    made = space.run(socket.socket, FAMILY[family], kind)
    stack.callback(made.close)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    made.bind(("", port))
    made.setblocking(False)
    return made


def _readable(sock, seconds):
    return bool(select.select([sock], [], [], seconds)[0])


class Paths:
    """UDP sockets on all three hosts, and who hears whom."""

    def __init__(self, world, stack):
        self.sockets = {
            (name, version): _open(stack, space, socket.SOCK_DGRAM, version, port=5000)
            for name, space in vars(world).items()
            for version in (4, 6)
        }

    def passes(self, source, destination, address, version, *, expected=True):
        """Send a datagram and tell whether it arrives; what should come is sent more than once."""
        receiver = self.sockets[destination, version]
        while _readable(receiver, 0):
            receiver.recv(100)
        mark = random.randbytes(8)
        for _ in range(10 if expected else 1):
            try:
                self.sockets[source, version].sendto(mark, (address, 5000))
            except PermissionError:
                return False  # dropped in our own output
            deadline = time.monotonic() + (0.5 if expected else QUIET)
            while _readable(receiver, max(0.0, deadline - time.monotonic())):
                if receiver.recv(100) == mark:
                    return True
        return False

    def all(self, version, expected):
        """Tell the verdict of each way a packet can take: to the firewall, from it, through it."""
        ways = {
            "to": ("client", "wall", WALL_IN[version]),
            "from": ("wall", "client", CLIENT[version]),
            "through": ("client", "server", SERVER[version]),
            "back": ("server", "client", CLIENT[version]),
        }
        return {
            name: self.passes(*way, version, expected=expected[name]) for name, way in ways.items()
        }


@pytest.fixture(scope="module")
def paths(world):
    with ExitStack() as stack:
        yield Paths(world, stack)


OPEN = {"to": True, "from": True, "through": True, "back": True}
SHUT = dict.fromkeys(OPEN, False)


@pytest.mark.req("AMB-35")
@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize(
    ("direction", "passing"),
    [
        # the client's address is source or destination on every way
        ("both", SHUT),
        # ingress: what arrives, to the firewall or through it, whichever way
        ("ingress", {**SHUT, "from": True}),
        # egress: what leaves, from the firewall or through it
        ("egress", {**SHUT, "to": True}),
    ],
)
@pytest.mark.parametrize("how", ["none", "reject"])
@pytest.mark.parametrize("kind", ["net", "connection"])
def test_a_deny_stops_what_its_direction_says_and_its_delete_lets_it_pass(
    walled, paths, version, direction, passing, how, kind
):
    wall = walled()
    targets = [f"{CLIENT[version]}"]
    if kind == "connection":
        targets = [
            f"{version} src_addr={CLIENT[version]} protocol=udp",
            f"{version} dst_addr={CLIENT[version]} protocol=udp dst_port=5000",
        ]
    assert paths.all(version, OPEN) == OPEN
    numbers = [
        wall.do("deny", target, direction=direction, drop_process=how).results.rule_number
        for target in targets
    ]
    assert paths.all(version, passing) == passing
    other = 10 - version
    assert paths.all(other, OPEN) == OPEN
    for number in numbers:
        wall.do("delete", number)
    assert paths.all(version, OPEN) == OPEN


@pytest.mark.parametrize("version", [4, 6])
def test_an_allow_ahead_of_a_deny_in_one_list_does_not_override_the_other_list(
    walled, paths, version
):
    wall = walled()
    wall.do("deny", CLIENT[version])
    wall.do("allow", CLIENT[version], direction="ingress")
    expected = {"to": True, "from": False, "through": False, "back": False}
    assert paths.all(version, expected) == expected
    wall.do("allow", CLIENT[version], direction="egress")
    assert paths.all(version, OPEN) == OPEN
    wall.do("deny", CLIENT[version])
    assert paths.all(version, SHUT) == SHUT


@pytest.mark.parametrize("version", [4, 6])
def test_denying_everything_of_one_family_leaves_the_other(walled, paths, version):
    wall = walled()
    everything = {4: "0.0.0.0/0", 6: "::/0"}
    answer = wall.do("deny", everything[version])
    assert "stays open" in answer.text
    assert paths.all(version, SHUT) == SHUT
    assert paths.all(10 - version, OPEN) == OPEN
    wall.do("delete", answer.results.rule_number)
    assert paths.all(version, OPEN) == OPEN


def _connect(stack, space, version, address, port):
    sock = _open(stack, space, socket.SOCK_STREAM, version)
    sock.connect_ex((address, port))
    return sock


def _outcome(sock, seconds):
    """0: connected; an errno: refused so; None: nothing came."""
    if not select.select([], [sock], [], seconds)[1]:
        return None
    return sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)


@pytest.mark.req("SLPF-15", "SLPF-16")
@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize(
    ("target", "direction"),
    [
        ("server", "both"),
        ("server", "ingress"),
        ("server", "egress"),
        # what arrives at the firewall itself never leaves it: no egress
        ("wall", "both"),
        ("wall", "ingress"),
    ],
)
def test_reject_tells_a_tcp_client_at_once_and_drop_tells_it_nothing(
    walled, world, version, target, direction
):
    wall = walled()
    address = SERVER[version] if target == "server" else WALL_IN[version]
    with ExitStack() as stack:
        space = getattr(world, target)
        _open(stack, space, socket.SOCK_STREAM, version, port=6000).listen()
        first = _connect(stack, world.client, version, address, 6000)
        assert _outcome(first, 2.0) == 0
        net = f"{CLIENT[version]}"
        rejected = wall.do("deny", net, direction=direction, drop_process="reject")
        second = _connect(stack, world.client, version, address, 6000)
        assert _outcome(second, 2.0) == errno.ECONNREFUSED
        wall.do("delete", rejected.results.rule_number)
        wall.do("deny", net, direction=direction)
        third = _connect(stack, world.client, version, address, 6000)
        assert _outcome(third, QUIET) is None


@pytest.mark.req("SLPF-16")
@pytest.mark.parametrize("version", [4, 6])
def test_a_drop_ahead_of_a_reject_keeps_the_answer_back(walled, world, version):
    wall = walled()
    wall.do("deny", f"{version} protocol=tcp dst_port=6000", drop_process="reject")
    with ExitStack() as stack:
        first = _connect(stack, world.client, version, WALL_IN[version], 6000)
        assert _outcome(first, 2.0) == errno.ECONNREFUSED
        wall.do("deny", CLIENT[version], direction="egress")
        second = _connect(stack, world.client, version, WALL_IN[version], 6000)
        assert _outcome(second, QUIET) is None


@pytest.mark.req("SLPF-16")
def test_errors_that_others_sent_are_not_taken_for_our_own_answer(walled, world):
    """A forwarded ICMP error is rejected like any packet: only ours may pass."""
    wall = walled()
    with ExitStack() as stack:
        ear = world.client.run(socket.socket, socket.AF_INET, socket.SOCK_RAW, 1)
        mouth = world.server.run(socket.socket, socket.AF_INET, socket.SOCK_RAW, 1)
        stack.callback(ear.close)
        stack.callback(mouth.close)
        inner = struct.pack(">BBHHHBBH4s4s", 0x45, 0, 28, 0, 0, 64, 17, 0, b"\x0a" * 4, b"\x0b" * 4)
        body = struct.pack(">BBHI", 3, 13, 0, 0) + inner + b"\0" * 8
        words = struct.unpack(f">{len(body) // 2}H", body)
        total = sum(words)
        total = (total & 0xFFFF) + (total >> 16)
        error = body[:2] + struct.pack(">H", ~total & 0xFFFF) + body[4:]
        mouth.sendto(error, (CLIENT[4], 0))
        assert _readable(ear, 2.0)
        ear.recv(200)
        wall.do("deny", CLIENT[4], direction="egress", drop_process="reject")
        mouth.sendto(error, (CLIENT[4], 0))
        assert not _readable(ear, QUIET)


def _ping(sock, version, address):
    echo = struct.pack(">BBHHH", 8 if version == 4 else 128, 0, 0, 7, random.randrange(65536))
    if version == 4:
        words = struct.unpack(">4H", echo)
        total = sum(words)
        total = (total & 0xFFFF) + (total >> 16)
        echo = echo[:2] + struct.pack(">H", ~total & 0xFFFF) + echo[4:]
    sock.sendto(echo, (address, 0))


def _answered(sock, version, seconds):
    deadline = time.monotonic() + seconds
    while _readable(sock, max(0.0, deadline - time.monotonic())):
        data = sock.recv(200)
        if (data[20] if version == 4 else data[0]) == (0 if version == 4 else 129):
            return True
    return False


@pytest.mark.req("AMB-46", "AMB-55")
@pytest.mark.parametrize("version", [4, 6])
def test_icmp_means_the_familys_own_and_ports_mean_no_icmp(walled, world, paths, version):
    wall = walled()
    protocol = socket.IPPROTO_ICMP if version == 4 else socket.IPPROTO_ICMPV6
    sock = world.client.run(socket.socket, FAMILY[version], socket.SOCK_RAW, protocol)
    with sock:
        _ping(sock, version, WALL_IN[version])
        assert _answered(sock, version, 2.0)
        # 2048 is what an ICMP echo has where ports would be; 32768 an ICMPv6 one
        wall.do("deny", f"{version} src_port={2048 if version == 4 else 32768}")
        _ping(sock, version, WALL_IN[version])
        assert _answered(sock, version, 2.0)
        wall.do("deny", f"{version} protocol=icmp")
        _ping(sock, version, WALL_IN[version])
        assert not _answered(sock, version, QUIET)
        assert paths.all(version, OPEN) == OPEN


@pytest.mark.req("AMB-57")
@pytest.mark.parametrize("version", [4, 6])
def test_the_broker_stays_reachable_and_nothing_else(walled, world, paths, version):
    wall = walled()
    with ExitStack() as stack:
        for port in (8883, 8884):
            _open(stack, world.server, socket.SOCK_STREAM, version, port=port).listen()
        wall.run(wall.actuator.link_changing, [Endpoint(SERVER[version], 8883)])
        answer = wall.do("deny", {4: "0.0.0.0/0", 6: "::/0"}[version])
        assert f"broker {SERVER[version]} port 8883" in answer.text
        broker = _connect(stack, world.wall, version, SERVER[version], 8883)
        assert _outcome(broker, 2.0) == 0
        other = _connect(stack, world.wall, version, SERVER[version], 8884)
        assert _outcome(other, QUIET) != 0
        # others do not reach the broker through this host
        forwarded = _connect(stack, world.client, version, SERVER[version], 8883)
        assert _outcome(forwarded, QUIET) is None
        assert paths.all(version, SHUT) == SHUT
        # loopback is not the network's business
        _open(stack, world.wall, socket.SOCK_STREAM, version, port=7000).listen()
        own = {4: "127.0.0.1", 6: "::1"}[version]
        assert _outcome(_connect(stack, world.wall, version, own, 7000), 2.0) == 0
        # the broker moves: the old address closes once the new link stands
        wall.run(wall.actuator.link_changed, [Endpoint(SERVER[version], 8883)])
        wall.run(wall.actuator.link_changing, [Endpoint(CLIENT[version], 8883)])
        broker = _connect(stack, world.wall, version, SERVER[version], 8883)
        assert _outcome(broker, 2.0) == 0
        wall.run(wall.actuator.link_changed, [Endpoint(CLIENT[version], 8883)])
        broker = _connect(stack, world.wall, version, SERVER[version], 8883)
        assert _outcome(broker, QUIET) != 0


@pytest.mark.req("AMB-57")
@pytest.mark.parametrize("version", [4, 6])
def test_what_the_broker_sends_to_others_is_not_exempt(walled, paths, version):
    wall = walled()
    wall.run(wall.actuator.link_changing, [Endpoint(SERVER[version], 5000, "udp")])
    wall.do("deny", SERVER[version], direction="ingress")
    assert paths.passes("server", "wall", WALL_OUT[version], version)
    assert not paths.passes("server", "client", CLIENT[version], version, expected=False)


@pytest.mark.req("AMB-57")
def test_neighbours_are_found_while_all_ipv6_is_denied(walled, world):
    wall = walled()
    wall.run(wall.actuator.link_changing, [Endpoint(SERVER[6], 8883)])
    wall.do("deny", "::/0")
    world.wall.ip("-6", "neigh", "flush", "dev", "east")
    with ExitStack() as stack:
        _open(stack, world.server, socket.SOCK_STREAM, 6, port=8883).listen()
        assert _outcome(_connect(stack, world.wall, 6, SERVER[6], 8883), 2.0) == 0


@pytest.mark.req("AMB-57")
@pytest.mark.parametrize("version", [4, 6])
def test_never_block_is_open_on_every_way_but_does_not_open_this_host(walled, paths, version):
    wall = walled(never_block=[f"{CLIENT[version]}", f"{WALL_OUT[version]}"])
    wall.do("deny", {4: "0.0.0.0/0", 6: "::/0"}[version])
    assert paths.all(version, OPEN) == OPEN
    # the firewall's own address in never_block protects packets to others of it, not this host
    assert not paths.passes("server", "wall", WALL_OUT[version], version, expected=False)


@pytest.mark.req("SLPF-38")
def test_tables_of_others_are_untouched(walled, world):
    world.wall.nft(
        text="table inet theirs { set s { type ipv4_addr; elements = { 10.1.1.1 }\n }\n"
        " chain c { type filter hook input priority 0; ip saddr @s counter drop\n }\n}\n"
        "table ip oc2d { chain c { ip saddr 10.0.0.1 drop\n }\n}\n"
    )

    def theirs():
        tables = (("inet", "theirs"), ("ip", "oc2d"))
        return [world.wall.nft("-a", "list", "table", *table) for table in tables]

    try:
        before = theirs()
        wall = walled(at_stop="remove")
        for index in range(20):
            wall.do("deny" if index % 3 else "allow", f"10.{index}.0.0/16")
        wall.do("delete", 1_000_000_000)
        assert theirs() == before
        wall.run(wall.actuator.stop)
        assert theirs() == before
        assert "inet oc2d" not in world.wall.nft("list", "tables")
    finally:
        world.wall.nft(text="delete table inet theirs\ndelete table ip oc2d\n")


# -- at random, against the model


def _raw(version, packet):
    if packet.protocol == 17:
        upper = struct.pack(">HHHH", packet.sport, packet.dport, 8, 0)
    else:
        upper = struct.pack(">HHIIBBHHH", packet.sport, packet.dport, 1, 0, 0x50, 2, 1024, 0, 0)
    src, dst = ip_address(packet.src).packed, ip_address(packet.dst).packed
    if version == 4:
        size = 20 + len(upper)
        head = struct.pack(">BBHHHBBH", 0x45, 0, size, 0, 0, 64, packet.protocol, 0)
    else:
        head = struct.pack(">IHBB", 0x60000000, len(upper), packet.protocol, 64)
    return head + src + dst + upper


PROBE = """
table inet probe {{
  {sets}
  chain pre {{ type filter hook prerouting priority -100; {pre}
  }}
  chain onward {{ type filter hook forward priority 10; {onward}
  }}
}}
"""
HOSTS = {
    4: (["10.1.2.3", "10.1.2.4", "10.1.9.9", "192.0.2.7"], ["203.0.113.5", "203.0.113.77"]),
    6: (["2001:db8::1", "2001:db8::2", "2001:db8:1::1"], ["2001:db8:ff::5", "2001:db8:ff:1::7"]),
}
PREFIX = {4: (0, 8, 16, 24, 31, 32), 6: (0, 32, 47, 64, 127, 128)}


def _probe():
    sets, hooks = [], {"pre": [], "onward": []}
    for version, word in ((4, "ip"), (6, "ip6")):
        kind = f"ipv{version}_addr"
        for hook, rules in hooks.items():
            name = f"{hook}{version}"
            sets.append(
                f"set {name} {{ type {kind} . {kind} . inet_proto . inet_service . inet_service;"
                " flags dynamic; size 65535; }"
            )
            key = f"{word} saddr . {word} daddr . meta l4proto . th sport . th dport"
            ours = f"meta l4proto {{ 6, 17 }} th sport {{ 1000, 53 }} add @{name} {{ {key} }}"
            rules.append(f"{ours} drop" if hook == "onward" else ours)
    return PROBE.format(
        sets="\n".join(sets), **{hook: "\n".join(rules) for hook, rules in hooks.items()}
    )


def _seen(text):
    """Read the elements of `nft list set`."""
    names = {"tcp": 6, "udp": 17}
    body = text.partition("elements = {")[2].partition("}")[0]
    found = set()
    for element in filter(None, (part.strip() for part in body.split(","))):
        src, dst, protocol, sport, dport = (word.strip() for word in element.split(" . "))
        found.add((src, dst, names.get(protocol) or int(protocol), int(sport), int(dport)))
    return found


PACKETS = [
    SimpleNamespace(version=v, src=s, dst=d, protocol=p, sport=sp, dport=dp)
    for v, (sources, destinations) in HOSTS.items()
    for s in sources
    for d in destinations
    for p in (6, 17)
    for sp in (1000, 53)
    for dp in (53, 443)
]


class Dice:
    """Random edits of a rule list that is kept beside the firewall's."""

    def __init__(self, seed, firewall):
        self._rnd = random.Random(seed)
        self._firewall = firewall
        self.rules = {}

    def edit(self):
        change = Change()
        for _ in range(self._rnd.randint(1, 4)):
            if self.rules and self._rnd.random() < 0.35:
                number = self._rnd.choice(list(self.rules))
                verdict, direction, match = self.rules.pop(number)
                old = Rule(number, verdict, *encode(match, direction))
                self._firewall.tiers.remove(old, change)
            else:
                number = self._rnd.choice([n for n in range(1, 60) if n not in self.rules])
                verdict = self._rnd.choice((Verdict.ALLOW, Verdict.DROP, Verdict.REJECT))
                direction = self._rnd.choice(list(Direction))
                match = self._match()
                self.rules[number] = verdict, direction, match
                rule = Rule(number, verdict, *encode(match, direction))
                self._firewall.tiers.add(rule, change)
        self._firewall.commit(change)

    def _network(self, version, addresses):
        prefix = self._rnd.choice(PREFIX[version])
        return ip_network(f"{self._rnd.choice(addresses)}/{prefix}", strict=False)

    def _match(self):
        version = self._rnd.choice((4, 6))
        sources, destinations = HOSTS[version]
        if self._rnd.random() < 0.4:
            return Match(version, either=self._network(version, sources + destinations))
        return Match(
            version,
            source=self._network(version, sources) if self._rnd.random() < 0.5 else None,
            destination=self._network(version, destinations) if self._rnd.random() < 0.5 else None,
            protocol=self._rnd.choice((None, 6, 17)),
            source_port=self._rnd.choice((None, None, 53, 1000)),
            destination_port=self._rnd.choice((None, 53, 443)),
        )


def _expected(model, rules):
    """What passes the ingress list, and of that the egress list."""
    passed = {"pre": set(), "onward": set()}
    for packet in PACKETS:
        item = (packet.src, packet.dst, packet.protocol, packet.sport, packet.dport)
        if model.first_match(rules, "ingress", packet) is Verdict.ALLOW:
            passed["pre"].add(item)
            if model.first_match(rules, "egress", packet) is Verdict.ALLOW:
                passed["onward"].add(item)
    return passed


def _observed(wall, hook):
    lists = [("list", "set", "inet", "probe", f"{hook}{version}") for version in (4, 6)]
    return set().union(*(_seen(wall.nft("-n", *arguments)) for arguments in lists))


@pytest.mark.req("SLPF-29", "AMB-39")
@pytest.mark.parametrize("seed", range(3))
def test_real_packets_fare_as_in_the_rule_list_read_one_by_one(walled, world, model, seed, backend):
    wall = walled()
    dice = Dice(seed, wall.actuator._rules.firewall)
    for device in ("all", "west"):
        world.wall.sysctl(f"ipv4/conf/{device}/rp_filter", 0)
    with ExitStack() as stack:
        sockets = {}
        for version in (4, 6):
            made = world.client.run(
                socket.socket, FAMILY[version], socket.SOCK_RAW, socket.IPPROTO_RAW
            )
            sockets[version] = stack.enter_context(made)
        world.wall.nft(text=_probe())
        stack.callback(world.wall.nft, text="delete table inet probe\n")
        for _ in range(12):
            wall.run(dice.edit)
            for name in ("pre4", "pre6", "onward4", "onward6"):
                world.wall.nft(text=f"flush set inet probe {name}\n")
            for packet in PACKETS:
                raw = _raw(packet.version, packet)
                sockets[packet.version].sendto(raw, (packet.dst, 0))
            expected = _expected(model, dice.rules)
            if backend == "iptables":
                del expected["pre"]  # there both lists are asked in the hook forward
            time.sleep(QUIET)
            for hook, items in expected.items():
                wait_until(lambda h=hook, i=items: _observed(world.wall, h) >= i)
                assert _observed(world.wall, hook) == items, dice.rules
