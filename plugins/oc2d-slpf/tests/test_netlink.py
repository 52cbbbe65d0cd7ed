"""The bytes on the netlink socket: what the kernel makes of them, as nft reads it back."""

from __future__ import annotations

import errno
import json
import socket
from ipaddress import ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oc2d_slpf import objects
from oc2d_slpf.backend import Permit, Unpermit
from oc2d_slpf.netlink import (
    Message,
    Netlink,
    NetlinkError,
    attribute,
    attributes,
    nested,
    string,
    u32,
)
from oc2d_slpf.operations import AddKeys, Change, DropKeys, SetId
from oc2d_slpf.rules import Direction, Match, Rule, Verdict, encode
from oc2d_slpf.ruleset import render
from oc2d_slpf.tiers import Tiers


def test_an_attribute_is_length_type_payload_and_padding():
    assert attribute(1, b"") == bytes.fromhex("04000100")
    assert attribute(2, b"a") == bytes.fromhex("05000200 61000000")
    assert string(3, "abc") == bytes.fromhex("08000300 61626300")
    assert u32(4, -310) == bytes.fromhex("08000400 fffffeca")
    assert nested(5, u32(1, 1)) == bytes.fromhex("0c000580 08000100 00000001")


@given(st.lists(st.tuples(st.integers(0, 0x3FFF), st.binary(max_size=40))))
def test_attributes_are_read_as_they_were_built(parts):
    built = b"".join(attribute(kind, payload) for kind, payload in parts)
    assert list(attributes(built)) == parts


@given(st.binary())
def test_any_bytes_can_be_read_as_attributes(data):
    found = list(attributes(data))
    assert sum(4 + len(payload) for _, payload in found) <= len(data)


def _shapes():
    """Matches of every shape that a command can have, one of each."""
    for version, (net, other) in {
        4: ("10.1.0.0/16", "10.2.3.4"),
        6: ("2001:db8::/33", "2001:db8::7"),
    }.items():
        yield Match(version, either=ip_network(net))
        for source in (None, ip_network(net), ip_network(other)):
            for destination in (None, ip_network(net)):
                for protocol in (None, 6):
                    for sport in (None, 53):
                        for dport in (None, 443):
                            yield Match(
                                version,
                                source=source,
                                destination=destination,
                                protocol=protocol,
                                source_port=sport,
                                destination_port=dport,
                            )


def _wanted(match):
    """The key as nft prints it: addresses, protocol and ports in order."""
    nets = (match.either, match.source, match.destination)
    found = [str(net.network_address) for net in nets if net is not None]
    found += ["tcp"] * (match.protocol is not None)
    return found + [p for p in (match.source_port, match.destination_port) if p is not None]


def _listed(namespace):
    found = json.loads(namespace.nft("-j", "list", "ruleset"))["nftables"]
    return {item["set"]["name"]: item["set"] for item in found if "set" in item}


def _keys(listed):
    return [
        element["concat"] if isinstance(element, dict) and "concat" in element else [element]
        for element in listed.get("elem", [])
    ]


@pytest.mark.root
@pytest.mark.req("SLPF-29", "SLPF-30", "SLPF-31")
def test_keys_of_every_shape_are_in_the_kernel_what_the_rule_says(namespace, filter_):
    matches = [match for match in _shapes() if encode(match, Direction.BOTH)[0].fields]
    rules = [
        Rule(number, Verdict.DROP, *encode(match, Direction.BOTH))
        for number, match in enumerate(matches, 1)
    ]
    tiers = Tiers(rules)
    namespace.run(filter_.replace, tiers.operations())
    sets = _listed(namespace)
    for rule, match in zip(rules, matches, strict=True):
        assert _keys(sets[f"t1_{rule.shape.name}"]) == [_wanted(match)]
    # and each can be found again to be deleted
    namespace.run(filter_.apply, [DropKeys(SetId(1, rule.shape), (rule.key,)) for rule in rules])
    sets = _listed(namespace)
    assert not any(_keys(sets[f"t1_{rule.shape.name}"]) for rule in rules)


@pytest.mark.root
@pytest.mark.req("AMB-57")
def test_endpoints_are_elements_of_the_management_set(namespace, filter_):
    permits = [Permit("192.0.2.1", 6, 8883), Permit("2001:db8::1", 17, 53)]
    namespace.run(filter_.replace, permits)
    sets = _listed(namespace)
    assert _keys(sets["management4"]) == [["192.0.2.1", "tcp", 8883]]
    assert _keys(sets["management6"]) == [["2001:db8::1", "udp", 53]]
    namespace.run(filter_.apply, [Unpermit(permits[0])])
    assert _keys(_listed(namespace)["management4"]) == []


@pytest.mark.root
def test_a_rule_reads_in_nft_as_it_was_meant(namespace, filter_):
    match = Match(4, source=ip_network("10.1.0.0/16"), protocol=6, destination_port=22)
    rule = Rule(1, Verdict.DROP, *encode(match, Direction.BOTH))
    namespace.run(filter_.replace, Tiers([rule]).operations())
    for chain in ("t1_in", "t1_out"):
        text = namespace.nft("-n", "list", "chain", "inet", "oc2d", chain)
        assert "@t1_both_ip4_s16_p_dp drop" in text
        assert "255.255.0.0" in text
    text = namespace.nft("-nn", "list", "chain", "inet", "oc2d", "prerouting")
    assert "type filter hook prerouting priority -310; policy accept;" in text
    assert "jump ingress" in text
    assert "icmpv6 type" in text


@pytest.mark.root
@pytest.mark.req("SLPF-34")
def test_an_error_names_its_number_and_the_message(namespace):
    made = namespace.run(Netlink)
    try:
        messages = [objects.table(0), objects.base_chain("input"), objects.delete_set("none")]
        with pytest.raises(NetlinkError, match=r"message 2 \(NFT_MSG 11\): No such file") as told:
            namespace.run(made.transact, messages)
        assert told.value.errno == errno.ENOENT
        assert told.value.index == 2
        assert namespace.nft("list", "ruleset") == ""
        # what is tried only is not done, but refused as it would be
        namespace.run(lambda: made.transact(messages[:2], try_only=True))
        assert namespace.nft("list", "ruleset") == ""
        with pytest.raises(NetlinkError, match="Invalid argument"):
            namespace.run(made.transact, [Message(99, b"")])
        # the socket is good for the next one
        namespace.run(made.transact, messages[:2])
        assert "chain input" in namespace.nft("list", "ruleset")
    finally:
        made.close()


@pytest.mark.root
def test_answers_that_were_left_are_not_taken_for_those_of_the_next_request(namespace):
    made = namespace.run(Netlink)
    try:
        before = namespace.run(made.generation)
        made._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        with pytest.raises(NetlinkError, match="No buffer space"):
            namespace.run(made.transact, [objects.delete_set(f"none{n}") for n in range(100)])
        made._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        assert namespace.run(made.generation) == before
        namespace.run(made.transact, [objects.table(0)])
        assert namespace.run(made.generation) == before + 1
    finally:
        made.close()


@pytest.mark.root
def test_errors_without_number_leave_the_socket_usable(namespace, filter_):
    tiers = Tiers([Rule(1, Verdict.DROP, *encode(Match(4, protocol=6), Direction.BOTH))])
    namespace.run(filter_.replace, tiers.operations())
    made = filter_._socket
    with pytest.raises(NetlinkError):
        namespace.run(made.transact, [objects.delete_set(f"none{n}") for n in range(20_000)])
    change = Change()
    tiers.add(Rule(2, Verdict.DROP, *encode(Match(4, protocol=17), Direction.BOTH)), change)
    namespace.run(filter_.apply, change.operations(tiers))
    assert _keys(_listed(namespace)["t1_both_ip4_p"]) == [["tcp"], ["udp"]]


@pytest.mark.root
def test_ten_megabytes_are_one_transaction(namespace, filter_):
    """Far beyond net.core.wmem_max, and all or nothing."""
    shape, _ = encode(Match(6, either=ip_network("2001:db8::1")), Direction.BOTH)
    many = [(0x20010DB8 << 96 | number).to_bytes(16, "big") for number in range(400_000)]
    tiers = Tiers([Rule(1, Verdict.DROP, shape, many[0])])
    namespace.run(filter_.replace, tiers.operations())
    steps = [AddKeys(SetId(1, shape), tuple(many[1:]))]
    assert sum(len(message.body) for message in render(steps)) > 10_000_000
    namespace.run(filter_.apply, steps)
    twice = AddKeys(SetId(1, shape), (b"\1" * 16, many[7]))
    with pytest.raises(NetlinkError):  # the very last one is there already
        namespace.run(filter_._socket.transact, render([twice]))
    got = Tiers([Rule(1, Verdict.DROP, shape, many[0])])
    namespace.run(filter_.replace, got.operations())
    assert len(_keys(_listed(namespace)[f"t1_{shape.name}"])) == 1
