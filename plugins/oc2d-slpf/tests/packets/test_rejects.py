"""Whom a real kernel answers, and whom not."""

from __future__ import annotations

import errno
import socket
import struct
from contextlib import ExitStack

import pytest

from .conftest import CLIENT, QUIET, SERVER, WALL_IN, connect, open_socket, outcome, readable

pytestmark = [pytest.mark.root, pytest.mark.req("SLPF-14", "SLPF-31", "SLPF-38")]


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
        open_socket(stack, space, socket.SOCK_STREAM, version, port=6000).listen()
        first = connect(stack, world.client, version, address, 6000)
        assert outcome(first, 2.0) == 0
        net = f"{CLIENT[version]}"
        rejected = wall.do("deny", net, direction=direction, drop_process="reject")
        second = connect(stack, world.client, version, address, 6000)
        assert outcome(second, 2.0) == errno.ECONNREFUSED
        wall.do("delete", rejected.results.rule_number)
        wall.do("deny", net, direction=direction)
        third = connect(stack, world.client, version, address, 6000)
        assert outcome(third, QUIET) is None


@pytest.mark.req("SLPF-16")
@pytest.mark.parametrize("version", [4, 6])
def test_a_drop_ahead_of_a_reject_keeps_the_answer_back(walled, world, version):
    wall = walled()
    wall.do("deny", f"{version} protocol=tcp dst_port=6000", drop_process="reject")
    with ExitStack() as stack:
        first = connect(stack, world.client, version, WALL_IN[version], 6000)
        assert outcome(first, 2.0) == errno.ECONNREFUSED
        wall.do("deny", CLIENT[version], direction="egress")
        second = connect(stack, world.client, version, WALL_IN[version], 6000)
        assert outcome(second, QUIET) is None


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
        assert readable(ear, 2.0)
        ear.recv(200)
        wall.do("deny", CLIENT[4], direction="egress", drop_process="reject")
        mouth.sendto(error, (CLIENT[4], 0))
        assert not readable(ear, QUIET)
