"""Probes for the proof: what a rule list read line by line says, and what real packets do.

Nothing here knows the product: commands are plain dicts, addresses are numbers.
"""

from __future__ import annotations

import select
import socket
import struct
import time
from contextlib import ExitStack, suppress
from ipaddress import ip_address, ip_network
from types import SimpleNamespace

import pytest

WALL = {4: ("10.77.1.1", "10.77.2.1"), 6: ("fd77:1::1", "fd77:2::1")}
OUTSIDE = {
    4: ("10.77.1.2", "172.16.0.1", "172.16.0.2", "172.16.0.3", "172.16.1.1", "172.16.200.9"),
    6: ("fd77:1::2", "fd16::1", "fd16::2", "fd16::3", "fd16:0:0:1::1", "fd16:0:1::9"),
}
INSIDE = {
    4: ("10.77.2.2", "172.17.0.1", "172.17.0.2", "172.17.0.3", "172.17.1.1", "172.17.200.9"),
    6: ("fd77:2::2", "fd17::1", "fd17::2", "fd17::3", "fd17:0:0:1::1", "fd17:0:1::9"),
}
# 2048 and 32768 are also how an echo request of ICMP and of ICMPv6 begins
PORTS = (0, 53, 443, 2048, 32768)
NUMBERS = {"tcp": 6, "udp": 17, "sctp": 132, "icmp": {4: 1, 6: 58}}
ICMP = (1, 58)
RST = 4
MARK = b"oc2d"
PATIENCE = 3.0  # seconds in which an expected packet comes, on a busy machine too


# -- the model


def _value(text):
    return int(ip_address(text))


class Line:
    """One allow or deny as it reads: `{"action", "target", "value", …arguments}`."""

    def __init__(self, command):
        self.verdict = "allow"
        if command["action"] == "deny":
            self.verdict = command.get("drop_process", "none")
        direction = command.get("direction", "both")
        self.lists = ("ingress", "egress") if direction == "both" else (direction,)
        self.version = 4 if command["target"].startswith("ipv4") else 6
        value = command["value"]
        if command["target"].endswith("_net"):
            self.tests = [("any", *self._range(value))]
            return
        self.tests = [
            (side, *self._range(value[name]))
            for side, name in (("src", "src_addr"), ("dst", "dst_addr"))
            if name in value
        ]
        if "protocol" in value:
            number = NUMBERS[value["protocol"]]
            self.tests.append(
                ("protocol", number if isinstance(number, int) else number[self.version])
            )
        for side, name in (("sport", "src_port"), ("dport", "dst_port")):
            if name in value:
                self.tests.append((side, value[name]))

    @staticmethod
    def _range(text):
        network = ip_network(text)
        return int(network[0]), int(network[-1])

    def hits(self, packet):
        return packet["version"] == self.version and all(
            self._holds(test, packet) for test in self.tests
        )

    @staticmethod
    def _holds(test, packet):
        name, *wanted = test
        if name == "any":
            return any(wanted[0] <= packet[side] <= wanted[1] for side in ("src", "dst"))
        if name in {"src", "dst"}:
            return wanted[0] <= packet[name] <= wanted[1]
        return packet[name] == wanted[0]


class Linear:
    """All rules by number; the first that hits decides, and what none hits passes."""

    def __init__(self, backend):
        self.lines = {}
        self.backend = backend

    def judge(self, side, packet):
        for number in sorted(self.lines):
            line = self.lines[number]
            if side in line.lists and line.hits(packet):
                return line.verdict
        return "allow"

    def fate(self, packet):
        """Return what becomes of a packet: whether it arrives, and whether a refusal does."""
        way = {"input": ["ingress"], "output": ["egress"], "forward": ["ingress", "egress"]}
        for side in way[packet["way"]]:
            verdict = self.judge(side, packet)
            if verdict == "allow":
                continue
            if verdict == "none":
                return "nothing"
            # the answer is judged as any packet that leaves, except over loopback; one that a
            # reject hits passes
            stopped = (
                packet["way"] != "output" and self.judge("egress", self._answer(packet)) == "none"
            )
            return "nothing" if stopped else "refused"
        return "arrives"

    def _answer(self, packet):
        """Return what the firewall answers, towards where the packet came from.

        A TCP segment gets one with RST, in the name of where it went; anything else an ICMP error.
        The kernel sends that from the address asked for if it knows that it is one of this host.
        Of IPv4 it does not in prerouting: there it is the address of that link.
        """
        version = packet["version"]
        if packet["protocol"] == 6:
            turned = {"src": packet["dst"], "dst": packet["src"]}
            ports = {"sport": packet["dport"], "dport": packet["sport"]}
            return {"version": version, "protocol": 6} | turned | ports
        near = _value(WALL[version][packet["from"] == "inside"])
        local = {_value(address) for address in WALL[version]}
        known = packet["dst"] in local and (version == 6 or self.backend == "iptables")
        source = packet["dst"] if known else near
        ours = {"version": version, "src": source, "dst": packet["src"]}
        return ours | {"protocol": 1 if version == 4 else 58, "sport": None, "dport": None}


# -- the packets


def draw(dice, id_):
    """Return a packet of any kind."""
    version = dice.choice((4, 6))
    way = dice.choice(("input", "output", "forward", "forward"))
    origin = "wall" if way == "output" else dice.choice(("outside", "inside"))
    pools = {"wall": WALL, "outside": OUTSIDE, "inside": INSIDE}
    goal = {"outside": "inside", "inside": "outside"}.get(origin) or dice.choice(
        ("outside", "inside")
    )
    if way == "input":
        goal = "wall"
    protocol = dice.choice((6, 17, 1 if version == 4 else 58, 132))
    ported = protocol not in ICMP
    return {
        "id": id_,
        "version": version,
        "way": way,
        "from": origin,
        "to": goal,
        "src": _value(dice.choice(pools[origin][version])),
        "dst": _value(dice.choice(pools[goal][version])),
        "protocol": protocol,
        "sport": dice.choice(PORTS) if ported else None,
        "dport": dice.choice(PORTS) if ported else None,
    }


def _sum(data):
    if len(data) % 2:
        data += b"\0"
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def build(packet):
    """Return the bytes from the IP header on, with right checksums (a reject asks for them)."""
    version, protocol = packet["version"], packet["protocol"]
    payload = MARK + struct.pack("!I", packet["id"])
    ports = struct.pack("!HH", packet["sport"] or 0, packet["dport"] or 0)
    if protocol == 6:
        # the sequence number comes back in a RST, which quotes nothing else
        head, tail = ports + struct.pack("!IIBBH", packet["id"], 0, 5 << 4, 2, 1024), b"\0\0"
    elif protocol == 17:
        head, tail = ports + struct.pack("!H", 8 + len(payload)), b""
    elif protocol == 132:
        head, tail = ports + struct.pack("!I", 0), None
    else:
        head, tail = struct.pack("!BB", 8 if version == 4 else 128, 0), b"\0\x01\0\x01"
    length = 4 if version == 4 else 16
    src, dst = (packet[side].to_bytes(length, "big") for side in ("src", "dst"))
    if tail is None:
        body = head + b"\0\0\0\0" + payload
    else:
        body = head + b"\0\0" + tail + payload
        pseudo = b"" if protocol == 1 else src + dst + struct.pack("!II", len(body), protocol)
        check = _sum(pseudo + body) or 0xFFFF
        body = head + struct.pack("!H", check) + tail + payload
    if version == 6:
        return struct.pack("!IHBB", 6 << 28, len(body), protocol, 64) + src + dst + body
    fields = [0x45, 0, 20 + len(body), packet["id"] & 0xFFFF, 0, 64, protocol, 0, src, dst]
    fields[7] = _sum(struct.pack("!BBHHHBBH4s4s", *fields))
    return struct.pack("!BBHHHBBH4s4s", *fields) + body


def read(data):
    """Return (id, "arrives" or "refused") of an IP packet that is ours, else None."""
    if len(data) < 28:
        return None
    version = data[0] >> 4
    if version == 4:
        protocol, body = data[9], data[(data[0] & 15) * 4 :]
    else:
        protocol, body = data[6], data[40:]
    if protocol == 6 and len(body) >= 20 and body[13] & RST:
        # it acknowledges the SYN and what came with it
        return int.from_bytes(body[8:12], "big") - 1 - len(MARK) - 4, "refused"
    if data[-8:-4] != MARK:
        return None
    id_ = int.from_bytes(data[-4:], "big")
    if protocol not in ICMP:
        return id_, "arrives"
    kind = tuple(body[:2])
    if kind in {(8, 0), (128, 0)}:
        return id_, "arrives"
    return (id_, "refused") if kind == ((3, 13) if version == 4 else (1, 1)) else None


class Probes:
    """Sockets on the three hosts: what is sent, and what was ever seen of it."""

    def __init__(self, world, stack):
        self._links = {}
        self._hosts = {"outside": world.client, "inside": world.server, "wall": world.wall}
        for name, space in (("outside", world.client), ("inside", world.server)):
            self._links[name] = space.run(socket.socket, socket.AF_PACKET, socket.SOCK_RAW, 0)
            space.run(self._links[name].bind, ("eth0", 3))  # ETH_P_ALL
        self._inside = {
            (version, protocol): world.wall.run(
                socket.socket,
                socket.AF_INET if version == 4 else socket.AF_INET6,
                socket.SOCK_RAW,
                protocol,
            )
            for version in (4, 6)
            for protocol in (6, 17, 1 if version == 4 else 58, 132)
        }
        self._out = {
            version: world.wall.run(
                socket.socket,
                socket.AF_INET if version == 4 else socket.AF_INET6,
                socket.SOCK_RAW,
                socket.IPPROTO_RAW,
            )
            for version in (4, 6)
        }
        self._poll = select.poll()
        self._readers = {}
        for name, sock in (*self._links.items(), *((key, s) for key, s in self._inside.items())):
            sock.setblocking(False)
            sock.setsockopt(socket.SOL_SOCKET, 33, 8 << 20)  # SO_RCVBUFFORCE
            self._poll.register(sock, select.POLLIN)
            self._readers[sock.fileno()] = name, sock
        for sock in (*self._links.values(), *self._inside.values(), *self._out.values()):
            stack.callback(sock.close)
        self._frames = {name: _macs(world, name) for name in self._links}
        self.seen = {}

    def send(self, packet):
        data = build(packet)
        if packet["from"] == "wall":
            address = str(
                ip_address(packet["dst"].to_bytes(4 if packet["version"] == 4 else 16, "big"))
            )
            with suppress(PermissionError):  # dropped or refused in our own output
                self._out[packet["version"]].sendto(data, (address, 0))
            return
        kind = b"\x08\x00" if packet["version"] == 4 else b"\x86\xdd"
        self._links[packet["from"]].send(self._frames[packet["from"]] + kind + data)

    def collect(self, wanted):
        """Read until all of the pairs (id, fate) were seen, or they cannot come any more."""
        deadline = time.monotonic() + PATIENCE
        missing = set(wanted)
        while True:
            missing = {pair for pair in missing if pair[1] not in self.seen.get(pair[0], {})}
            for fd, _ in self._poll.poll(0 if not missing else 50):
                self._drain(*self._readers[fd])
            missing = {pair for pair in missing if pair[1] not in self.seen.get(pair[0], {})}
            if not missing or time.monotonic() > deadline:
                return

    def _drain(self, name, sock):
        while True:
            try:
                data, address = sock.recvfrom(2048)
            except BlockingIOError:
                return
            if name in self._links:
                if address[2] == socket.PACKET_OUTGOING:
                    continue
                found, where = read(data[14:]), name
            else:
                version, protocol = name
                if version == 6:
                    # a raw socket of IPv6 gives what is behind the header
                    data = struct.pack("!IHBB", 6 << 28, len(data), protocol, 64) + bytes(32) + data
                found, where = read(data), "wall"
            if found:
                self.seen.setdefault(found[0], {}).setdefault(found[1], set()).add(where)


def _macs(world, name):
    host, device = (world.client, "west") if name == "outside" else (world.server, "east")
    macs = [
        bytes.fromhex(space.ip("link", "show", link).split("link/ether ")[1][:17].replace(":", ""))
        for space, link in ((world.wall, device), (host, "eth0"))
    ]
    return macs[0] + macs[1]


@pytest.fixture
def probes(world):
    """Route the pools, keep neighbours fixed, and stop answers that are not the firewall's."""
    wall = world.wall
    for number, space, device in ((1, world.client, "west"), (2, world.server, "east")):
        mac = space.ip("link", "show", "eth0").split("link/ether ")[1][:17]
        for version, pool in ((4, f"172.{15 + number}.0.0/16"), (6, f"fd{15 + number}::/32")):
            via = f"10.77.{number}.2" if version == 4 else f"fd77:{number}::2"
            wall.ip("neigh", "replace", via, "lladdr", mac, "dev", device, "nud", "permanent")
            wall.ip("route", "replace", pool, "via", via, "dev", device)
    for device in ("all", "west", "east"):
        wall.sysctl(f"ipv4/conf/{device}/rp_filter", 0)
    wall.sysctl("ipv4/icmp_msgs_per_sec", 1_000_000)
    wall.sysctl("ipv4/icmp_msgs_burst", 1_000_000)
    wall.sysctl("ipv4/icmp_echo_ignore_all", 1)
    wall.sysctl("ipv6/icmp/echo_ignore_all", 1)
    for space in (world.client, world.server):
        # what a host is sent ends there
        space.nft(
            text="add table inet quiet\nadd chain inet quiet rest "
            "{ type filter hook prerouting priority -400; policy drop; }\n"
        )
    with ExitStack() as stack:
        yield Probes(world, stack)


@pytest.fixture(scope="session")
def proof():
    return SimpleNamespace(
        Linear=Linear, Line=Line, draw=draw, OUTSIDE=OUTSIDE, INSIDE=INSIDE, WALL=WALL, PORTS=PORTS
    )
