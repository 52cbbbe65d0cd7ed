"""Which packets pass a real kernel: client — firewall — server, in network namespaces."""

from __future__ import annotations

import random
import socket
import struct
import time
from contextlib import ExitStack

import pytest

from oc2d.actuator import Endpoint

from .conftest import (
    CLIENT,
    FAMILY,
    QUIET,
    SERVER,
    WALL_IN,
    connect,
    open_socket,
    outcome,
    readable,
)

pytestmark = [pytest.mark.root, pytest.mark.req("SLPF-14", "SLPF-31", "SLPF-38")]

WALL_OUT = {4: "10.77.2.1", 6: "fd77:2::1"}
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
    while readable(sock, max(0.0, deadline - time.monotonic())):
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
            open_socket(stack, world.server, socket.SOCK_STREAM, version, port=port).listen()
        wall.run(wall.actuator.link_changing, [Endpoint(SERVER[version], 8883)])
        answer = wall.do("deny", {4: "0.0.0.0/0", 6: "::/0"}[version])
        assert f"broker {SERVER[version]} port 8883" in answer.text
        broker = connect(stack, world.wall, version, SERVER[version], 8883)
        assert outcome(broker, 2.0) == 0
        other = connect(stack, world.wall, version, SERVER[version], 8884)
        assert outcome(other, QUIET) != 0
        # others do not reach the broker through this host
        forwarded = connect(stack, world.client, version, SERVER[version], 8883)
        assert outcome(forwarded, QUIET) is None
        assert paths.all(version, SHUT) == SHUT
        # loopback is not the network's business
        open_socket(stack, world.wall, socket.SOCK_STREAM, version, port=7000).listen()
        own = {4: "127.0.0.1", 6: "::1"}[version]
        assert outcome(connect(stack, world.wall, version, own, 7000), 2.0) == 0
        # the broker moves: the old address closes once the new link stands
        wall.run(wall.actuator.link_changed, [Endpoint(SERVER[version], 8883)])
        wall.run(wall.actuator.link_changing, [Endpoint(CLIENT[version], 8883)])
        broker = connect(stack, world.wall, version, SERVER[version], 8883)
        assert outcome(broker, 2.0) == 0
        wall.run(wall.actuator.link_changed, [Endpoint(CLIENT[version], 8883)])
        broker = connect(stack, world.wall, version, SERVER[version], 8883)
        assert outcome(broker, QUIET) != 0


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
        open_socket(stack, world.server, socket.SOCK_STREAM, 6, port=8883).listen()
        assert outcome(connect(stack, world.wall, 6, SERVER[6], 8883), 2.0) == 0


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
