from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oc2d.engine.ports import Channel
from oc2d.mqtt.topics import classifier, filters, is_level, matcher, reply_topics


@pytest.mark.req("MQTT-17", "MQTT-18", "MQTT-19", "MQTT-24", "MQTT-27", "AMB-2")
def test_a_consumer_subscribes_to_all_its_profiles_its_device_and_what_is_asked_for():
    assert filters("", ("slpf", "x-log"), "fw-7") == (
        "oc2/cmd/all",
        "oc2/cmd/ap/slpf",
        "oc2/cmd/ap/x-log",
        "oc2/cmd/device/fw-7",
    )
    assert filters("vpf/a", ("slpf",), "fw-7", ("oc2/cmd", "oc2/cmd/all")) == (
        "vpf/a/oc2/cmd/all",
        "vpf/a/oc2/cmd/ap/slpf",
        "vpf/a/oc2/cmd/device/fw-7",
        "vpf/a/oc2/cmd",
    )


@pytest.mark.req("MQTT-25", "AMB-10", "AMB-2")
@pytest.mark.parametrize(
    ("topic", "expected"),
    [
        ("oc2/cmd/all", (Channel.ALL, None)),
        ("oc2/cmd/device/Zulu", (Channel.DEVICE, None)),
        ("oc2/cmd/ap/slpf", (Channel.PROFILE, "slpf")),
        ("oc2/cmd/ap/SLPF", (Channel.PROFILE, "SLPF")),
        ("oc2/cmd/device/zulu", (Channel.OTHER, None)),
        ("oc2/cmd/ALL", (Channel.OTHER, None)),
        ("oc2/cmd/ap/", (Channel.OTHER, None)),
        ("oc2/cmd/ap/a/b", (Channel.OTHER, None)),
        ("oc2/cmd", (Channel.OTHER, None)),
        ("x/oc2/cmd/all", (Channel.OTHER, None)),
    ],
)
def test_topics_are_told_apart_exactly(topic, expected):
    assert classifier("", "Zulu")(topic) == expected
    under = classifier("vpf", "Zulu")
    assert under(f"vpf/{topic}") == expected
    assert under(topic) == (Channel.OTHER, None)


@pytest.mark.req("AMB-14")
@pytest.mark.parametrize(
    ("topic", "expected"),
    [
        ("v.1/oc2/cmd/all", (Channel.ALL, None)),
        ("v/1/oc2/cmd/all", (Channel.ALL, None)),
        ("v/1/oc2/cmd/device/fw/example/com", (Channel.DEVICE, None)),
        ("v/1/oc2/cmd/ap/slpf", (Channel.PROFILE, "slpf")),
        ("v/1/oc2/cmd/device/fw", (Channel.OTHER, None)),
    ],
)
def test_a_broker_that_gives_dots_back_as_slashes_is_understood(topic, expected):
    tell = classifier("v.1", "fw.example.com", dots_are_slashes=True)
    assert tell(topic) == expected
    exact = classifier("v.1", "fw.example.com")(topic)
    assert exact == (expected if topic.startswith("v.1") else (Channel.OTHER, None))


@pytest.mark.req("AMB-3", "AMB-4", "MQTT-23")
@pytest.mark.parametrize(
    ("mode", "producer", "expected"),
    [
        ("general", "soc", ("oc2/rsp",)),
        ("producer", "soc@example.com", ("oc2/rsp/soc@example.com",)),
        ("both", "soc", ("oc2/rsp", "oc2/rsp/soc")),
        ("both", None, ("oc2/rsp",)),
        ("producer", None, ("oc2/rsp",)),
        ("producer", "oc2/rsp/soc", ("oc2/rsp/soc",)),
        ("producer", "oc2/rsp", ("oc2/rsp",)),
        ("producer", "oc2/rsp/", ("oc2/rsp",)),
        ("producer", "oc2/rsp/oc2/rsp/soc", ("oc2/rsp",)),
        ("producer", "x/y", ("oc2/rsp",)),
        ("both", "+", ("oc2/rsp",)),
        ("producer", "#", ("oc2/rsp",)),
        ("producer", "", ("oc2/rsp",)),
        ("producer", "a\0", ("oc2/rsp",)),
        ("producer", "a\ud800", ("oc2/rsp",)),
        ("producer", "ü" * 64, ("oc2/rsp/" + "ü" * 64,)),
        ("producer", "ü" * 65, ("oc2/rsp",)),
    ],
)
def test_responses_go_to_the_response_topics_only(mode, producer, expected):
    assert reply_topics("", mode, producer) == expected
    assert reply_topics("vpf", mode, producer) == tuple(f"vpf/{topic}" for topic in expected)


@pytest.mark.req("AMB-4")
def test_a_producer_may_name_its_response_topic_with_the_namespace():
    assert reply_topics("vpf", "producer", "vpf/oc2/rsp/soc") == ("vpf/oc2/rsp/soc",)


@pytest.mark.req("MQTT-23", "MQTT-25", "AMB-4")
@given(st.text(), st.sampled_from(["general", "producer", "both"]))
def test_whatever_a_producer_calls_itself_no_other_topic_is_possible(producer, mode):
    for topic in reply_topics("", mode, producer):
        head, _, level = topic.partition("oc2/rsp")
        assert head == ""
        assert level == "" or (level[0] == "/" and is_level(level[1:]))


@pytest.mark.req("MQTT-24", "MQTT-27")
@pytest.mark.parametrize(
    ("wanted", "topic", "fits"),
    [
        ("oc2/cmd/all", "oc2/cmd/all", True),
        ("oc2/cmd/all", "oc2/cmd/All", False),
        ("oc2/cmd/all", "oc2/cmd/all/x", False),
        ("oc2/#", "oc2/cmd/all", True),
        ("oc2/#", "oc2", True),
        ("oc2/#", "oc3/cmd", False),
        ("#", "a/b", True),
        ("oc2/+/all", "oc2/cmd/all", True),
        ("oc2/+/all", "oc2//all", True),
        ("oc2/+", "oc2/cmd/all", False),
        ("+", "oc2", True),
        ("+/#", "oc2/cmd/all", True),
        ("+/cmd/#", "oc2/rsp/x", False),
    ],
)
def test_a_topic_matches_a_filter_as_mqtt_says(wanted, topic, fits):
    assert matcher(["x/y", wanted])(topic) is fits


@pytest.mark.req("AMB-14", "MQTT-27")
def test_a_topic_with_slashes_for_dots_matches_only_where_a_broker_writes_so():
    wanted = ["oc2/cmd/device/fw.7", "wild.cards/#"]
    for topic in ("oc2/cmd/device/fw/7", "oc2/cmd/device/fw.7", "wild/cards/x"):
        assert matcher(wanted, dots_are_slashes=True)(topic)
    assert not matcher(wanted)("oc2/cmd/device/fw/7")
    assert not matcher(wanted, dots_are_slashes=True)("oc2/cmd/device/fw/8")
