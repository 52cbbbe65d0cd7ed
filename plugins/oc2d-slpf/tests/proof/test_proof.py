"""Random programs of commands, and real packets against the rule list read line by line.

OC2D_PROOF_PACKETS sets how many packets at least (the long mode: 200000), OC2D_SEED the program
(by default always the same in the short mode, another one each time in the long one).
"""

from __future__ import annotations

import os
import random
from dataclasses import replace
from ipaddress import ip_network

import pytest

from oc2d.errors import Refusal

pytestmark = pytest.mark.root

PACKETS = int(os.environ.get("OC2D_PROOF_PACKETS", "6000"))
LONG = "OC2D_PROOF_PACKETS" in os.environ
SEED = int(os.environ.get("OC2D_SEED", random.randrange(1 << 32) if LONG else 1))
FATES = ("arrives", "refused", "nothing")
BATCH = 150  # packets after each step
PROGRAM = 60  # steps of one program
# every length there is, and whole addresses often enough for narrow rules to matter
PREFIXES = {4: (*range(33), *[32] * 16), 6: (*range(129), *[128] * 64)}


class Program:
    """Random commands, carried out by the actuator and written down in the model."""

    def __init__(self, dice, proof, wall, command, backend):
        self.dice, self.proof, self.wall, self.command = dice, proof, wall, command
        self.model = proof.Linear(backend)
        self.reserved = {}  # key: (command, number, what it says)
        self.running = {}  # key: (command, number) of rules with an end
        self.log = []

    def step(self):
        acts = (self.add, self.add, self.add, self.several, self.delete)
        acts += (self.reserve, self.start, self.start, self.stop)
        if len(self.model.lines) > 30:
            acts = (self.delete,)
        self.dice.choice(acts)()

    # -- what a Producer may say

    def say(self):
        dice = self.dice
        version = dice.choice((4, 6))
        said = {"action": dice.choice(("allow", "deny", "deny")), "target": f"ipv{version}_net"}
        if dice.random() < 0.5:
            said["value"] = self._net(version)
        else:
            said["target"] = f"ipv{version}_connection"
            said["value"] = self._connection(version)
        if dice.random() < 0.5:
            said["direction"] = dice.choice(("ingress", "egress", "both"))
        if said["action"] == "deny" and dice.random() < 0.8:
            said["drop_process"] = dice.choice(("none", "reject"))
        if dice.random() < 0.6:
            free = set(range(1, 100)) - set(self.model.lines)
            free -= {number for _, number, _ in self.reserved.values()}
            said["insert_rule"] = dice.choice(sorted(free))
        return said

    def _net(self, version, pool=None):
        pools = self.proof.OUTSIDE, self.proof.INSIDE, self.proof.WALL
        address = self.dice.choice((pool or self.dice.choice(pools))[version])
        return str(ip_network(f"{address}/{self.dice.choice(PREFIXES[version])}", strict=False))

    def _connection(self, version):
        dice = self.dice
        value = {}
        while not value:
            for name, chance in (("src_addr", 0.5), ("dst_addr", 0.5)):
                if dice.random() < chance:
                    value[name] = self._net(version)
            if dice.random() < 0.5:
                value["protocol"] = dice.choice(("tcp", "udp", "icmp", "sctp"))
            for name in ("src_port", "dst_port"):
                if value.get("protocol") != "icmp" and dice.random() < 0.35:
                    value[name] = dice.choice(self.proof.PORTS)
        return value

    def _command(self, said, **more):
        value = said["value"]
        text = value
        if isinstance(value, dict):
            text = " ".join([said["target"][3], *(f"{name}={value[name]}" for name in value)])
        names = ("direction", "drop_process", "insert_rule")
        args = {name: said[name] for name in names if name in said}
        return self.command(said["action"], text, **args, **more)

    def tell(self, packet):
        lines = self.model.lines
        hits = {n: vars(lines[n]) for n in sorted(lines) if lines[n].hits(packet)}
        return f"hit by {hits}; {len(lines)} rules, {len(self.log)} batches of commands"

    # -- what is done

    def do(self, *commands):
        self.log.append(commands)
        answers = self.wall.run(self.wall.actuator.execute_many, commands)
        assert len(answers) == len(commands)
        return answers

    def add(self, count=1):
        said = [self.say() for _ in range(count)]
        numbers = [one.get("insert_rule") for one in said if "insert_rule" in one]
        if len(set(numbers)) < len(numbers):
            return
        answers = self.do(*(self._command(one) for one in said))
        for one, answer in zip(said, answers, strict=True):
            number = answer.results.rule_number
            assert one.get("insert_rule", number) == number
            self.model.lines[number] = self.proof.Line(one)

    def several(self):
        self.add(self.dice.randint(2, 5))

    def delete(self):
        if self.model.lines:
            number = self.dice.choice(sorted(self.model.lines))
            (answer,) = self.do(self.command("delete", number))
            assert not isinstance(answer, Refusal)
            del self.model.lines[number]

    def end(self):
        """Delete everything, also what was never to start now."""
        waiting = {number for _, number, _ in self.reserved.values()}
        for number in sorted(waiting | set(self.model.lines)):
            (answer,) = self.do(self.command("delete", number))
            assert not isinstance(answer, Refusal)

    def reserve(self):
        said = self.say()
        command = self._command(said, window=(10, 20))
        results = self.wall.run(self.wall.actuator.reserve, command)
        command = replace(command, reserved=results)
        self.reserved[command.key] = command, results.rule_number, said

    def start(self):
        if self.reserved:
            command, number, said = self.reserved.pop(self.dice.choice(sorted(self.reserved)))
            (answer,) = self.do(command)
            assert answer.results.rule_number == number
            self.model.lines[number] = self.proof.Line(said)
            self.running[command.key] = command, self.model.lines[number], number

    def stop(self):
        if self.running:
            command, line, number = self.running.pop(self.dice.choice(sorted(self.running)))
            self.log.append(("revert", number))
            self.wall.run(self.wall.actuator.revert, command)
            if self.model.lines.get(number) is line:
                del self.model.lines[number]


def _check(program, probes, packets, expected):
    sent = [(id_, fate) for id_, fate in expected.items() if fate != "nothing"]
    probes.collect(sent)
    for id_, packet in packets.items():
        where = {"arrives": {packet["to"]}, "refused": {packet["from"]}}
        fate = expected[id_]
        wanted = {} if fate == "nothing" else {fate: where[fate]}
        seen = probes.seen.get(id_, {})
        if (packet["to"], packet["protocol"], fate) == ("wall", 6, "arrives"):
            seen.pop("refused", None)  # that was the host's TCP itself: nobody listens there
        assert seen == wanted, f"{SEED=} {packet} {fate} {program.tell(packet)}"


@pytest.mark.timeout(3600)
@pytest.mark.req("SLPF-14", "SLPF-16", "SLPF-29", "SLPF-31", "AMB-39", "AMB-55")
def test_packets_fare_as_in_the_rule_list_read_line_by_line(
    walled, probes, proof, command, capsys, backend
):
    dice = random.Random(SEED)
    sent, fates = {}, {}
    while len(sent) < PACKETS:
        wall = walled()
        program = Program(dice, proof, wall, command, backend)
        for _ in range(PROGRAM):
            program.step()
            batch, expected = {}, {}
            for id_ in range(len(sent) + 1, len(sent) + 1 + BATCH):
                packet = proof.draw(dice, id_)
                batch[id_], expected[id_] = packet, program.model.fate(packet)
                probes.send(packet)
            _check(program, probes, batch, expected)
            sent |= batch
            fates |= expected
            if len(sent) >= PACKETS:
                break
        program.end()
        wall.run(wall.actuator.stop)  # the next one owns the table
    # whatever came late must not have come at all
    _check(program, probes, sent, fates)
    counts = {name: sum(fate == name for fate in fates.values()) for name in FATES}
    with capsys.disabled():
        print(f"\n{len(sent)} packets (seed {SEED}), as expected: {counts}")  # noqa: T201 - the proof
    assert min(counts.values()) > len(sent) / 1000
