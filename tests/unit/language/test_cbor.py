"""Payloads in CBOR with text keys: what is taken, what is refused, and what it may cost."""

from __future__ import annotations

import struct
import time

import cbor2
import pytest

from oc2d.errors import BadRequest
from oc2d.language.codec import Encoding, InputLimits, decode, encode


def from_cbor(payload: bytes):
    return decode(payload, Encoding.CBOR, InputLimits())


@pytest.mark.req("LANG-44", "LANG-77")
@pytest.mark.parametrize(
    "payload",
    [
        b"\x81" * 100_000,
        b"\x9f" * 100_000,
        b"\xbf\x61a" * 80_000,
        b"\xa1\x61a" * 80_000,
        b"\x9b" + b"\xff" * 8,
        b"\x9b\x00\x00\x00\x7f\xff\xff\xff\xff",
        b"\xbb" + b"\xff" * 8,
        b"\x5b" + b"\xff" * 8,
        b"\x7b\x7f" + b"\xff" * 7,
        b"\x9a\x7f\xff\xff\xff" + b"\x00" * 1000,
        b"\x81\x9a\x3f\xff\xff\xff" * 16,
        b"\x7f" + b"\x60" * 200_000,
        b"\x9f" + b"\x80" * 200_000 + b"\xff",
        b"\xc1" * 200_000,
        b"\xd8\x1c" * 100_000,
    ],
    ids=lambda payload: payload[:6].hex(),
)
def test_hostile_cbor_costs_little(payload):
    started = time.process_time()
    with pytest.raises(BadRequest):
        from_cbor(payload)
    assert time.process_time() - started < 1


@pytest.mark.req("LANG-77")
def test_a_small_header_does_not_allocate_what_it_promises():
    import tracemalloc  # noqa: PLC0415 - slows down what is imported after it

    tracemalloc.start()
    try:
        for head in (b"\x9a\x00\xff\xff\xff", b"\xba\x00\xff\xff\xff", b"\x5a\x00\xff\xff\xff"):
            with pytest.raises(BadRequest):
                from_cbor(head)
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()


@pytest.mark.req("AMB-52", "MQTT-35")
def test_text_key_cbor_goes_both_ways():
    tree = {"a": [1, -1, 1.5, "ü", True, False, None, {}, []], "b": b"\x00\xff", "c": 2**53 - 1}
    assert from_cbor(encode(tree, Encoding.CBOR)) == tree
    assert encode(tree, Encoding.CBOR) == cbor2.dumps(tree)


@pytest.mark.req("AMB-52")
@pytest.mark.parametrize(
    ("payload", "tree"),
    [
        ("bf6161f5ff", {"a": True}),
        ("a161619f0102ff", {"a": [1, 2]}),
        ("a161617f61786179ff", {"a": "xy"}),
        ("a161615f41014102ff", {"a": b"\x01\x02"}),
        ("a16161f93c00", {"a": 1.0}),
        ("a161611800", {"a": 0}),
    ],
)
def test_indefinite_lengths_and_longer_heads_are_read(payload, tree):
    assert from_cbor(bytes.fromhex(payload)) == tree


@pytest.mark.req("AMB-52", "LANG-44")
@pytest.mark.parametrize(
    ("payload", "why"),
    [
        ("a26161016161f6", "[Dd]uplicate"),
        ("bf6161016161f6ff", "[Dd]uplicate"),
        ("a10102", "key"),
        ("a1416101", "key"),
        ("a1f601", "key"),
        ("a1800", None),
        ("a16161c24101", "tags"),
        ("a16161c24120", "tags"),
        ("a16161c34101", "tags"),
        ("a16161c11a5f5e1000", "tags"),
        ("a16161d81c80", "tags"),
        ("82d81c80d81d00", "tags"),
        ("a26161d81c806162d81d00", "tags"),
        ("d9d9f7a0", "tags"),
        ("d90100a0", "tags"),
        ("a16161d9010281f6", "tags"),
        ("a16161da7fffffff00", "tags"),
        ("a16161f7", "simple"),
        ("a16161f0", "simple"),
        ("a16161f8ff", "simple"),
        ("a16161e0", "simple"),
        ("a16161f97e00", "finite"),
        ("a16161f97c00", "finite"),
        ("a16161fa7f800000", "finite"),
        ("a16161fbfff0000000000000", "finite"),
        ("a161611b0020000000000000", "2\\^53"),
        ("a161613b0020000000000000", "2\\^53"),
        ("a161611bffffffffffffffff", "2\\^53"),
        ("a0f6", "follow"),
        ("a161617f4161ff", "CBOR"),
        ("a1616161ff", "CBOR"),
        ("a1616162c328", "CBOR"),
        ("a16161", "CBOR"),
        ("a1616163", "CBOR"),
        ("ff", "CBOR"),
        ("a161ff", "CBOR"),
        ("1c", "CBOR"),
        ("", "CBOR"),
    ],
)
def test_cbor_that_means_more_or_less_than_json_is_refused(payload, why):
    with pytest.raises(BadRequest, match=why):
        from_cbor(bytes.fromhex(payload if len(payload) % 2 == 0 else payload + "0"))


@pytest.mark.req("AMB-52")
@pytest.mark.parametrize("tag", [*range(300), 1004, 43000, 55799, 65535, 2**32, 2**64 - 1])
def test_no_tag_is_ever_taken(tag):
    head = struct.pack(">BQ", 0xDB, tag)
    for inner in (b"\x00", b"\x41\x01", b"\x61\x30", b"\x80", b"\xa0"):
        with pytest.raises(BadRequest, match="tags"):
            from_cbor(b"\xa1\x61a" + head + inner)
