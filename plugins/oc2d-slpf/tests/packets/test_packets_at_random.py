"""Real packets through a real kernel, against the rule list read one by one."""

from __future__ import annotations

import random
import socket
import struct
import time
from contextlib import ExitStack
from ipaddress import ip_address, ip_network
from types import SimpleNamespace

import pytest

from oc2d_slpf.operations import Change
from oc2d_slpf.rules import Direction, Match, Rule, Verdict, encode
from tests.waiting import wait_until

from .conftest import FAMILY, QUIET

pytestmark = [pytest.mark.root, pytest.mark.req("SLPF-14", "SLPF-31", "SLPF-38")]


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
