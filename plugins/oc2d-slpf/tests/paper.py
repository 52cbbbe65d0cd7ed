"""The rule list as it reads, and a packet filter on paper that knows no rules."""

from __future__ import annotations

import itertools
from ipaddress import ip_address, ip_network

from oc2d_slpf.backend import BackendError, Permit, Unpermit
from oc2d_slpf.operations import (
    RANKED,
    AddKeys,
    AddRanks,
    DropKeys,
    DropRanks,
    DropSet,
    DropTier,
    Fill,
    FillRanks,
    MakeRanks,
    MakeSet,
    MakeTier,
    Order,
    SetId,
)
from oc2d_slpf.rules import PORT_PROTOCOLS, Direction, Verdict

LISTS = {
    "ingress": (Direction.INGRESS, Direction.BOTH),
    "egress": (Direction.EGRESS, Direction.BOTH),
}


# -- the model: the rule list as it reads, one rule after the other


def _in(network, address):
    return network is None or ip_address(address) in network


def hits(match, packet):
    """packet: version, src, dst, protocol, sport, dport (ports None where there are none)."""
    if match.version != packet.version:
        return False
    if match.either is not None:
        return _in(match.either, packet.src) or _in(match.either, packet.dst)
    if not (_in(match.source, packet.src) and _in(match.destination, packet.dst)):
        return False
    if match.protocol not in (None, packet.protocol):
        return False
    wanted = (match.source_port, match.destination_port)
    if wanted != (None, None) and packet.protocol not in PORT_PROTOCOLS:
        return False
    return match.source_port in (None, packet.sport) and match.destination_port in (
        None,
        packet.dport,
    )


def seen(tracked, side, packet):
    """What a rule looks at: a packet and its list, or the packet that began its connection and its.

    An answer passes the other list than that did. None: it belongs to no connection.
    """
    if not tracked:
        return side, packet
    if packet.began is None:
        return None
    return (
        {"ingress": "egress", "egress": "ingress"}[side] if packet.answer else side
    ), packet.began


def first_match(rules, side, packet):
    """rules: {number: (verdict, direction, match, tracked)}; what no rule hits passes."""
    for number in sorted(rules):
        verdict, direction, match, *tracked = rules[number]
        found = seen(any(tracked), side, packet)
        if found and direction in LISTS[found[0]] and hits(match, found[1]):
            return verdict
    return Verdict.ALLOW


# -- a packet filter on paper, as strict as the kernel about what exists


class Paper:
    """Carries out operations and judges packets by sets and dispatch order, knowing no rules."""

    def __init__(self, *, ranked=True):
        self.ranked = ranked
        self.failing = 0  # how many calls to refuse
        self.calls = []
        self._clear()

    def _clear(self):
        self.sets, self.tiers, self.ordered, self.permits = {}, {}, (), set()
        self.pairs = set()  # of ranked sets: which are compared with which

    def check(self):
        pass

    def can(self, _verdict):
        return True

    def watch(self, changed):
        self.changed = changed

    def close(self):
        pass

    def _call(self, steps):
        self.calls.append(list(steps))
        if self.failing:
            self.failing -= 1
            raise BackendError("refused by the test")

    def replace(self, steps):
        steps = list(steps)
        self._call(steps)
        self._clear()
        self._do(steps)

    def apply(self, steps):
        self._call(steps)
        self._do(steps)

    def remove(self):
        self._clear()

    def _do(self, steps):  # noqa: C901, PLR0912 - one case an operation
        for step in steps:
            match step:
                case MakeTier(tier):
                    assert tier not in self.tiers
                    self.tiers[tier] = None
                case DropTier(tier):
                    assert tier not in self.ordered
                    del self.tiers[tier]
                case MakeSet(id_):
                    assert id_ not in self.sets
                    self.sets[id_] = set()
                case DropSet(id_):
                    fill = self.tiers.get(id_.tier)
                    assert fill is None or id_.shape not in fill.shapes
                    del self.sets[id_]
                case MakeRanks(tier, shapes, beside):
                    self._make_ranks(tier, shapes, beside)
                case DropRanks(tier, shapes, beside):
                    self._drop_ranks(tier, shapes, beside)
                case AddKeys(id_, keys):
                    assert isinstance(self.sets[id_], set)
                    assert not self.sets[id_] & set(keys)
                    self.sets[id_] |= set(keys)
                case AddRanks(id_, keys, ranks):
                    assert not self.sets[id_].keys() & set(keys)
                    self.sets[id_] |= dict(zip(keys, ranks, strict=True))
                case DropKeys(id_, keys):
                    assert set(self.sets[id_]) >= set(keys)
                    held = self.sets[id_]
                    for key in keys:
                        held.pop(key) if isinstance(held, dict) else held.remove(key)
                case Fill(tier) | FillRanks(tier):
                    assert tier in self.tiers
                    self.tiers[tier] = step
                case Order(tiers):
                    assert set(tiers) <= set(self.tiers)
                    self.ordered = tiers
                case Permit():
                    self.permits.add(step)
                case Unpermit(permit):
                    self.permits.remove(permit)
        for tier, fill in self.tiers.items():
            assert fill is not None, "a tier that nothing filled"
            there = {id_.shape for id_ in self.sets if id_.tier == tier}
            assert set(fill.shapes) == there

    def _make_ranks(self, tier, shapes, beside):
        assert self.ranked
        for shape in shapes:
            assert SetId(tier, shape) not in self.sets
            self.sets[SetId(tier, shape)] = {}
        for pair in itertools.product((*shapes, *beside), repeat=2):
            if set(pair) & set(shapes):
                assert (tier, pair) not in self.pairs
                self.pairs.add((tier, pair))

    def _drop_ranks(self, tier, shapes, beside):
        for shape in shapes:
            fill = self.tiers.get(tier)
            assert fill is None or shape not in fill.shapes
            del self.sets[SetId(tier, shape)]
        for pair in itertools.product((*shapes, *beside), repeat=2):
            if set(pair) & set(shapes):
                self.pairs.remove((tier, pair))

    def elements(self):
        return sum(len(keys) for keys in self.sets.values())

    def judge(self, side, packet):
        for tier in self.ordered:
            fill = self.tiers[tier]
            if isinstance(fill, FillRanks):
                verdict = self._ranked(fill, side, packet)
                if verdict is not None:
                    return verdict
                continue
            for id_, keys in self.sets.items():
                found = seen(id_.shape.tracked, side, packet)
                if (
                    id_.tier == tier
                    and found
                    and id_.shape.direction in LISTS[found[0]]
                    and any(key in keys for key in _packet_keys(id_.shape, found[1]))
                ):
                    return fill.verdict
        return Verdict.ALLOW

    def _ranked(self, fill, side, packet):
        """Per side of the packet the first that is found, and of the two the lower."""
        found = []
        for which in (0, 1):
            for shape in fill.shapes:
                keys = _packet_keys(shape, packet)
                here = self.sets[SetId(fill.tier, shape)]
                if shape.direction in LISTS[side] and keys and keys[which] in here:
                    found.append((shape, here[keys[which]]))
                    break
        if len(found) == 2:
            assert (fill.tier, (found[0][0], found[1][0])) in self.pairs
        return RANKED[min(rank for _, rank in found) % 4] if found else None


def _packet_keys(shape, packet):
    """What a lookup in a set of this shape would compute from the packet."""
    if shape.version != packet.version:
        return []
    if (shape.source_port or shape.destination_port) and packet.protocol not in PORT_PROTOCOLS:
        return []

    def masked(address, prefix):
        return ip_network(f"{address}/{prefix}", strict=False).network_address.packed

    if shape.either is not None:
        return [masked(packet.src, shape.either), masked(packet.dst, shape.either)]
    key = b""
    if shape.source is not None:
        key += masked(packet.src, shape.source)
    if shape.destination is not None:
        key += masked(packet.dst, shape.destination)
    if shape.protocol:
        key += bytes([packet.protocol])
    if shape.source_port:
        key += packet.sport.to_bytes(2, "big")
    if shape.destination_port:
        key += packet.dport.to_bytes(2, "big")
    return [key]
