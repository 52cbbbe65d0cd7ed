"""Under continuous traffic no packet of a denied address passes, whatever happens to the daemon.

`OC2D_LONG=1` makes it 100 restarts; otherwise a few.
"""

from __future__ import annotations

import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from functools import partial

import pytest

from oc2d_slpf.iptables import Iptables
from oc2d_slpf.nftables import Nftables
from tests.waiting import wait_until

pytestmark = [
    pytest.mark.root,
    pytest.mark.req("SLPF-18", "SLPF-38"),
    pytest.mark.timeout(3600 if os.environ.get("OC2D_LONG") else 600),
]

LONG = bool(os.environ.get("OC2D_LONG"))
RESTARTS = 100 if LONG else 4
REPAIRS = 2000 if LONG else 60
DENIED, OPEN = "10.77.2.2", "10.77.1.1"

DAEMON = """
import signal, sys
from ipaddress import ip_network
from pathlib import Path
from oc2d.actuator import Command, Context
from oc2d.language.values import IPv4Net
from oc2d.language.vocabulary import Action
from oc2d_slpf import Slpf
from oc2d_slpf.language import Args
state, run, new = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
slpf = Slpf(Slpf.parse_config({"backend": sys.argv[4]}))
slpf.start(Context("fw", state, run, "boot-1", lambda: 0))
slpf.restore(())
def deny(index, net):
    target = IPv4Net(ip_network(net))
    return Command(f"{new}-{index}", None, Action.DENY, "ipv4_net", target, Args())
if new == 0:
    nets = ["10.77.2.2"] + [f"198.51.{n // 250}.{n % 250}" for n in range(999)]
    slpf.execute_many([deny(n, net) for n, net in enumerate(nets)])
print("ready", flush=True)
signal.signal(signal.SIGTERM, lambda *_: sys.exit(slpf.stop()))
index = 0
while True:  # busy with commands when death comes
    slpf.execute(deny(index := index + 1, f"203.0.{index // 250 % 250}.{index % 250}"))
    signal.sigtimedwait([], 0.002)
"""


class Traffic:
    """Datagrams without a pause from the client to the server, and to the wall as a control."""

    def __init__(self, world):
        self._world = world
        self._ending = threading.Event()
        self.ears = {}
        for space, address in ((world.server, DENIED), (world.wall, OPEN)):
            ear = space.run(socket.socket, socket.AF_INET, socket.SOCK_DGRAM)
            ear.bind((address, 9009))
            ear.setblocking(False)
            self.ears[address] = ear
        self._mouth = world.client.run(socket.socket, socket.AF_INET, socket.SOCK_DGRAM)
        self.sent = 0
        self._thread = threading.Thread(target=self._send)

    def __enter__(self):
        self._thread.start()
        return self

    def _send(self):
        while not self._ending.is_set():
            for _ in range(200):
                self._mouth.sendto(b"x", (DENIED, 9009))
            self._mouth.sendto(b"x", (OPEN, 9009))
            self.sent += 200
            time.sleep(0.001)  # the other core is not ours alone

    def heard(self, address):
        count = 0
        while True:
            try:
                self.ears[address].recv(9)
            except BlockingIOError:
                return count
            count += 1

    def __exit__(self, *_):
        self._ending.set()
        self._thread.join()
        for sock in (self._mouth, *self.ears.values()):
            sock.close()


def _daemon(world, path, number, backend):
    child = world.wall.run(
        lambda: subprocess.Popen(
            [
                sys.executable,
                "-c",
                DAEMON,
                *map(str, (path / "state", path / "run", number)),
                backend,
            ],
            stdout=subprocess.PIPE,
            text=True,
        )
    )
    if not any(line == "ready\n" for line in child.stdout):
        _end(child, signal.SIGKILL)
        pytest.fail("the daemon did not start")
    return child


def _end(child, how):
    child.send_signal(how)
    child.wait(10)
    child.stdout.close()


def test_no_packet_passes_over_restarts_and_deaths(world, tmp_path, backend):
    for name in ("state", "run"):
        (tmp_path / name).mkdir()
    child = _daemon(world, tmp_path, 0, backend)
    with Traffic(world) as traffic:
        try:
            time.sleep(0.05)
            traffic.heard(DENIED)
            for number in range(1, RESTARTS + 1):
                time.sleep(random.random() * 0.05)
                _end(child, random.choice((signal.SIGKILL, signal.SIGKILL, signal.SIGTERM)))
                child = _daemon(world, tmp_path, number, backend)
            wait_until(lambda: traffic.heard(OPEN))
            assert traffic.heard(DENIED) == 0
            assert traffic.sent > 1000 * RESTARTS
        finally:
            _end(child, signal.SIGKILL)
            world.wall.nft(text="flush ruleset\n")


@pytest.mark.parametrize(
    ("make", "repairs"),
    [(Nftables, REPAIRS), (partial(Nftables, owner=False), REPAIRS), (Iptables, REPAIRS // 10)],
    ids=["owner", "watch", "iptables"],
)
def test_no_packet_passes_while_the_table_is_loaded_anew(world, bench, command, make, repairs):
    slpf = world.wall.run(bench.start, make())
    try:
        nets = [DENIED, *(f"198.51.{n // 250}.{n % 250}" for n in range(999))]
        world.wall.run(
            slpf.execute_many,
            [command("deny", net, insert_rule=2 * n + 2) for n, net in enumerate(nets)],
        )
        with Traffic(world) as traffic:
            for _ in range(repairs):
                world.wall.run(slpf._rules.firewall.repair)
            # and while tiers split and merge around the rule
            for _ in range(repairs // 3):
                made = world.wall.run(slpf.execute, command("allow", "192.0.2.1", insert_rule=1001))
                world.wall.run(slpf.execute, command("delete", made.results.rule_number))
            assert traffic.heard(OPEN)
            assert traffic.heard(DENIED) == 0
            assert traffic.sent > 10 * repairs
    finally:
        world.wall.run(bench.stop)
        world.wall.nft(text="flush ruleset\n")
