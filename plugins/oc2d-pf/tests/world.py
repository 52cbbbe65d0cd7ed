"""The host of a Pf whose packet filter only talks, and what is asked of it."""

from __future__ import annotations

import itertools
import queue
from ipaddress import ip_address

from oc2d.actuator import Command, Context, Response
from oc2d.language.codec import Encoding
from oc2d.language.command import decode_extension, parse_command
from oc2d.language.vocabulary import Action
from oc2d_pf import Pf
from oc2d_pf.names import Answer, LookUpError
from oc2d_slpf.rules import describe
from oc2d_slpf.specifiers import Specifiers

_keys = itertools.count(1)
NET = {"ipv4_net": "198.51.100.0/24"}
NAME = {"domain_name": "www.example.com"}
TARGETS = {
    "ipv4_net": "198.51.100.0/24",
    "ipv6_net": "2001:db8::/32",
    "ipv4_connection": {"src_addr": "198.51.100.7", "dst_port": 22, "protocol": "tcp"},
    "ipv6_connection": {"dst_addr": "2001:db8::/64", "dst_port": 53, "protocol": "udp"},
    "domain_name": "www.example.com",
    "pf:advanced_connection": {"dst_addr": "198.51.100.7", "dst_port": 22, "protocol": "tcp"},
}


class Names:
    """A DNS of our own: `addresses` by name; None: no server answers."""

    def __init__(self):
        self.addresses = {"www.example.com": ("192.0.2.1", "2001:db8::1")}
        self.asked = []

    def __call__(self, name):
        self.asked.append(name)
        found = self.addresses.get(name, ())
        if found is None:
            raise LookUpError("no answer")
        return Answer(tuple(map(ip_address, found)), 3600.0)


class World:
    """The host of a Pf: `start`, `restart`, `boot`; `act` carries commands out."""

    def __init__(self, path):
        self.path, self.names = path, Names()
        self.boot_id, self.running = "boot-1", None
        self.calls = queue.SimpleQueue()
        for name in ("state", "run"):
            (path / name).mkdir()

    def start(self, ended=(), **table):
        config = Pf.parse_config({"backend": "dry-run", **table})
        self.running = Pf(config, self.names)
        state, run = self.path / "state", self.path / "run"
        put = self.calls.put
        self.running.start(Context("fw-7", state, run, self.boot_id, lambda: 0, put))
        self.running.restore(ended)
        return self.running

    def kill(self):
        self.running._refresher.stop()
        self.running._store.close()
        self.running._engine._rules._opened.close()

    def restart(self, ended=(), **table):
        self.running.stop()
        return self.start(ended, **table)

    def boot(self):
        self.running.stop()
        self.boot_id = "boot-2"
        return self.start()

    def renew(self, number):
        """What the refresher does when the time of a name is over."""
        name = self.running._store.by_number(number).target
        self.running._renew(number, name, self.names(name))

    def rules(self):
        """What is in force, in order: verdict, match, direction."""
        entries = self.running._engine._rules.store.first(1000)
        return [
            (one.rule.verdict, describe(one.rule.shape, one.rule.key), one.rule.shape.direction)
            for one in entries
        ]

    def matches(self):
        return [match for _, match, _ in self.rules()]


def make(action, target, *, key=None, reserved=None, window=(None, None), **args):
    ((name, value),) = target.items()
    typed = parse_command({"action": action, "target": target}, Encoding.JSON).target.value
    if own := Pf.targets.get(name.removeprefix("pf:")):
        typed = decode_extension(value, own, Encoding.JSON, path="$")
    taken = decode_extension(args, Pf.args_type, Encoding.JSON, path="$")
    return Command(
        key or f"key-{next(_keys)}",
        "soc",
        Action(action),
        name,
        typed,
        taken,
        Specifiers(),
        reserved,
        *window,
    )


def act(world, action, target, **args):
    (answer,) = world.running.execute_many([make(action, target, **args)])
    return answer


def number_of(world, action, target, **args):
    answer = act(world, action, target, **args)
    assert isinstance(answer, Response), answer
    return answer.results.rule_number


def refused(world, kind, phrase, action, target, **args):
    answer = act(world, action, target, **args)
    assert type(answer) is kind, answer
    assert answer.text == phrase or answer.text.startswith(f"{phrase}: "), answer.text
    return answer.text


def ask(world, number):
    return act(world, "query", {"pf:rule_number": number})


def delete(world, number):
    return act(world, "delete", {"pf:rule_number": number})


class Death(BaseException):
    """What a kill is to code."""
