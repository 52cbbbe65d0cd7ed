"""Rules and tiers, against the rule list read one by one."""

from __future__ import annotations

import itertools
from ipaddress import ip_network
from types import SimpleNamespace

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

import oc2d_slpf.building
import oc2d_slpf.making_room
import oc2d_slpf.overlap
import oc2d_slpf.ranks
import oc2d_slpf.tier
from oc2d_slpf.operations import Change, FillRanks
from oc2d_slpf.rules import Direction, Logged, Match, Rule, Shape, Verdict, decode, describe, encode
from oc2d_slpf.tiers import Tiers

# few values, so that rules meet each other and packets meet rules
ADDRESSES = {
    4: ("10.1.2.3", "10.1.2.4", "10.1.9.9", "10.200.0.1", "192.0.2.7"),
    6: ("2001:db8::1", "2001:db8::2", "2001:db8:0:1::1", "fd00::1"),
}
PREFIXES = {4: (0, 8, 15, 24, 31, 32), 6: (0, 16, 61, 64, 127, 128)}
PORTS = (0, 53, 443)
PROTOCOLS = {4: (1, 6, 17, 132, 47), 6: (58, 6, 17, 132, 47)}


@st.composite
def networks(draw, version):
    address = draw(st.sampled_from(ADDRESSES[version]))
    prefix = draw(st.sampled_from(PREFIXES[version]))
    return ip_network(f"{address}/{prefix}", strict=False)


@st.composite
def matches(draw):
    version = draw(st.sampled_from((4, 6)))
    if draw(st.booleans()):
        return Match(version, either=draw(networks(version)))
    protocol = draw(st.none() | st.sampled_from(PROTOCOLS[version][:4]))
    ported = protocol in (None, 6, 17, 132)
    ports = st.none() | st.sampled_from(PORTS) if ported else st.none()
    return Match(
        version,
        source=draw(st.none() | networks(version)),
        destination=draw(st.none() | networks(version)),
        protocol=protocol,
        source_port=draw(ports),
        destination_port=draw(ports),
    )


@st.composite
def packets(draw):
    version = draw(st.sampled_from((4, 6)))
    protocol = draw(st.sampled_from(PROTOCOLS[version]))
    return SimpleNamespace(
        version=version,
        src=draw(st.sampled_from(ADDRESSES[version])),
        dst=draw(st.sampled_from(ADDRESSES[version])),
        protocol=protocol,
        # what stands where ports would stand, for protocols without ports too
        sport=draw(st.sampled_from(PORTS)),
        dport=draw(st.sampled_from(PORTS)),
    )


edits = st.lists(
    st.tuples(st.integers(1, 40), st.sampled_from(Verdict), st.sampled_from(Direction), matches()),
    min_size=1,
    max_size=40,
)


@pytest.mark.req("SLPF-29", "SLPF-31", "AMB-39", "AMB-55")
@given(edits, st.lists(packets(), min_size=1, max_size=12), st.integers(1, 5), st.booleans())
def test_sets_in_dispatch_order_decide_as_the_rule_list_read_one_by_one(
    model, edits, packets, batch, ranked
):
    rules, tiers = {}, Tiers(ranked=ranked)
    paper, change = model.Paper(ranked=ranked), Change()
    for step, (number, verdict, direction, match) in enumerate(edits, 1):
        _turn(rules, tiers, change, number, verdict, direction, match)
        if step % batch and step < len(edits):
            continue
        paper.apply(change.operations(tiers))
        change = Change()
        for packet in packets:
            for side in ("ingress", "egress"):
                expected = model.first_match(rules, side, packet)
                assert paper.judge(side, packet) is expected
    assert len(tiers) == len(rules)
    fresh = _loaded(model, rules, ranked=ranked)
    for packet in packets:
        for side in ("ingress", "egress"):
            assert fresh.judge(side, packet) is paper.judge(side, packet)


@st.composite
def packets_of_connections(draw):
    """The packet that began a connection, an answer to it, one about it, or one of none."""
    packet = draw(packets())
    packet.answer = draw(st.booleans())
    packet.began = draw(st.none() | packets().filter(lambda one: one.version == packet.version))
    if packet.began is not None and draw(st.booleans()):
        began = vars(packet.began)
        turned = {"src": "dst", "dst": "src", "sport": "dport", "dport": "sport"}
        for name in ("src", "dst", "protocol", "sport", "dport"):
            setattr(packet, name, began[turned.get(name, name) if packet.answer else name])
    return packet


@pytest.mark.req("PF-30", "PF-31")
@given(
    st.lists(
        st.tuples(
            st.integers(1, 40),
            st.sampled_from(Verdict)
            | st.builds(Logged, st.sampled_from(Verdict), st.integers(1, 2)),
            st.sampled_from(Direction),
            matches(),
            st.booleans(),
        ),
        min_size=1,
        max_size=40,
    ),
    st.lists(packets_of_connections(), min_size=1, max_size=12),
    st.sampled_from((0, 2, 1000)),
)
def test_rules_about_connections_and_logged_ones_decide_in_their_order(
    model, edits, packets, limit
):
    rules, tiers, paper = {}, Tiers(ranked=True), model.Paper()
    with pytest.MonkeyPatch.context() as patch:
        for name in ("_MOVES", "_LARGE", "_SPARE", "_FEW", "_PATIENCE"):
            patch.setattr(oc2d_slpf.making_room, name, limit)
        for number, *rest in edits:
            change = Change()
            _turn(rules, tiers, change, number, *rest)
            paper.apply(change.operations(tiers))
            for packet, side in itertools.product(packets, ("ingress", "egress")):
                assert paper.judge(side, packet) == model.first_match(rules, side, packet)
    assert tiers.tracked == any(tracked for *_, tracked in rules.values())
    fresh = _loaded(model, rules)
    for packet, side in itertools.product(packets, ("ingress", "egress")):
        assert fresh.judge(side, packet) == paper.judge(side, packet)


# neighbours in every bit, so that networks of any length meet
CLOSE = {
    4: [f"10.1.2.{3 ^ 1 << bit}" for bit in range(8)] + ["10.1.2.3", "10.9.2.3"],
    6: [f"2001:db8::{3 ^ 1 << bit:x}" for bit in range(8)] + ["2001:db8::3", "2001:db8:9::3"],
}


@st.composite
def nets_of_any_length(draw):
    version = draw(st.sampled_from((4, 6)))
    bits = 32 if version == 4 else 128
    prefix = draw(st.integers(bits - 9, bits) | st.integers(1, bits))
    address = draw(st.sampled_from(CLOSE[version]))
    return Match(version, either=ip_network(f"{address}/{prefix}", strict=False))


@pytest.mark.req("SLPF-31", "AMB-39")
@given(
    st.lists(
        st.tuples(
            st.integers(1, 25),
            st.sampled_from((Verdict.ALLOW, Verdict.DROP, Verdict.REJECT)),
            nets_of_any_length(),
        ),
        min_size=1,
        max_size=30,
    )
)
@example(
    [
        (20, Verdict.DROP, Match(6, either=ip_network("2001:db8::82/127"))),
        (9, Verdict.ALLOW, Match(6, either=ip_network("2001:db8::/126"))),
        (5, Verdict.DROP, Match(6, either=ip_network("2001:db8::2/127"))),
    ]
)
def test_ranks_of_networks_of_any_length_decide_as_the_rule_list(model, edits):
    rules, tiers, paper = {}, Tiers(ranked=True), model.Paper(ranked=True)
    for number, verdict, match in edits:
        change = Change()
        _turn(rules, tiers, change, number, verdict, Direction.BOTH, match)
        paper.apply(change.operations(tiers))
    fresh = _loaded(model, rules)
    for addresses in CLOSE.values():
        for src, dst in itertools.pairwise((*addresses, addresses[0])):
            packet = SimpleNamespace(
                version=4 if "." in src else 6, src=src, dst=dst, protocol=6, sport=1, dport=1
            )
            expected = model.first_match(rules, "ingress", packet)
            assert paper.judge("ingress", packet) is expected
            assert fresh.judge("ingress", packet) is expected


def _encoded(number, verdict, direction, match, tracked=False):
    shape, key = encode(match, direction)
    return Rule(number, verdict, shape._replace(tracked=tracked), key)


def _turn(rules, tiers, change, number, *rule):
    """Take the rule of this number out, or put this one in."""
    if number in rules:
        tiers.remove(_encoded(number, *rules.pop(number)), change)
    else:
        rules[number] = rule
        tiers.add(_encoded(number, *rule), change)


def _loaded(model, rules, *, ranked=True):
    """A packet filter that was given the whole list at once."""
    paper = model.Paper(ranked=ranked)
    encoded = [_encoded(number, *rule) for number, rule in rules.items()]
    paper.replace(Tiers(encoded, ranked=ranked).operations())
    return paper


@given(match=matches(), direction=st.sampled_from(Direction), tracked=st.booleans())
def test_shape_and_key_hold_the_whole_match(match, direction, tracked):
    shape, key = encode(match, direction)
    assert Shape.parse(shape.name) is shape
    other = shape._replace(tracked=tracked)
    assert Shape.parse(other.name) == other
    assert describe(other, key).endswith(" stateful") == tracked
    found = decode(shape, key)
    assert encode(found, direction) == (shape, key)
    assert found.protocol == match.protocol
    assert (found.source_port, found.destination_port) == (
        match.source_port,
        match.destination_port,
    )
    assert describe(shape, key).startswith(f"ipv{match.version}_")


def _after(tiers, edit):
    change = Change()
    edit(change)
    return change.operations(tiers)


class Editing(RuleBasedStateMachine):
    """Edits with limits so low that every way of making room is taken."""

    def __init__(self):
        super().__init__()
        self.rules, self.tiers = {}, Tiers(ranked=self.ranked)
        self.paper = self.model.Paper(ranked=self.ranked)

    @rule(
        number=st.integers(1, 60),
        verdict=st.sampled_from(Verdict),
        direction=st.sampled_from(Direction),
        match=matches(),
    )
    def add(self, number, verdict, direction, match):
        if number not in self.rules:
            self.rules[number] = verdict, direction, match
            new = _encoded(number, verdict, direction, match)
            self._edit(lambda change: self.tiers.add(new, change))

    @precondition(lambda self: self.rules)
    @rule(data=st.data())
    def remove(self, data):
        number = data.draw(st.sampled_from(sorted(self.rules)))
        old = _encoded(number, *self.rules.pop(number))
        self._edit(lambda change: self.tiers.remove(old, change))

    @rule()
    def load(self):
        self.tiers = Tiers(
            [_encoded(number, *rule) for number, rule in self.rules.items()], ranked=self.ranked
        )
        self.paper.replace(self.tiers.operations())

    def _edit(self, edit):
        self.paper.apply(_after(self.tiers, edit))

    @invariant()
    def every_packet_is_judged_as_by_the_list(self):
        for packet in PROBES:
            for side in ("ingress", "egress"):
                expected = self.model.first_match(self.rules, side, packet)
                assert self.paper.judge(side, packet) is expected

    @invariant()
    def no_tier_is_empty(self):
        assert len(self.tiers) == len(self.rules)
        assert all(self.tiers.fill(tier).shapes for tier in self.tiers.order().tiers)

    @invariant()
    def no_ranked_tier_has_too_many_maps(self):
        fills = [self.tiers.fill(tier) for tier in self.tiers.order().tiers]
        ranked = [fill for fill in fills if isinstance(fill, FillRanks)]
        assert all(len(fill.shapes) <= 32 for fill in ranked)


PROBES = [
    SimpleNamespace(version=version, src=src, dst=dst, protocol=protocol, sport=53, dport=443)
    for version, addresses in ADDRESSES.items()
    for src, dst in itertools.pairwise((*addresses, addresses[0]))
    for protocol in (6, PROTOCOLS[version][0])
]


@pytest.mark.req("AMB-39")
@pytest.mark.parametrize("ranked", [False, True])
@pytest.mark.parametrize("limit", [0, 2])
def test_whatever_is_moved_to_make_room_packets_are_judged_as_by_the_list(
    model, monkeypatch, limit, ranked
):
    for module, name in (
        (oc2d_slpf.making_room, "_MOVES"),
        (oc2d_slpf.making_room, "_LARGE"),
        (oc2d_slpf.making_room, "_SPARE"),
        (oc2d_slpf.making_room, "_FEW"),
        (oc2d_slpf.overlap, "_GUESS"),
        (oc2d_slpf.ranks, "_MANY"),
    ):
        monkeypatch.setattr(module, name, limit)
    monkeypatch.setattr(oc2d_slpf.making_room, "_PATIENCE", 20 * limit)
    machine = type("Editing", (Editing,), {"model": model, "ranked": ranked})
    quick = settings(max_examples=20, stateful_step_count=30, deadline=None)
    run_state_machine_as_test(machine, settings=quick)


def test_what_moves_to_make_room_takes_along_what_must_stay_behind_it(model):
    one, two, both = (ip_network(text) for text in ("0.0.0.1", "0.0.0.2", "0.0.0.0/30"))
    matches = {
        30: (Verdict.DROP, Match(4, source=one, destination_port=9)),
        20: (Verdict.ALLOW, Match(4, source=one)),
        7: (Verdict.DROP, Match(4, source=two)),
        10: (Verdict.ALLOW, Match(4, source=two)),
        15: (Verdict.DROP, Match(4, source=both, protocol=6)),  # 20 is ahead of it, 10 behind
    }
    tiers, paper = Tiers(), model.Paper()
    for number, (verdict, match) in matches.items():
        new = Rule(number, verdict, *encode(match, Direction.BOTH))
        paper.apply(_after(tiers, lambda change, r=new: tiers.add(r, change)))
    rules = {n: (verdict, Direction.BOTH, match) for n, (verdict, match) in matches.items()}
    for src in ("0.0.0.1", "0.0.0.2"):
        for protocol in (6, 17):
            packet = SimpleNamespace(
                version=4, src=src, dst="10.0.0.1", protocol=protocol, sport=1, dport=9
            )
            expected = model.first_match(rules, "ingress", packet)
            assert paper.judge("ingress", packet) is expected


def test_a_list_too_tangled_to_load_by_sets_is_loaded_right(model):
    verdicts = (Verdict.ALLOW, Verdict.DROP)
    rules = {
        n: (verdicts[n % 2], Direction.BOTH, Match(4, source=ip_network(f"10.0.0.0/{8 + n % 7}")))
        for n in range(1, 60)
    } | {n: (verdicts[n % 2], Direction.BOTH, Match(4, destination_port=53)) for n in (61, 62)}
    paper = _loaded(model, rules, ranked=False)
    for src in ADDRESSES[4]:
        packet = SimpleNamespace(version=4, src=src, dst=src, protocol=17, sport=1, dport=53)
        expected = model.first_match(rules, "ingress", packet)
        assert paper.judge("ingress", packet) is expected
