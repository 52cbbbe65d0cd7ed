"""Rule numbers compared by the kernel: every bit of them, with real packets."""

from __future__ import annotations

import random
import socket
import struct
from ipaddress import ip_network

import pytest

from oc2d_slpf.nftables import Nftables
from oc2d_slpf.operations import Change
from oc2d_slpf.rules import MAX_NUMBER, Direction, Match, Rule, Verdict, encode
from oc2d_slpf.tiers import Tiers

pytestmark = pytest.mark.root

BITS = MAX_NUMBER.bit_length()
# each power of two, and what differs from it in one bit, at either end
NUMBERS = sorted(
    {1 << bit for bit in range(BITS)}
    | {(1 << bit) - 1 for bit in range(1, BITS + 1)}
    | {MAX_NUMBER - (1 << bit) for bit in range(BITS)} - {0}
)
VERDICTS = (Verdict.ALLOW, Verdict.DROP)
POOL = {4: 10 << 24, 6: 0x20010DB8 << 96}
WIDTH = {4: 4, 6: 16}


def _address(version, index, prefix):
    """The nets are disjoint, whatever their prefix."""
    return POOL[version] + (index << 8) + (7 if prefix == 8 * WIDTH[version] else 0)


def _rules(version):
    bits = 8 * WIDTH[version]
    for index, number in enumerate(NUMBERS):
        prefix = (bits, bits - 1, bits - 8)[index % 3]
        net = ip_network((_address(version, index, prefix), prefix))
        verdict = VERDICTS[number.bit_count() % 2]
        yield Rule(number, verdict, *encode(Match(version, either=net), Direction.BOTH)), net[0]


class Sender:
    """Writes packets with any addresses; what our own output drops is refused."""

    def __init__(self, version):
        family = socket.AF_INET if version == 4 else socket.AF_INET6
        self.version = version
        self.socket = socket.socket(family, socket.SOCK_RAW, socket.IPPROTO_RAW)

    def passes(self, source, destination):
        body = struct.pack("!HHHH", 5000, 5001, 8, 0)
        if self.version == 4:
            head = struct.pack("!BBHHHBBH", 0x45, 0, 28, 0, 0, 64, 17, 0)
        else:
            head = struct.pack("!IHBB", 6 << 28, len(body), 17, 64)
        data = head + source.packed + destination.packed + body
        try:
            self.socket.sendto(data, (str(destination), 0))
        except PermissionError:
            return False
        return True


@pytest.fixture
def filter_(namespace):
    for line in (
        "link add d0 type veth peer name d1",
        "addr add 192.0.2.1/24 dev d0",
        "addr add fd00::1/64 dev d0 nodad",
        "link set d1 up",
        "link set d0 up arp off",
        "route add 10.0.0.0/8 dev d0",
        "-6 route add 2001:db8::/32 dev d0",
    ):
        namespace.ip(*line.split())
    made = Nftables()
    namespace.run(made.check)
    yield made
    made.close()


@pytest.mark.req("SLPF-31", "AMB-39")
@pytest.mark.parametrize("version", [4, 6])
def test_of_two_nets_a_packet_is_between_the_lower_number_decides(namespace, filter_, version):
    listed = list(_rules(version))
    tiers = Tiers((rule for rule, _ in listed[::2]), ranked=True)
    namespace.run(filter_.replace, tiers.operations())
    for rule, _ in listed[1::2]:  # new shapes and new keys beside those that are there
        change = Change()
        tiers.add(rule, change)
        namespace.run(filter_.apply, change.operations(tiers))
    assert len(tiers.order().tiers) == 1
    if version == 6:  # loaded anew over what is there
        namespace.run(filter_.replace, tiers.operations())
    sender = namespace.run(Sender, version)
    dice = random.Random(version)
    pairs = [tuple(dice.sample(listed, 2)) for _ in range(3000)]
    pairs += [(one, one) for one in listed]
    elsewhere = (None, listed[0][1] + (5000 << 8))
    pairs += [(one, elsewhere) for one in listed] + [(elsewhere, one) for one in listed]

    def send():
        return [sender.passes(one[1], other[1]) for one, other in pairs]

    found = namespace.run(send)
    sender.socket.close()
    for (one, other), passed in zip(pairs, found, strict=True):
        rule = min(rule for rule, _ in (one, other) if rule is not None)
        assert passed is (rule.verdict is Verdict.ALLOW), (one, other)


def test_ranked_tiers_come_and_go_and_nft_can_list_them(namespace, filter_):
    tiers = Tiers(ranked=True)
    namespace.run(filter_.replace, tiers.operations())
    rules = [rule for version in (4, 6) for rule, _ in _rules(version)][::7]
    rules = [rule._replace(number=number) for number, rule in enumerate(rules, 1)]
    for edit in (tiers.add, tiers.remove):
        for rule in rules:
            change = Change()
            edit(rule, change)
            namespace.run(filter_.apply, change.operations(tiers))
        listed = namespace.nft("list", "table", "inet", "oc2d")
        namespace.nft("-j", "list", "table", "inet", "oc2d")
        assert ("ipv6_addr : mark . mark" in listed) is (edit == tiers.add)
    assert len(tiers) == 0
    assert not [line for line in listed.splitlines() if "_ip" in line]
