"""Payloads: which encoding they have, what is taken, what is refused, and what it may cost."""

from __future__ import annotations

import time

import cbor2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from oc2d.errors import BadRequest
from oc2d.language.codec import Encoding, InputLimits, decode, encode, guess, recognise

LIMITS = InputLimits()


def from_json(payload: bytes, limits: InputLimits = LIMITS):
    return decode(payload, Encoding.JSON, limits)


@pytest.mark.req("AMB-14", "AMB-15")
@pytest.mark.parametrize(
    ("payload", "encoding"),
    [
        (b"{}", Encoding.JSON),
        (b" \r\n\t{}", Encoding.JSON),
        (b"\xef\xbb\xbf{}", Encoding.JSON),
        (b"\xa0", Encoding.CBOR),
        (b"\xbf\xff", Encoding.CBOR),
        (b"\x82\x00\x00", Encoding.CONCISE),
        (b"\x83", Encoding.CONCISE),
        (b"\x84", None),
        (b"[]", None),
        (b"'", None),
        (b"", None),
        (b"\xc0", None),
    ],
)
def test_the_first_byte_tells_the_encoding(payload, encoding):
    assert guess(payload) is encoding
    assert recognise(None, payload) is encoding


@pytest.mark.req("AMB-15", "AMB-52", "MQTT-34")
@pytest.mark.parametrize(
    ("announced", "payload", "encoding"),
    [
        ("json", b"\x82", Encoding.JSON),
        ("cbor", b"{}", Encoding.CBOR),
        ("cbor", b"\xa0", Encoding.CBOR),
        ("cbor", b"", Encoding.CBOR),
        ("cbor", b"\x82", Encoding.CONCISE),
        ("cbor", b"\x83", Encoding.CONCISE),
        ("cbor", b"\x84", Encoding.CONCISE),
        ("cbor", b"\x98\x02", Encoding.CONCISE),
        ("cbor", b"\x9f", Encoding.CONCISE),
        ("xml", b"{}", None),
        ("", b"{}", None),
        ("cbor-concise", b"\x82", None),
    ],
)
def test_the_property_tells_the_encoding_and_the_first_byte_the_form(announced, payload, encoding):
    assert recognise(announced, payload) is encoding
    assert encoding is None or encoding.announced == announced


@pytest.mark.req("LANG-73", "LANG-89", "LANG-91")
def test_every_kind_of_json_value_goes_both_ways():
    tree = {"a": [1, -1, 1.5, "ü", True, False, None, {}, []], "": 2**53 - 1, "b": -(2**53) + 1}
    assert from_json(encode(tree, Encoding.JSON)) == tree
    assert encode({"ü": "\U0001f600"}, Encoding.JSON) == '{"ü":"\U0001f600"}'.encode()


@pytest.mark.req("LANG-74")
def test_a_byte_order_mark_is_skipped_and_never_written():
    assert from_json(b"\xef\xbb\xbf{}") == {}
    assert encode({}, Encoding.JSON) == b"{}"


@pytest.mark.req("LANG-74", "LANG-73", "LANG-89", "LANG-91")
@pytest.mark.parametrize(
    "payload",
    [
        b'{"a":"\xff"}',
        b'{"a":"\xed\xa0\x80"}',
        '{"a":1}'.encode("utf-16"),
        '{"a":1}'.encode("utf-16-le"),
        '{"a":1}'.encode("utf-32"),
        b'{"a":"\\ud800"}',
        b'{"\\uDFFF":1}',
        b'{"a":["\\ude00\\ud83d"]}',
    ],
)
def test_text_that_is_no_utf_8_or_holds_lone_surrogates_is_refused(payload):
    with pytest.raises(BadRequest):
        from_json(payload)


@pytest.mark.req("LANG-74")
def test_an_escaped_surrogate_pair_is_one_character():
    assert from_json(b'"\\ud83d\\ude00"') == "\U0001f600"


@pytest.mark.req("LANG-75", "LANG-73", "LANG-89", "LANG-91")
@pytest.mark.parametrize(
    "payload", [b'{"a":1,"a":2}', b'[{"b":{"x":0,"y":0,"x":0}}]', b'{"a":1,"\\u0061":1}']
)
def test_duplicate_members_are_refused_and_named(payload):
    with pytest.raises(BadRequest, match="twice"):
        from_json(payload)


@pytest.mark.req("LANG-76", "LANG-73", "LANG-89", "LANG-91")
@pytest.mark.parametrize(
    "literal",
    [
        "NaN",
        "Infinity",
        "-Infinity",
        "1e999",
        "-1e999",
        "9007199254740992",
        "-9007199254740992",
        "9" * 5000,
        "-" + "9" * 200_000,
        "0." + "1" * 5000,
    ],
)
def test_values_that_are_no_i_json_numbers_are_refused(literal):
    with pytest.raises(BadRequest):
        from_json(f'{{"a":{literal}}}'.encode())


@pytest.mark.req("LANG-73", "AMB-7")
@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b" ",
        b"{",
        b"{} {}",
        b"{'a': 1}",
        b'{"a":1,}',
        b"[1,]",
        b"// x\n{}",
        b'"\x01"',
        b"\x00",
        b"nul",
        b"01",
        b"+1",
        b".5",
    ],
)
def test_what_is_not_json_is_refused(payload):
    with pytest.raises(BadRequest, match="not JSON"):
        from_json(payload)


@pytest.mark.req("LANG-77")
@pytest.mark.parametrize("encoding", list(Encoding))
def test_the_payload_limit_is_inclusive(encoding):
    payload = encode("x" * 50, encoding)
    assert decode(payload, encoding, InputLimits(payload=len(payload))) == "x" * 50
    with pytest.raises(BadRequest, match="bytes"):
        decode(payload, encoding, InputLimits(payload=len(payload) - 1))


@pytest.mark.req("LANG-77")
@pytest.mark.parametrize("encoding", [Encoding.JSON, Encoding.CBOR])
def test_the_depth_limit_is_inclusive(encoding):
    tree = "x"
    for level in range(32):
        tree = [tree] if level % 2 else {"a": tree}
    assert decode(encode(tree, encoding), encoding, LIMITS) == tree
    with pytest.raises(BadRequest):
        decode(encode([tree], encoding), encoding, LIMITS)


@pytest.mark.req("LANG-77")
@pytest.mark.parametrize("encoding", [Encoding.JSON, Encoding.CBOR])
def test_the_item_limit_counts_members_and_elements(encoding):
    limits = InputLimits(items=10)
    for tree in (list(range(10)), {str(n): n for n in range(10)}, {"a": list(range(8))}):
        assert decode(encode(tree, encoding), encoding, limits) == tree
    for tree in (list(range(11)), {str(n): n for n in range(11)}, {"a": list(range(10))}):
        with pytest.raises(BadRequest, match="items"):
            decode(encode(tree, encoding), encoding, limits)


@pytest.mark.req("LANG-77")
def test_brackets_and_commas_inside_text_do_not_count():
    tree = {"a": '[[[{{{,,,\\"' * 1000}
    assert from_json(encode(tree, Encoding.JSON), InputLimits(depth=1, items=1)) == tree


@pytest.mark.req("LANG-44", "LANG-77")
@pytest.mark.parametrize(
    "payload",
    [
        b"[" * 100_000,
        b'{"a":' * 40_000,
        b'"' + b"\\" * 200_001,
        b'"' * 200_001,
        b"[" + b'"a",' * 60_000,
        b"{" + b",".join(b'"%d":0' % n for n in range(25_000)) + b',"1":0}',
        b"-" * 200_000,
        b" " * 200_000,
        b"1" * 200_000,
        b'"' + b"\\ud800" * 40_000 + b'"',
    ],
    ids=lambda payload: repr(payload[:8]),
)
def test_hostile_json_costs_little(payload):
    started = time.process_time()
    with pytest.raises(BadRequest):
        from_json(payload)
    assert time.process_time() - started < 1


@pytest.mark.req("LANG-44")
def test_error_texts_stay_short():
    name = "x" * 10_000
    for payload in (f'{{"{name}":1,"{name}":1}}'.encode(), b"[" + b"9" * 10_000 + b"]"):
        with pytest.raises(BadRequest) as caught:
            from_json(payload)
        assert len(caught.value.text) < 300
    twice = b"\xa2" + cbor2.dumps(name) + b"\x00" + cbor2.dumps(name) + b"\x00"
    with pytest.raises(BadRequest) as caught:
        decode(twice, Encoding.CBOR, LIMITS)
    assert len(caught.value.text) < 300


_NAMES = st.sampled_from(["a", "b", "a:b", "\\u0061", "é"])
_LEAVES = st.sampled_from(
    [
        "1",
        "-0",
        "01",
        "1.5",
        "1e400",
        "9007199254740993",
        "1" * 30,
        "NaN",
        "null",
        "true",
        '"\\ud800"',
        '"::"',
        '"x\ty"',
        '"\x7f"',
        '"fe80::1"',
        "",
        "-",
    ]
)
_TEXTS = st.recursive(
    _LEAVES,
    lambda inner: (
        st.lists(st.tuples(_NAMES, inner), max_size=3).map(
            lambda pairs: "{" + ",".join(f'"{name}" :{value}' for name, value in pairs) + "}"
        )
        | st.lists(inner, max_size=3).map(lambda values: "[" + ", ".join(values) + "]")
    ),
    max_leaves=6,
)


@pytest.mark.req("LANG-73", "LANG-76")
@given(_TEXTS)
def test_what_is_decoded_quickly_is_what_a_close_look_finds(text):
    def outcome(payload):
        try:
            return repr(decode(payload, Encoding.JSON, InputLimits()))
        except BadRequest as refusal:
            return refusal.text

    # a byte order mark sends it past the quick way
    assert outcome(text.encode()) == outcome(b"\xef\xbb\xbf" + text.encode())
