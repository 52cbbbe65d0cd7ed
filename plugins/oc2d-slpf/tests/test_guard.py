"""What passes ahead of every rule, by real packets: a host that denies all can still be commanded.

client — wall — server — beyond: the actuator runs on the wall; the last link is a narrow one.
"""

from __future__ import annotations

import select
import socket
import struct
import threading
from contextlib import ExitStack

import pytest

from oc2d.actuator import Endpoint
from oc2d_slpf import resolvers
from tests.waiting import wait_until

pytestmark = [pytest.mark.root, pytest.mark.req("AMB-57")]

FAMILY = {4: socket.AF_INET, 6: socket.AF_INET6}
ALL = {4: "0.0.0.0/0", 6: "::/0"}
WALL = {4: "10.77.2.1", 6: "fd77:2::1"}
SERVER = {4: "10.77.2.2", 6: "fd77:2::2"}
BEYOND = {4: "10.77.3.2", 6: "fd77:3::2"}
QUIET = 0.05
BROKER_PORT = 8883


@pytest.fixture
def beyond(world, namespace):
    """A host behind the server, on a link of 1300 bytes that only the server knows is narrow."""
    device = f"far{namespace.name[-4:]}"
    server = world.server
    server.ip(
        "link", "add", device, "type", "veth", "peer", "name", "eth0", "netns", namespace.name
    )
    for space, name, host in ((server, device, 1), (namespace, "eth0", 2)):
        space.ip("addr", "add", f"10.77.3.{host}/24", "dev", name)
        space.ip("addr", "add", f"fd77:3::{host}/64", "dev", name, "nodad")
        space.ip("link", "set", name, "up")
    server.ip("link", "set", device, "mtu", "1300")
    namespace.ip("route", "add", "default", "via", "10.77.3.1")
    namespace.ip("-6", "route", "add", "default", "via", "fd77:3::1")
    server.sysctl("ipv4/ip_forward", 1)
    server.sysctl("ipv6/conf/all/forwarding", 1)
    yield namespace
    server.ip("link", "del", device)


def _udp(stack, space, version, port=0, *, device=None):
    made = space.run(socket.socket, FAMILY[version], socket.SOCK_DGRAM)
    stack.callback(made.close)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
    if device:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, device.encode())
    made.bind(("", port))
    return made


def _arrives(sender, address, receiver, *, expected=True):
    try:
        sender.sendto(b"x", address)
    except PermissionError:
        return False
    if not select.select([receiver], [], [], 2.0 if expected else QUIET)[0]:
        return False
    receiver.recv(9)
    return True


def _listen(stack, space, version, port):
    made = space.run(socket.socket, FAMILY[version], socket.SOCK_STREAM)
    stack.callback(made.close)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    made.bind(("", port))
    made.listen()
    made.settimeout(5)
    return made


@pytest.mark.parametrize("version", [4, 6])
def test_a_broker_off_the_link_is_reached_and_told_much_over_a_narrow_path(
    walled, world, beyond, version
):
    """Neighbours are found anew, and what is too big is learned by ICMP: no MTU probing here."""
    wall = walled()
    world.wall.sysctl("ipv4/tcp_mtu_probing", 0)
    wall.run(wall.actuator.link_changing, [Endpoint(BEYOND[version], BROKER_PORT)])
    answer = wall.do("deny", ALL[version])
    assert f"broker {BEYOND[version]} port {BROKER_PORT}" in answer.text
    world.wall.ip("neigh", "flush", "dev", "east")
    world.wall.ip("-6", "neigh", "flush", "dev", "east")
    data = bytes(300_000)
    with ExitStack() as stack:
        broker = _listen(stack, beyond, version, BROKER_PORT)
        link = world.wall.run(socket.socket, FAMILY[version], socket.SOCK_STREAM)
        stack.callback(link.close)
        link.settimeout(5)
        link.connect((BEYOND[version], BROKER_PORT))
        peer, _ = broker.accept()
        stack.callback(peer.close)
        peer.settimeout(5)
        sending = threading.Thread(target=link.sendall, args=(data,))
        sending.start()
        got = 0
        while got < len(data):
            got += len(peer.recv(1 << 16))
        sending.join()
        learned = world.wall.ip(f"-{version}", "route", "get", BEYOND[version])
        assert "mtu 1300" in learned


@pytest.mark.parametrize("version", [4, 6])
def test_an_icmp_error_about_anything_else_does_not_pass(walled, world, version):
    wall = walled()
    wall.run(wall.actuator.link_changing, [Endpoint(BEYOND[version], BROKER_PORT)])
    wall.do("deny", ALL[version])
    kind = {4: socket.IPPROTO_ICMP, 6: socket.IPPROTO_ICMPV6}[version]
    with ExitStack() as stack:
        ear = world.wall.run(socket.socket, FAMILY[version], socket.SOCK_RAW, kind)
        mouth = world.server.run(socket.socket, FAMILY[version], socket.SOCK_RAW, kind)
        stack.callback(ear.close)
        stack.callback(mouth.close)

        def heard(quoted_to, port, type_code, *, expected=True):
            mouth.sendto(_too_big(version, quoted_to, port, type_code), (WALL[version], 0))
            while select.select([ear], [], [], 2.0 if expected else QUIET)[0]:
                data = ear.recv(500)
                if data[20 if version == 4 else 0 :][:2] == bytes(type_code):
                    return True
            return False

        right = {4: (3, 4), 6: (2, 0)}[version]
        assert heard(BEYOND[version], BROKER_PORT, right)
        assert not heard(BEYOND[version], 8884, right, expected=False)
        assert not heard(SERVER[version], BROKER_PORT, right, expected=False)
        unreachable = {4: (3, 1), 6: (1, 3)}[version]
        assert not heard(BEYOND[version], BROKER_PORT, unreachable, expected=False)


def test_an_icmp_error_is_not_taken_for_another_behind_an_extension_header(walled, world):
    """Where the quoted packet would be without it, the header has what would pass."""
    wall = walled()
    wall.run(wall.actuator.link_changing, [Endpoint(BEYOND[6], BROKER_PORT)])
    wall.do("deny", ALL[6])
    address = socket.inet_pton(socket.AF_INET6, BEYOND[6])
    data = bytes(10) + b"\x06" + bytes(17) + address + bytes(2) + BROKER_PORT.to_bytes(2, "big")
    option = b"\x1e" + bytes([52]) + data.ljust(52, b"\0")  # RFC 4727: for experiments, skipped
    with ExitStack() as stack:
        kind = socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6
        ear = world.wall.run(socket.socket, *kind)
        mouth = world.server.run(socket.socket, *kind)
        stack.callback(ear.close)
        stack.callback(mouth.close)

        def heard(error, patience):
            mouth.sendto(error, (WALL[6], 0))
            while select.select([ear], [], [], patience)[0]:
                if ear.recv(500)[:2] == b"\x02\0":
                    return True
            return False

        assert heard(_too_big(6, BEYOND[6], BROKER_PORT, (2, 0)), 2.0)
        mouth.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_DSTOPTS, bytes([0, 6]) + option)
        assert not heard(_too_big(6, SERVER[6], 8884, (2, 0)), QUIET)


def _too_big(version, quoted_to, port, type_code):
    """An ICMP error that quotes a TCP segment of ours; the kernel fills in ICMPv6's checksum."""
    ends = [socket.inet_pton(FAMILY[version], a) for a in (WALL[version], quoted_to)]
    if version == 4:
        inner = struct.pack(">BBHHHBBH", 0x45, 0, 1500, 0, 0x4000, 64, 6, 0) + b"".join(ends)
    else:
        inner = struct.pack(">IHBB", 0x60000000, 1460, 6, 64) + b"".join(ends)
    body = struct.pack(">BBHI", *type_code, 0, 1300) + inner + struct.pack(">HHI", 40000, port, 1)
    total = sum(struct.unpack(f">{len(body) // 2}H", body))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return body[:2] + struct.pack(">H", ~total & 0xFFFF) + body[4:]


@pytest.mark.parametrize("direction", ["both", "ingress", "egress"])
def test_an_address_is_renewed_by_dhcp(walled, world, direction):
    wall = walled()
    answer = wall.do("deny", ALL[4], direction=direction)
    assert "DHCP" in answer.text
    with ExitStack() as stack:
        client = _udp(stack, world.wall, 4, 68, device="east")
        server = _udp(stack, world.server, 4, 67, device="eth0")
        assert _arrives(client, (SERVER[4], 67), server)
        assert _arrives(client, ("255.255.255.255", 67), server)
        assert _arrives(server, (WALL[4], 68), client)
        assert _arrives(server, ("255.255.255.255", 68), client)
        # the same ports the other way round, or through this host, are nothing of ours
        backwards = _udp(stack, world.wall, 4, 67, device="east")
        other = _udp(stack, world.server, 4, 68, device="eth0")
        shut = direction == "ingress"
        assert _arrives(backwards, (SERVER[4], 68), other, expected=shut) is shut
        stranger = _udp(stack, world.client, 4, 68)
        assert not _arrives(stranger, (SERVER[4], 67), server, expected=False)


@pytest.mark.parametrize("direction", ["both", "ingress", "egress"])
def test_an_address_is_renewed_by_dhcpv6(walled, world, direction):
    wall = walled()
    assert "DHCPv6" in wall.do("deny", ALL[6], direction=direction).text
    with ExitStack() as stack:
        client = _udp(stack, world.wall, 6, 546, device="east")
        server = _udp(stack, world.server, 6, 547, device="eth0")
        near = world.server.run(socket.if_nametoindex, "eth0")
        join = socket.inet_pton(socket.AF_INET6, "ff02::1:2") + struct.pack("=I", near)
        server.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, join)
        east = world.wall.run(socket.if_nametoindex, "east")
        wait_until(lambda: _link_local(world.wall, "east"), 5.0)
        assert _arrives(client, ("ff02::1:2", 547, 0, east), server)
        own = _link_local(world.wall, "east")
        assert _arrives(server, (own, 546, 0, near), client)
        assert _arrives(server, (WALL[6], 546), client)
        stranger = _udp(stack, world.client, 6, 546)
        assert not _arrives(stranger, (SERVER[6], 547), server, expected=False)


def _link_local(space, device):
    text = space.ip("-6", "-o", "addr", "show", "dev", device, "scope", "link", "-tentative")
    return text.split(" inet6 ")[1].partition("/")[0] if " inet6 " in text else None


@pytest.mark.parametrize("version", [4, 6])
def test_name_servers_are_asked_and_followed_when_they_change(walled, world, resolv_conf, version):
    resolv_conf.write_text(f"# ours\nnameserver {SERVER[version]}\nnameserver 127.0.0.53\n")
    wall = walled()
    assert f"DNS server {SERVER[version]}" in wall.do("deny", ALL[version]).text
    with ExitStack() as stack:
        asks = _udp(stack, world.wall, version, 40053)
        answers = _udp(stack, world.server, version, 53)
        assert _arrives(asks, (SERVER[version], 53), answers)
        assert _arrives(answers, (WALL[version], 40053), asks)
        other = _udp(stack, world.server, version, 54)
        assert not _arrives(asks, (SERVER[version], 54), other, expected=False)
        resolv_conf.write_text("nameserver 192.0.2.53\n")
        wall.run(wall.actuator.link_changing, [Endpoint(SERVER[version], BROKER_PORT)])
        assert not _arrives(asks, (SERVER[version], 53), answers, expected=False)


def test_what_a_name_server_sends_to_a_whole_link_is_no_answer(walled, world, resolv_conf):
    resolv_conf.write_text(f"nameserver {SERVER[4]}\n")
    wall = walled()
    wall.do("deny", ALL[4])
    with ExitStack() as stack:
        server = _udp(stack, world.server, 4, 53)
        host = _udp(stack, world.wall, 4, 9999)
        assert _arrives(server, (WALL[4], 9999), host)
        assert not _arrives(server, ("10.77.2.255", 9999), host, expected=False)


def test_only_name_servers_off_this_host_need_a_permit(resolv_conf):
    resolv_conf.write_text(
        "search example.com\nnameserver 127.0.0.53\nnameserver ::1\n nameserver fe80::1%eth0\n"
        "nameserver 192.0.2.53\noptions edns0\nnameserver nonsense\n#nameserver 192.0.2.54\n"
    )
    found = {(permit.address, permit.protocol, permit.port) for permit in resolvers.in_use()}
    assert found == {(a, p, 53) for a in ("fe80::1", "192.0.2.53") for p in (6, 17)}


# -- false_ack


@pytest.mark.parametrize("backend", ["nftables"])
@pytest.mark.req("SLPF-16", "AMB-45")
@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("target", ["wall", "server"])
def test_false_ack_completes_the_handshake_and_the_host_sees_nothing(
    walled, world, version, target
):
    wall = walled()
    address = {"wall": WALL, "server": SERVER}[target][version]
    with ExitStack() as stack:
        service = _listen(stack, getattr(world, target), version, 7001)
        service.setblocking(False)
        number = wall.do(
            "deny",
            f"{version} dst_port=7001 protocol=tcp",
            direction="ingress",
            drop_process="false_ack",
        ).results.rule_number
        wall.do("deny", f"{version} dst_port=7003 protocol=tcp", direction="ingress")
        for _ in range(20):
            deceived = world.client.run(socket.socket, FAMILY[version], socket.SOCK_STREAM)
            stack.callback(deceived.close)
            deceived.settimeout(2)
            deceived.connect((address, 7001))
            deceived.send(b"is anybody there")
        deceived.settimeout(QUIET)
        with pytest.raises(TimeoutError):
            deceived.recv(1)
        with pytest.raises(BlockingIOError):
            service.accept()
        # others of the rule list are judged as ever
        _listen(stack, getattr(world, target), version, 7002)
        _listen(stack, getattr(world, target), version, 7003)
        other = world.client.run(socket.socket, FAMILY[version], socket.SOCK_STREAM)
        stack.callback(other.close)
        other.settimeout(2)
        other.connect((address, 7002))
        dropped = world.client.run(socket.socket, FAMILY[version], socket.SOCK_STREAM)
        stack.callback(dropped.close)
        dropped.settimeout(QUIET)
        with pytest.raises(TimeoutError):
            dropped.connect((address, 7003))
        assert "synproxy" in world.wall.nft("list", "chain", "inet", "oc2d", "decoy")
        wall.do("delete", number)
        assert "synproxy" not in world.wall.nft("list", "chain", "inet", "oc2d", "decoy")
        honest = world.client.run(socket.socket, FAMILY[version], socket.SOCK_STREAM)
        stack.callback(honest.close)
        honest.settimeout(2)
        honest.connect((address, 7001))
        service.settimeout(2)
        service.accept()[0].close()


@pytest.mark.parametrize("backend", ["nftables"])
@pytest.mark.req("AMB-45")
def test_an_allow_ahead_of_false_ack_lets_the_host_answer_itself(walled, world):
    wall = walled()
    with ExitStack() as stack:
        service = _listen(stack, world.wall, 4, 7001)
        deny = {"direction": "ingress", "drop_process": "false_ack"}
        wall.do("deny", "4 protocol=tcp", **deny)
        wall.do("allow", "4 src_addr=10.77.1.2")
        made = world.client.run(socket.socket, socket.AF_INET, socket.SOCK_STREAM)
        stack.callback(made.close)
        made.settimeout(2)
        made.connect((WALL[4], 7001))
        service.accept()[0].close()


@pytest.mark.req("SLPF-16")
@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("direction", ["both", "ingress"])
def test_reject_ends_an_established_connection_and_tells_a_connected_udp_socket(
    walled, world, version, direction
):
    wall = walled()
    with ExitStack() as stack:
        service = _listen(stack, world.wall, version, 7001)
        service.settimeout(2)
        made = world.client.run(socket.socket, FAMILY[version], socket.SOCK_STREAM)
        stack.callback(made.close)
        made.settimeout(2)
        made.connect((WALL[version], 7001))
        stack.callback(service.accept()[0].close)
        asks = _udp(stack, world.client, version)
        asks.connect((WALL[version], 7001))
        asks.settimeout(2)
        wall.do(
            "deny",
            {4: "10.77.1.2", 6: "fd77:1::2"}[version],
            direction=direction,
            drop_process="reject",
        )
        made.send(b"x")
        with pytest.raises(ConnectionResetError):
            made.recv(1)
        asks.send(b"x")
        with pytest.raises(OSError, match=r"No route to host|Permission denied"):
            asks.recv(1)
