from __future__ import annotations

import contextlib
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from oc2d.language.codec import Encoding
from oc2d.mqtt.properties import decode_publish, encode_publish, properties

text = st.text(st.characters(blacklist_categories=["Cs"], blacklist_characters="\0"), max_size=40)
user_property = st.tuples(st.sampled_from(["msgType", "encoding", "other"]), text)


def model(fields, users):
    """The same properties, packed by paho."""
    packed = Properties(PacketTypes.PUBLISH)
    for name, value in fields.items():
        if value is not None:
            setattr(packed, name, value)
    if users:
        packed.UserProperty = users
    return packed.pack()


@pytest.mark.req("MQTT-41", "AMB-15", "MQTT-53")
@given(
    st.fixed_dictionaries(
        {
            "PayloadFormatIndicator": st.none() | st.integers(0, 1),
            "ContentType": st.none() | text,
            "ResponseTopic": st.none() | text,
            "CorrelationData": st.none() | st.binary(max_size=200),
            "MessageExpiryInterval": st.none() | st.integers(0, 2**32 - 1),
            "SubscriptionIdentifier": st.none() | st.integers(1, 268_435_455),
        }
    ),
    st.lists(user_property, max_size=5),
    st.binary(max_size=50),
)
def test_what_paho_packs_is_read_the_same(fields, users, payload):
    body = b"\0\x01t\0\x09" + model(fields, users) + payload
    got = decode_publish(0x32, body, v5=True)
    assert (got.topic, got.packet_id, got.qos, got.payload) == ("t", 9, 1, payload)
    assert got.content_type == fields["ContentType"]
    assert got.response_topic == fields["ResponseTopic"]
    assert got.correlation == fields["CorrelationData"]
    flag = fields["PayloadFormatIndicator"]
    assert got.payload_is_text == (None if flag is None else bool(flag))
    first = dict(reversed(users))
    assert got.message_type == first.get("msgType")
    assert got.encoding == first.get("encoding")


@pytest.mark.req("MQTT-31", "MQTT-32", "MQTT-33", "MQTT-34", "MQTT-40")
@given(
    st.sampled_from(["rsp", "req"]),
    st.sampled_from(Encoding),
    st.none() | st.binary(max_size=300),
    text.filter(lambda topic: topic and "+" not in topic and "#" not in topic),
    st.binary(max_size=20_000),
    st.integers(1, 60_000),
    st.sampled_from([1, 2]),
    st.booleans(),
)
def test_what_is_packed_is_what_paho_reads(
    kind, encoding, correlation, topic, payload, packet_id, qos, dup
):
    packed = properties(kind, encoding, correlation)
    read, length = Properties(PacketTypes.PUBLISH).unpack(packed)
    assert length == len(packed)
    assert read.UserProperty == [("msgType", kind), ("encoding", encoding.announced)]
    assert read.ContentType == "application/openc2"
    assert read.PayloadFormatIndicator == (encoding is Encoding.JSON)
    assert getattr(read, "CorrelationData", None) == correlation
    packet = encode_publish(topic, payload, packed, packet_id=packet_id, qos=qos, dup=dup)
    at = next(n for n in range(1, 5) if packet[n] < 128) + 1
    got = decode_publish(packet[0], packet[at:], v5=True)
    assert (got.topic, got.payload, got.packet_id) == (topic, payload, packet_id)
    assert (got.qos, got.dup, got.retain) == (qos, dup, False)


@pytest.mark.req("MQTT-53")
@given(st.integers(0x30, 0x3F), st.binary(max_size=60), st.booleans())
def test_rubbish_is_read_or_refused_and_nothing_else_happens(first, body, v5):
    with contextlib.suppress(ValueError):
        decode_publish(first, body, v5=v5)


@pytest.mark.req("MQTT-53")
@pytest.mark.parametrize(
    "body",
    [
        b"\0\x01t\0\x01\x02\x01",  # properties longer than the packet
        b"\0\x01t\0\x01\x05\x09\0\x09ab",  # longer than it is
        b"\0\x01t\0\x01\xff\xff\xff\xff\x01",  # a length of five bytes
        b"\0\x01+\0\x01\0",  # a wildcard
        b"\0\0\0\x01\0",  # no topic, and no alias
    ],
)
def test_malformed_packets_are_refused(body):
    with pytest.raises(ValueError, match=r".+"):
        decode_publish(0x32, body, v5=True)


@pytest.mark.req("MQTT-54")
@pytest.mark.parametrize(
    "properties",
    [
        b"\x01\x02",  # a Payload Format Indicator that is neither 0 nor 1
        b"\x01\x01\x01\x00",  # and two of them
        b"\x03\0\x01\xff",  # no UTF-8
        b"\x03\0\x01\0",  # a null character
        b"\x26\0\x01\xe9\0\x03\xed\xa0\x80",
    ],
)
def test_illegal_values_are_read_all_the_same(properties):
    body = b"\0\x01t\0\x01" + bytes([len(properties)]) + properties + b"payload"
    assert decode_publish(0x32, body, v5=True).payload == b"payload"


def test_under_3_1_1_there_are_no_properties():
    packet = encode_publish("t", b"\0p", b"", packet_id=3, qos=1, dup=False)
    assert packet == b"\x32\x07\0\x01t\0\x03\0p"
    assert decode_publish(packet[0], packet[2:], v5=False).payload == b"\0p"
    assert struct.unpack("!H", packet[5:7]) == (3,)
