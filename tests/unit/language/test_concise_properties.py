"""Concise CBOR at random: any answer can be written, and what is read is at worst refused."""

from __future__ import annotations

import ipaddress

import cbor2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from oc2d.errors import Refusal
from oc2d.language.codec import Encoding, decode, encode, recognise
from oc2d.language.command import command_tree, fingerprint, parse_command
from oc2d.language.message import Headers, open_envelope, salvage, wrap_request, wrap_response
from tests.unit.language.concise import LIMITS, NET4, message, parsed, received

ids = st.sampled_from([0, 1, 2, 3, 4, 5, 6, 9, 13, 15, 18, 25, 1024, 1025, 1026, 1027, 99])
values = st.one_of(
    ids,
    st.none(),
    st.booleans(),
    st.integers(-(2**53), 2**53),
    st.floats(allow_nan=False),
    st.binary(max_size=17),
    st.text(max_size=6),
    st.sampled_from(["deny", "ipv4_net", "action", "request_id", "1", "99"]),
    st.ip_addresses().map(lambda a: [a.packed, a.max_prefixlen]),
)
almost = st.recursive(
    values,
    lambda inner: (
        st.lists(inner, max_size=5) | st.dictionaries(ids | st.text(max_size=3), inner, max_size=4)
    ),
    max_leaves=20,
)


@pytest.mark.req("LANG-44")
@given(almost)
def test_whatever_a_plugin_answers_can_be_written(tree):
    assert encode(tree, Encoding.CONCISE)
    results = {"results": {"rate_limit": tree, "slpf": tree, "pairs": tree}}
    assert encode(wrap_response(results, Headers()), Encoding.CONCISE)


def go_all_the_way(payload):
    """Do to a payload what the engine does; only a refusal may come out."""
    recognise("cbor", payload)
    try:
        tree = decode(payload, Encoding.CONCISE, LIMITS)
    except Refusal:
        return
    left = salvage(tree)
    encode(
        wrap_response({"status": 400}, Headers(left.request_id, 1, left.sender)), Encoding.CONCISE
    )
    fingerprint(tree, None)
    try:
        envelope = open_envelope(tree)
        command = parse_command(envelope.content, Encoding.CONCISE)
    except Refusal:
        return
    again = encode(
        wrap_request(command_tree(command, Encoding.CONCISE), envelope.headers), Encoding.CONCISE
    )
    back = parse_command(received(again).content, Encoding.CONCISE)
    digest = fingerprint(envelope.content, command)
    if not (command.args and command.args.unknown):
        assert fingerprint(None, back) == digest
    json = command_tree(command, Encoding.JSON)
    if not (command.args and command.args.unknown):
        assert fingerprint(json, parse_command(json, Encoding.JSON)) == digest


@pytest.mark.req("LANG-44")
@given(st.binary(max_size=200))
def test_arbitrary_bytes_are_never_worse_than_refused(rest):
    go_all_the_way(b"\x82" + rest)
    go_all_the_way(b"\x82\xf6\xa1\x01\xa1\x01" + rest)


@pytest.mark.req("LANG-44")
@given(almost, almost, almost, almost)
def test_arbitrary_shapes_are_never_worse_than_refused(one, two, three, four):
    go_all_the_way(cbor2.dumps([one, two]))
    go_all_the_way(cbor2.dumps([one, {1: {1: [two, three, four]}}]))
    go_all_the_way(cbor2.dumps([{1: "r"}, {1: {1: [6, {15: one}, two, {1024: three}]}}]))
    go_all_the_way(cbor2.dumps([{1: "r"}, {1: {1: [6, {13: NET4}, {1024: three}]}}]))


@pytest.mark.req("LANG-44", "AMB-31")
@given(st.ip_addresses(v=4), st.integers(0, 32), st.sampled_from(range(24)), st.integers(0, 255))
def test_damaged_messages_are_never_worse_than_refused(address, prefix, place, octet):
    payload = bytearray(cbor2.dumps(message([6, {13: [address.packed, prefix]}])))
    network = ipaddress.ip_network((address, prefix), strict=False)
    assert parsed([6, {13: [address.packed, prefix]}]).target.value.network == network
    payload[place % len(payload)] = octet
    go_all_the_way(bytes(payload))
