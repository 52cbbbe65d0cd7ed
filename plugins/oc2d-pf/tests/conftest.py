"""A name server with a zone that tests write, and hosts with pf in the kernel of one of them."""

from __future__ import annotations

import contextlib
import itertools
import os
import socket
import threading
from contextlib import ExitStack
from ipaddress import ip_address
from typing import ClassVar

import dns.flags
import dns.message
import dns.rcode
import dns.rrset
import pytest

from oc2d.actuator import Command, Context
from oc2d.language.codec import Encoding
from oc2d.language.command import decode_extension, parse_command
from oc2d.language.vocabulary import Action
from oc2d_pf import Pf, numbering
from oc2d_pf.names import Answer
from oc2d_slpf import resolvers
from oc2d_slpf.specifiers import Specifiers
from tests.consumer import Namespace

from .world import World


class Zone:
    """Answers on a UDP socket; `records`: name → (seconds to live, addresses); `mute` or not;
    of `denied` (name, type) it says that there is no such name."""

    def __init__(self, listening: socket.socket) -> None:
        self.records: dict[str, tuple[int, tuple[str, ...]]] = {}
        self.aliases: dict[str, tuple[int, str]] = {}
        self.denied: set[tuple[str, int]] = set()
        self.mute = False
        self.asked = 0
        self._socket = listening
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def close(self) -> None:
        with contextlib.suppress(OSError):  # not connected, and yet it ends the wait in recvfrom
            self._socket.shutdown(socket.SHUT_RDWR)
        self._thread.join(5)
        self._socket.close()

    def _serve(self) -> None:
        while True:
            question, asker = self._socket.recvfrom(4000)
            if not question:
                return
            self.asked += 1
            if not self.mute:
                self._socket.sendto(self._answer(dns.message.from_wire(question)).to_wire(), asker)

    def _answer(self, query: dns.message.Message) -> dns.message.Message:
        reply = dns.message.make_response(query)
        reply.flags |= dns.flags.RA
        name = query.question[0].name.to_text(omit_final_dot=True)
        kind = query.question[0].rdtype
        if name in self.aliases:
            lifetime, name = self.aliases[name]
            owner = query.question[0].name
            reply.answer.append(dns.rrset.from_text(owner, lifetime, "IN", "CNAME", f"{name}."))
        if name not in self.records or (name, kind) in self.denied:
            reply.set_rcode(dns.rcode.NXDOMAIN)
            return reply
        lifetime, addresses = self.records[name]
        version = {1: 4, 28: 6}.get(kind)
        texts = [one for one in addresses if ip_address(one).version == version]
        if texts:
            word = "A" if version == 4 else "AAAA"
            reply.answer.append(dns.rrset.from_text(f"{name}.", lifetime, "IN", word, *texts))
        return reply


@pytest.fixture
def make_zone():
    """A function that has a UDP socket answered as a name server does."""
    made = []

    def make(listening):
        made.append(Zone(listening))
        return made[-1]

    yield make
    for zone in made:
        zone.close()


@pytest.fixture
def narrow(monkeypatch):
    """Eight places for each priority, and eight for the rules without one."""
    monkeypatch.setattr(numbering, "_BAND", 8)
    monkeypatch.setattr(numbering, "_LAST_AUTOMATIC", numbering._FIRST_AUTOMATIC - 7)


@pytest.fixture
def world(tmp_path, monkeypatch):
    monkeypatch.setattr(resolvers, "FILES", ())
    made = World(tmp_path)
    made.start()
    yield made
    made.running.stop()


# -- a host with pf in the kernel, and its neighbours


class Land:
    """far — host — behind, both families; pf runs in `host`, on its thread."""

    ADDRESSES: ClassVar = {
        "far": {4: "10.82.1.2", 6: "fd82:1::2"},
        "host": {4: "10.82.1.1", 6: "fd82:1::1"},
        "behind": {4: "10.82.2.2", 6: "fd82:2::2"},
    }

    def __init__(self, path, stack):
        self.path = path
        for name in ("state", "run"):
            (path / name).mkdir()
        self.far, self.host, self.behind = (Namespace() for _ in range(3))
        for space in (self.far, self.host, self.behind):
            stack.callback(space.close)
        self._wire()
        self.pf = None
        self._keys = itertools.count(1)

    def _wire(self):
        for number, space, device in ((1, self.far, "west"), (2, self.behind, "east")):
            ends = ("eth0", "type", "veth", "peer", "name", device, "netns", self.host.name)
            space.ip("link", "add", *ends)
            for where, link, last in ((space, "eth0", 2), (self.host, device, 1)):
                where.ip("addr", "add", f"10.82.{number}.{last}/24", "dev", link)
                where.ip("addr", "add", f"fd82:{number}::{last}/64", "dev", link, "nodad")
                where.ip("link", "set", link, "address", f"02:00:00:00:0{number}:0{last}", "up")
                # neighbours are known: the first solicitation of IPv6 takes a second
                lladdr = ("lladdr", f"02:00:00:00:0{number}:0{3 - last}", "dev", link)
                where.ip("neigh", "add", f"fd82:{number}::{3 - last}", *lladdr)
            space.ip("route", "add", "default", "via", f"10.82.{number}.1")
            space.ip("-6", "route", "add", "default", "via", f"fd82:{number}::1")
        self.host.sysctl("ipv4/ip_forward", 1)
        self.host.sysctl("ipv6/conf/all/forwarding", 1)

    def start(self, **table):
        self.pf = Pf(Pf.parse_config(table), lambda _: Answer((), 60.0))
        places = (self.path / "state", self.path / "run")
        context = Context("fw-7", *places, "boot-1", lambda: 0, lambda _: None)
        self.host.run(self.pf.start, context)
        self.host.run(self.pf.restore, ())

    def stop(self):
        if self.pf is not None:
            self.host.run(self.pf.stop)
            self.pf = None

    def kill(self):
        """Forget pf as a killed process would."""
        self.pf._refresher.stop()
        self.host.run(self.pf._store.close)
        self.host.run(self.pf._engine._rules.firewall.close)
        self.host.run(self.pf._engine._rules._opened.close)
        self.pf = None

    def do(self, action, target, **args):
        """Carry a command out: `target` is a network, members of a connection, or a number."""
        name, value = "pf:advanced_connection", target
        if isinstance(target, int):
            name = "pf:rule_number"
        elif isinstance(target, str):
            name = "ipv6_net" if ":" in target else "ipv4_net"
        typed = self._typed(action, name, value)
        taken = decode_extension(args, Pf.args_type, Encoding.JSON, path="$")
        key = f"key-{next(self._keys)}"
        command = Command(key, "soc", Action(action), name, typed, taken, Specifiers())
        return self.host.run(self.pf.execute, command)

    def number(self, *words, **args):
        return self.do(*words, **args).results.rule_number

    def shut(self, **args):
        """Deny everything, both ways, as the last rule."""
        for net in ("0.0.0.0/0", "::/0"):
            self.do("deny", net, direction="both", **args)

    @staticmethod
    def _typed(action, name, value):
        if own := Pf.targets.get(name.removeprefix("pf:")):
            return decode_extension(value, own, Encoding.JSON, path="$")
        return parse_command(
            {"action": action, "target": {name: value}}, Encoding.JSON
        ).target.value


@pytest.fixture
def land(tmp_path, monkeypatch):
    """Three hosts, and a function of the one in the middle that carries commands out."""
    if os.geteuid() != 0:
        pytest.skip("needs root: network namespaces")
    monkeypatch.setattr(resolvers, "FILES", ())
    with ExitStack() as stack:
        made = Land(tmp_path, stack)
        stack.callback(made.stop)
        yield made
