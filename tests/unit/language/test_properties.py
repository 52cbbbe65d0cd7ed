"""Arbitrary messages round-trip; arbitrary input is never worse than refused."""

from __future__ import annotations

import base64
import contextlib
import ipaddress
import json

import cbor2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from oc2d.errors import Refusal
from oc2d.language.codec import Encoding, InputLimits, decode, encode, guess
from oc2d.language.command import command_tree, fingerprint, parse_command
from oc2d.language.message import (
    Headers,
    created_ms,
    open_envelope,
    salvage,
    wrap_request,
    wrap_response,
)
from oc2d.language.response import parse_response
from oc2d.language.vocabulary import (
    CORE_TARGETS,
    Action,
    Feature,
    L4Protocol,
    ResponseType,
    StatusCode,
)

LIMITS = InputLimits()
LARGEST = 2**53 - 1

text = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
numbers = st.integers(-LARGEST, LARGEST) | st.floats(allow_nan=False, allow_infinity=False)
scalars = st.none() | st.booleans() | numbers | text
trees = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(text, inner, max_size=4),
    max_leaves=12,
)
encodings = st.sampled_from(Encoding)
milliseconds = st.integers(0, LARGEST)
ports = st.integers(0, 65535)
protocols = st.sampled_from([protocol.value for protocol in L4Protocol])
ipv4 = st.ip_addresses(v=4).map(str) | st.tuples(st.ip_addresses(v=4), st.integers(0, 32)).map(
    lambda p: f"{p[0]}/{p[1]}"
)
ipv6 = st.ip_addresses(v=6).map(str) | st.tuples(st.ip_addresses(v=6), st.integers(0, 128)).map(
    lambda p: f"{p[0]}/{p[1]}"
)
nsids = st.sampled_from(["slpf", "pf", "x-acme", "x-395"])


def members(**optional):
    return st.fixed_dictionaries({}, optional=optional)


def connections(addresses):
    return members(
        src_addr=addresses, src_port=ports, dst_addr=addresses, dst_port=ports, protocol=protocols
    ).filter(bool)


def hexes(size):
    return st.binary(min_size=size, max_size=size).map(bytes.hex)


hashes = members(md5=hexes(16), sha1=hexes(20), sha256=hexes(32)).filter(bool)
files = members(name=text, path=text, hashes=hashes).filter(bool)
processes = st.recursive(
    members(pid=st.integers(0, 2**31), name=text, executable=files).filter(bool),
    lambda inner: st.fixed_dictionaries({"parent": inner}, optional={"cwd": text}),
    max_leaves=3,
)


def octets(size):
    return st.binary(min_size=size, max_size=size)


names = st.from_regex(r"\A[a-z0-9]{1,9}(\.[a-z]{2,9}){0,2}\Z")
idn_names = names | st.sampled_from(["bücher.example", "例え.テスト"])
uris = st.from_regex(r"\A[a-z][a-z+.-]{0,5}:[a-zA-Z0-9/?._~-]{0,12}\Z")
command_ids = st.from_regex(r"\A[!-~]{0,36}\Z")
binaries = st.binary(max_size=9).map(lambda b: base64.urlsafe_b64encode(b).decode().rstrip("="))
payloads = st.fixed_dictionaries({"bin": binaries}) | st.fixed_dictionaries({"url": uris})
targets_by_name = {
    "ipv4_net": ipv4,
    "ipv6_net": ipv6,
    "ipv4_connection": connections(ipv4),
    "ipv6_connection": connections(ipv6),
    "features": st.lists(st.sampled_from([name.value for name in Feature])),
    "file": files,
    "process": processes,
    "properties": st.lists(text, min_size=1, unique=True),
    "mac_addr": st.sampled_from([6, 8]).flatmap(octets).map(lambda b: b.hex(":")),
    "artifact": members(mime_type=text, payload=payloads, hashes=hashes).filter(bool),
    "command": command_ids,
    "device": members(hostname=names, idn_hostname=idn_names, device_id=text).filter(bool),
    "domain_name": names,
    "email_addr": st.emails(domains=st.just("example.com")),
    "idn_domain_name": idn_names,
    "idn_email_addr": idn_names.map("bücher@{}".format),
    "uri": uris,
    "iri": uris.map("{}ü".format),
    "slpf:rule_number": trees,
}
targets = st.one_of([st.fixed_dictionaries({name: own}) for name, own in targets_by_name.items()])
windows = st.one_of(
    members(start_time=milliseconds, duration=milliseconds),
    members(stop_time=milliseconds, duration=milliseconds),
    st.tuples(milliseconds, milliseconds).map(
        lambda p: {"start_time": min(p), "stop_time": max(p)}
    ),
)
args = st.builds(
    lambda window, own, rest: {**window, **own, **rest},
    windows,
    st.dictionaries(nsids, st.dictionaries(text, trees, max_size=3), max_size=2),
    members(response_requested=st.sampled_from([kind.value for kind in ResponseType])),
).filter(bool)
commands = st.fixed_dictionaries(
    {"action": st.sampled_from([action.value for action in Action]), "target": targets},
    optional={
        "args": args,
        "actuator": st.builds(
            lambda nsid, own: {nsid: own}, nsids, st.dictionaries(text, trees, max_size=2)
        ),
        "command_id": command_ids,
    },
)
headers = st.builds(
    Headers,
    request_id=st.none() | text,
    created=st.none() | milliseconds,
    sender=st.none() | text,
    to=st.lists(text, max_size=3).map(tuple),
)


@pytest.mark.req("LANG-73", "AMB-52", "LANG-79")
@given(trees, st.sampled_from([Encoding.JSON, Encoding.CBOR]))
def test_trees_survive_both_encodings(tree, encoding):
    message = {"a": tree}
    assert decode(encode(message, encoding), encoding, LIMITS) == message


@pytest.mark.req("LANG-73", "AMB-52", "MQTT-42", "MQTT-43")
@given(commands, headers)
def test_messages_survive_all_forms_and_mean_the_same(tree, heads):
    seen = []
    for encoding in Encoding:
        payload = encode(wrap_request(tree, heads), encoding)
        assert guess(payload) is encoding
        envelope = open_envelope(decode(payload, encoding, LIMITS))
        assert envelope.headers == heads
        command = parse_command(envelope.content, encoding)
        seen.append((command, fingerprint(envelope.content, command)))
        canonical = command_tree(command, encoding)
        payload = encode(wrap_request(canonical, heads), encoding)
        content = open_envelope(decode(payload, encoding, LIMITS)).content
        again = parse_command(content, encoding)
        assert command_tree(again, encoding) == canonical
        assert again.notes == ()
        assert fingerprint(canonical, again) == seen[-1][1]
    assert seen[0] == seen[1] == seen[2]


@pytest.mark.req("LANG-79")
def test_every_target_is_among_those_that_are_tried():
    assert targets_by_name.keys() == {*CORE_TARGETS, "slpf:rule_number"}


def transcoded(payload, source, goal):
    """Say a request again in another form, from what was understood of it."""
    envelope = open_envelope(decode(payload, source, LIMITS))
    command = parse_command(envelope.content, source)
    return encode(wrap_request(command_tree(command, goal), envelope.headers), goal)


@pytest.mark.req("LANG-73", "AMB-52", "MQTT-35", "LANG-79", "LANG-80", "LANG-65", "LANG-66")
@given(commands, headers, st.permutations(list(Encoding)))
def test_a_command_goes_round_through_all_forms_and_comes_back_to_the_byte(tree, heads, way):
    first = way[0]
    canonical = transcoded(encode(wrap_request(tree, heads), Encoding.JSON), Encoding.JSON, first)
    payload = canonical
    for source, goal in zip(way, [*way[1:], first], strict=True):
        assert guess(payload) is source
        payload = transcoded(payload, source, goal)
    assert payload == canonical


results = members(
    versions=st.lists(st.just("1.0"), min_size=1, max_size=1),
    profiles=st.lists(nsids, unique=True),
    pairs=st.dictionaries(
        st.sampled_from([action.value for action in Action]),
        st.lists(
            st.sampled_from([*CORE_TARGETS, "slpf:rule_number", "x-a:b"]), min_size=1, unique=True
        ),
        min_size=1,
    ),
    rate_limit=st.integers(0, LARGEST) | st.just(0.5),
    slpf=st.fixed_dictionaries({"rule_number": st.integers(1, 2**31 - 1)}),
    pf=st.dictionaries(text, trees, max_size=2),
).filter(bool)
responses = st.fixed_dictionaries(
    {"status": st.sampled_from([int(status) for status in StatusCode])},
    optional={"status_text": text, "results": results},
)


@pytest.mark.req("LANG-73", "AMB-52", "MQTT-35", "LANG-38", "LANG-78", "LANG-79")
@given(responses, headers, encodings)
def test_a_response_is_read_as_it_was_written_in_every_form(tree, heads, encoding):
    payload = encode(wrap_response(tree, heads), encoding)
    assert guess(payload) is encoding
    envelope = open_envelope(decode(payload, encoding, LIMITS))
    assert envelope.headers == heads
    assert envelope.content == tree
    read = parse_response(envelope.content)
    assert (read.status, read.status_text) == (tree["status"], tree.get("status_text"))
    assert (read.results, read.warnings) == (tree.get("results"), ())


@pytest.mark.req("LANG-66", "AMB-31")
@given(ipv6)
def test_ranges_agree_with_the_standard_library(given_text):
    tree = {"action": "deny", "target": {"ipv6_net": given_text}}
    command = parse_command(tree, Encoding.JSON)
    network = ipaddress.ip_network(given_text, strict=False)
    assert command.target.value.network == network
    assert ipaddress.ip_network(str(command.target.value)) == network
    host_bits = ipaddress.ip_address(given_text.split("/")[0]) != network.network_address
    assert bool(command.notes) == host_bits


def go_all_the_way(payload, encoding):
    """Do to a payload what the engine does; only a refusal may come out."""
    try:
        tree = decode(payload, encoding, LIMITS)
    except Refusal:
        return
    salvaged = salvage(tree)
    encode(
        wrap_response({"status": 400}, Headers(salvaged.request_id, 1, "me", salvaged.to)), encoding
    )
    fingerprint(tree, None)
    for content in (tree, _content(tree)):
        _parse(content, encoding)
    with contextlib.suppress(Refusal):
        parse_response(tree)


def _parse(content, encoding):
    refused = None
    try:
        command = parse_command(content, encoding)
    except Refusal as refusal:
        refused = refusal.text
    if refused is None:
        fingerprint(content, command)
        command_tree(command, Encoding.JSON)
        command_tree(command, Encoding.CBOR)
    else:
        assert len(refused) < 1000
        assert encode(wrap_response({"status": 400, "status_text": refused}, Headers()), encoding)


def _content(tree):
    try:
        envelope = open_envelope(tree, bare_command=True)
    except Refusal:
        return None
    created_ms(envelope.headers.created)
    return envelope.content


@pytest.mark.req("LANG-44")
@given(st.binary(max_size=300), encodings)
@settings(max_examples=500)
def test_arbitrary_bytes_are_never_worse_than_refused(payload, encoding):
    guess(payload)
    go_all_the_way(payload, encoding)


@pytest.mark.req("LANG-44")
@given(commands, headers, encodings, st.data())
@settings(max_examples=300)
def test_damaged_messages_are_never_worse_than_refused(tree, heads, encoding, data):
    payload = bytearray(encode(wrap_request(tree, heads), encoding))
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(payload) - 1))
        payload[place] = data.draw(st.integers(0, 255))
    go_all_the_way(bytes(payload), encoding)


WORDS = [
    "headers",
    "body",
    "openc2",
    "request",
    "response",
    "action",
    "target",
    "args",
    "actuator",
    "profile",
    "command_id",
    "request_id",
    "from",
    "to",
    "created",
    "signature",
    "deny",
    "query",
    "features",
    "ipv4_net",
    "ipv6_net",
    "ipv4_connection",
    "protocol",
    "src_addr",
    "dst_port",
    "file",
    "hashes",
    "md5",
    "process",
    "parent",
    "artifact",
    "payload",
    "bin",
    "slpf",
    "slpf:rule_number",
    "x-a",
    "start_time",
    "duration",
    "response_requested",
    "none",
    "mac_addr",
    "uri",
    "email_addr",
    "idn_domain_name",
    "properties",
    "device",
    "hostname",
]
words = st.sampled_from(WORDS) | text
almost = st.recursive(
    scalars | words | st.binary(max_size=17),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=5),
    max_leaves=20,
)


@pytest.mark.req("LANG-44")
@given(almost)
@settings(max_examples=500)
def test_arbitrary_trees_are_never_worse_than_refused(tree):
    go_all_the_way(cbor2.dumps(tree), Encoding.CBOR)
    go_all_the_way(cbor2.dumps(tree), Encoding.CONCISE)
    go_all_the_way(json.dumps(tree, default=bytes.hex).encode(), Encoding.JSON)


@pytest.mark.req("LANG-44")
@given(st.sampled_from(Action), st.sampled_from(WORDS), almost, almost, encodings)
@settings(max_examples=500)
def test_arbitrary_values_in_commands_are_never_worse_than_refused(
    action, name, value, own, encoding
):
    tree = {"action": action.value, "target": {name: value}, "args": own, "actuator": own}
    for candidate in (tree, {"action": action.value, "target": {name: value}}):
        if encoding is Encoding.JSON:
            go_all_the_way(json.dumps(candidate, default=bytes.hex).encode(), encoding)
        else:
            go_all_the_way(cbor2.dumps(candidate), encoding)
