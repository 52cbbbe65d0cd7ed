"""Who answers what: three Consumers on one broker, as in example E.3 of the transfer specification.

Consumer 1 has slpf, Consumer 2 slpf and an intrusion detection profile, Consumer 3 one of endpoint
detection and one of bills of materials; these profiles are private here (LANG-83).
"""

from __future__ import annotations

import os

import pytest

from tests.consumer import query
from tests.producer import properties

PLUGINS = """
import msgspec
from oc2d.actuator import Actuator, Response, pair

class Args(msgspec.Struct, forbid_unknown_fields=True):
    sensor: str = ""

class Specifiers(msgspec.Struct, forbid_unknown_fields=True):
    zone: str = ""

class Results(msgspec.Struct):
    by: str

class Detector(Actuator):
    args_type = Args
    specifiers_type = Specifiers
    results_type = Results

    def matches(self, specifiers):
        return specifiers.zone in ("", "dmz")

    def done(self, command):
        return Response(results=Results(self.profile))

class Ids(Detector):
    profile = "x-ids"
    targets = {"signature": int}
    execute = Detector.done

    @pair("deny", "ipv4_net")
    @pair("allow", "x-ids:signature")
    def method(self, command):
        raise NotImplementedError

class Edr(Detector):
    profile = "x-edr"
    execute = Detector.done

    @pair("contain", "device")
    @pair("scan", "device")
    def method(self, command):
        raise NotImplementedError

class Sbom(Detector):
    profile = "x-sbom"
    execute = Detector.done

    @pair("query", "device")
    @pair("scan", "device")
    def method(self, command):
        raise NotImplementedError
"""
ENTRIES = "[oc2d]\nids = three_plugins:Ids\nedr = three_plugins:Edr\nsbom = three_plugins:Sbom\n"
NAMES = ("Consumer1@example.com", "Consumer2@example.com", "Consumer3@example.com")
ONE, TWO, THREE = NAMES
SLPF = {"backend": "dry-run"}
PROFILES = {ONE: ["slpf"], TWO: ["slpf", "x-ids"], THREE: ["x-edr", "x-sbom"]}
DENY = {"action": "deny", "target": {"ipv4_net": "10.0.0.0/8"}}
SCAN = {"action": "scan", "target": {"device": {"hostname": "h"}}}
EXAMPLE = (
    b'{"headers":{"request_id":"uuid_1","created":1610483630,"from":"Producer1@example.com"},'
    b'"body":{"openc2":{"request":{"action":"query","target":{"features":["profiles"]}}}}}'
)


@pytest.fixture(scope="module")
def host(make_broker_host, tmp_path_factory):
    site = tmp_path_factory.mktemp("site")
    (site / "three_plugins.py").write_text(PLUGINS)
    info = site / "three_plugins-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: three-plugins\nVersion: 1\n")
    (info / "entry_points.txt").write_text(ENTRIES)
    host = make_broker_host(isolated=False)
    tables = (
        {"actuators_slpf": {**SLPF, "asset_id": "30"}},
        {"actuators_slpf": {**SLPF, "asset_id": "31"}, "actuators_x-ids": {}},
        {"actuators_x-edr": {}, "actuators_x-sbom": {}},
    )
    path = os.pathsep.join([str(site), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
    made = [
        host.consumer(f"consumer-{number}", top={"from": name}, **own).launch(PYTHONPATH=path)
        for number, (name, own) in enumerate(zip(NAMES, tables, strict=True), 1)
    ]
    for consumer in made:
        consumer.until_subscribed()
    return host


@pytest.fixture(scope="module")
def soc(host):
    made = host.producer("Producer1@example.com", topic="oc2/cmd/all")
    yield made
    made.close()


@pytest.fixture
def expect(soc):
    """Send a command; whoever is in `expected` answers so, and nobody else answers."""

    def expect(command, expected, topic="oc2/cmd/all", **headers):
        asked = soc.send(command, topic, headers=headers)
        if expected:
            soc.wait(asked, len(expected))
        soc.wait(soc.send(query(), "oc2/cmd/all"), 3)  # by then the others have made up their minds
        assert {reply.headers["from"]: _told(reply) for reply in soc.of(asked)} == expected
        assert len(soc.of(asked)) == len(expected)

    return expect


def _told(reply):
    return " ".join([str(reply.status), *reply.response.get("results", {})])


def device(number):
    return f"oc2/cmd/device/consumer-{number}"


def named(profile, command=DENY, **specifiers):
    return {**command, "actuator": {profile: specifiers}}


@pytest.mark.req("LANG-32", "LANG-49", "MQTT-29", "MQTT-31", "MQTT-33", "MQTT-36", "MQTT-45")
def test_example_e3_each_consumer_tells_its_profiles(soc):
    soc.publish(EXAMPLE, "oc2/cmd/all", properties=properties())
    replies = {reply.headers["from"]: reply for reply in soc.wait("uuid_1", 3)}
    assert sorted(replies) == list(NAMES)
    for name, reply in replies.items():
        created = reply.headers.pop("created")
        assert len(str(created)) == 13
        assert reply.message == {
            "headers": {
                "request_id": "uuid_1",
                "from": name,
                "to": ["Producer1@example.com"],
            },
            "body": {
                "openc2": {"response": {"status": 200, "results": {"profiles": PROFILES[name]}}}
            },
        }
        assert (reply.topic, reply.qos, reply.retain) == ("oc2/rsp", 1, False)
        assert reply.properties == {
            "PayloadFormatIndicator": 1,
            "ContentType": "application/openc2",
            "UserProperty": [("msgType", "rsp"), ("encoding", "json")],
        }


@pytest.mark.req("MQTT-17", "MQTT-18", "MQTT-19", "LANG-35")
def test_topics_reach_the_consumers_of_a_profile_and_a_device(expect):
    everybody = dict.fromkeys(NAMES, "200")
    expect(query(), everybody)
    expect(query(), {ONE: "200", TWO: "200"}, "oc2/cmd/ap/slpf")
    expect(query(), {TWO: "200"}, "oc2/cmd/ap/x-ids")
    expect(query(), {THREE: "200"}, "oc2/cmd/ap/x-sbom")
    expect(query(), {}, "oc2/cmd/ap/pf")
    for number, name in enumerate(NAMES, 1):
        expect(query(), {name: "200"}, device(number))


@pytest.mark.req("MQTT-44", "AMB-4", "AMB-13")
def test_to_narrows_who_acts(expect):
    expect(query(), {THREE: "200"}, to=[THREE])
    expect(query(), {ONE: "200", TWO: "200"}, to=["consumer-1", "consumer-2", "consumer-9"])
    expect(query(), {TWO: "200"}, to="oc2/cmd/ap/x-ids")
    expect(query(), {}, to=["consumer-9"])
    expect(query(), {}, device(1), to=[TWO])
    expect(named("slpf"), {TWO: "200 slpf"}, to=[TWO])


@pytest.mark.req("LANG-34", "LANG-36", "AMB-23")
def test_a_named_profile_that_is_not_here_is_silence_for_all_and_404_for_one(expect):
    expect(named("slpf"), {ONE: "200 slpf", TWO: "200 slpf"})
    expect(named("x-edr", SCAN), {THREE: "200 x-edr"})
    expect(named("pf"), {})
    expect(named("pf"), {}, "oc2/cmd/ap/slpf")
    expect(named("pf"), {ONE: "404"}, device(1))
    expect(named("x-ids"), {TWO: "200 x-ids", ONE: "404"}, to=[ONE, TWO])
    expect(named("x-ids"), {TWO: "200 x-ids"}, to=["oc2/cmd/all"])  # names nobody in particular
    expect(named("pf", {**DENY, "args": {"response_requested": "none"}}), {}, device(1))
    expect(named("slpf", query("profiles")), {ONE: "200 profiles", TWO: "200 profiles"})


@pytest.mark.req("LANG-36", "AMB-23", "SLPF-53", "SLPF-56", "SLPF-58")
def test_specifiers_that_name_others_are_silence_for_all_and_404_for_one(expect):
    expect(named("slpf", asset_id="31"), {TWO: "200 slpf"})
    expect(named("slpf", asset_id="30"), {ONE: "200 slpf"}, "oc2/cmd/ap/slpf")
    expect(named("slpf", asset_id="99"), {}, "oc2/cmd/ap/slpf")
    expect(named("slpf", asset_id="99"), {TWO: "404"}, device(2))
    expect(named("slpf", asset_id="31"), {ONE: "404", TWO: "200 slpf"}, to=[ONE, TWO])
    expect(named("x-ids", zone="dmz"), {TWO: "200 x-ids"})
    expect(named("x-ids", zone="lan"), {})
    expect(named("x-ids", zone="lan"), {TWO: "404"}, device(2))
    expect(named("x-ids", nowhere="lan"), {TWO: "400"})


@pytest.mark.req("AMB-27", "LANG-35", "LANG-37", "AMB-28")
def test_of_several_actuators_one_carries_out_a_command(expect):
    expect(DENY, {ONE: "200 slpf", TWO: "200 slpf", THREE: "501"})  # the order of the tables
    expect(DENY, {TWO: "200 x-ids"}, "oc2/cmd/ap/x-ids")
    expect(named("slpf"), {TWO: "200 slpf"}, "oc2/cmd/ap/x-ids")  # the command says which
    expect({**DENY, "args": {"slpf": {"direction": "ingress"}}}, {TWO: "200 slpf"}, device(2))
    expect({**DENY, "args": {"x-ids": {"sensor": "a"}}}, {TWO: "200 x-ids"}, device(2))
    expect(named("slpf", {**DENY, "args": {"x-ids": {}}}), {TWO: "501"}, device(2))
    expect({**DENY, "actuator": {"slpf": {}, "x-ids": {}}}, {TWO: "400"}, device(2))
    signature = {"action": "allow", "target": {"x-ids:signature": 7}}
    expect(signature, {TWO: "200 x-ids"}, device(2))
    expect(signature, {ONE: "501"}, device(1))
    expect(SCAN, {THREE: "200 x-edr"}, device(3))
    expect(SCAN, {THREE: "200 x-sbom"}, "oc2/cmd/ap/x-sbom")
    expect({**SCAN, "action": "query"}, {THREE: "200 x-sbom"}, device(3))  # the only one that can
