"""Shared by the tests with real packets: addresses, sockets, and who hears whom."""

from __future__ import annotations

import random
import select
import socket
import time
from contextlib import ExitStack

import pytest

CLIENT = {4: "10.77.1.2", 6: "fd77:1::2"}
WALL_IN = {4: "10.77.1.1", 6: "fd77:1::1"}
SERVER = {4: "10.77.2.2", 6: "fd77:2::2"}
FAMILY = {4: socket.AF_INET, 6: socket.AF_INET6}
QUIET = 0.03  # seconds in which a packet on a veth pair would have come


def open_socket(stack, space, kind, family, *, port=0):
    made = space.run(socket.socket, FAMILY[family], kind)
    stack.callback(made.close)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    made.bind(("", port))
    made.setblocking(False)
    return made


def readable(sock, seconds):
    return bool(select.select([sock], [], [], seconds)[0])


class Paths:
    """UDP sockets on all three hosts, and who hears whom."""

    def __init__(self, world, stack):
        self.sockets = {
            (name, version): open_socket(stack, space, socket.SOCK_DGRAM, version, port=5000)
            for name, space in vars(world).items()
            for version in (4, 6)
        }

    def passes(self, source, destination, address, version, *, expected=True):
        """Send a datagram and tell whether it arrives; what should come is sent more than once."""
        receiver = self.sockets[destination, version]
        while readable(receiver, 0):
            receiver.recv(100)
        mark = random.randbytes(8)
        for _ in range(10 if expected else 1):
            try:
                self.sockets[source, version].sendto(mark, (address, 5000))
            except PermissionError:
                return False  # dropped in our own output
            deadline = time.monotonic() + (0.5 if expected else QUIET)
            while readable(receiver, max(0.0, deadline - time.monotonic())):
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


def connect(stack, space, version, address, port):
    sock = open_socket(stack, space, socket.SOCK_STREAM, version)
    sock.connect_ex((address, port))
    return sock


def outcome(sock, seconds):
    """0: connected; an errno: refused so; None: nothing came."""
    if not select.select([], [sock], [], seconds)[1]:
        return None
    return sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
