"""The golden exchanges (REQUIREMENTS part 8) with the running daemon, a broker and a kernel."""

from __future__ import annotations

import time
import uuid

import pytest

from tests.conformance.conftest import ALL, CONNECTION, DEVICE, PROFILE, check_form
from tests.consumer import command, delete, deny, query
from tests.producer import properties
from tests.waiting import wait_until

pytestmark = pytest.mark.root

# MQTT E.4, which is SLPF A.1.1, in the form of CS01 (AMB-6)
E4_TARGET = {"ipv4_connection": CONNECTION}
E4_ARGS = {
    "start_time": 1534775460000,
    "duration": 500,
    "response_requested": "ack",
    "slpf": {"drop_process": "none"},
}
E4_ACTUATOR = {"slpf": {"asset_id": "30"}}
E4 = {"action": "deny", "target": E4_TARGET, "args": E4_ARGS, "actuator": E4_ACTUATOR}
E4_HEADERS = {"created": 1610483630, "from": "Producer1@example.com"}
A_1_2 = {
    "action": "deny",
    "target": {"ipv4_connection": {"protocol": "tcp", "src_port": 21}},
    "args": {"slpf": {"drop_process": "false_ack", "direction": "egress"}},
    "actuator": {"slpf": {}},
}
A_1_3 = {
    "action": "deny",
    "target": {"ipv6_net": "3ffe:1900:4545:3:200:f8ff:fe21:67cf"},
    "args": {"response_requested": "none", "slpf": {"direction": "ingress"}},
    "actuator": {"slpf": {"named_group": "perimeter"}},
}
A_1_4 = {
    "action": "allow",
    "target": {
        "ipv6_connection": {
            "protocol": "tcp",
            "dst_addr": "3ffe:1900:4545:3::f8ff:fe21:67cf",
            "src_port": 21,
        }
    },
    "actuator": {"slpf": {}},
}
A_3 = {
    "action": "update",
    "target": {
        "file": {
            "path": "\\\\someshared-drive\\somedirectory\\configurations",
            "name": "firewallconfiguration.txt",
        }
    },
    "actuator": {"slpf": {"named_group": "network"}},
}


def a_2(number):
    args = {"response_requested": "complete"}
    return {**delete(number), "args": args, "actuator": {"slpf": {}}}


def rules_with(host, *words):
    """Rules of oc2d's table as the `nft` command writes them, that have all of these words."""
    text = host.nft("-s", "list", "table", "inet", "oc2d")
    return [line for line in text.splitlines() if all(word in line for word in words)]


@pytest.mark.req("MQTT-28", "MQTT-29", "MQTT-30", "MQTT-31", "MQTT-32", "MQTT-33", "MQTT-34")
@pytest.mark.req("MQTT-35", "MQTT-36", "MQTT-43", "MQTT-45", "LANG-4", "LANG-7", "LANG-47")
@pytest.mark.parametrize("request_id", ["uuid_1", "q" * 200, "prüf-\u4e16\u754c \u00a0x", ""])
def test_exchange_1_an_empty_query_on_all_is_a_heartbeat(soc, request_id):
    request_id = f"{request_id}{soc.form}"
    reply = soc.ask(query(), ALL, request_id=request_id)
    assert reply.response == {"status": 200}
    assert reply.headers["request_id"] == request_id
    assert reply.headers["to"] == ["soc@example.com"]


@pytest.mark.req("LANG-46", "LANG-48", "LANG-49", "LANG-50", "LANG-51", "LANG-61", "SLPF-1")
@pytest.mark.req("SLPF-9", "SLPF-62", "MQTT-19")
def test_exchange_2_all_four_features(soc):
    reply = soc.ask(query("versions", "profiles", "pairs", "rate_limit"))
    assert reply.status == 200
    results = reply.response["results"]
    assert results.keys() == {"versions", "profiles", "pairs", "rate_limit"}
    assert (results["versions"], results["profiles"]) == (["1.0"], ["slpf"])
    assert results["rate_limit"] == 100_000
    kinds = ["ipv4_connection", "ipv4_net", "ipv6_connection", "ipv6_net"]
    assert {action: sorted(targets) for action, targets in results["pairs"].items()} == {
        "allow": kinds,
        "deny": kinds,
        "delete": ["slpf:rule_number"],
        "query": ["features"],
    }


@pytest.mark.req("LANG-56", "LANG-61")
def test_exchange_3_a_feature_asked_twice_counts_once(soc):
    reply = soc.ask(query("versions", "versions"))
    assert reply.response == {"status": 200, "results": {"versions": ["1.0"]}}


@pytest.mark.req("LANG-60")
def test_exchange_4_an_unknown_feature(soc):
    assert soc.ask(query("foo")).status == 400


@pytest.mark.req("LANG-53", "LANG-54", "AMB-20")
@pytest.mark.parametrize("args", [{"response_requested": "ack"}, {"start_time": 1534775460000}])
def test_exchange_5_features_with_other_arguments(soc, args):
    assert soc.ask(query(**args)).status == 400


@pytest.mark.req("LANG-29", "AMB-16", "AMB-19", "AMB-24", "MQTT-17", "SLPF-56")
def test_exchange_6_the_deny_of_mqtt_e4_is_acknowledged_once(soc, zulu, host):
    request_id = f"uuid_2 {soc.form}"
    reply = soc.ask(E4, PROFILE, request_id=request_id, headers=E4_HEADERS)
    assert reply.response == {"status": 102}
    assert reply.headers["to"] == ["Producer1@example.com"]
    soc.producer.assert_silent(request_id, expected=1)
    assert (zulu.rules(), host.elements()) == ({}, [])


@pytest.mark.req("AMB-6", "MQTT-42")
def test_exchange_6_arguments_beside_the_request_are_malformed(producer, zulu):
    headers = {"request_id": "uuid_2", **E4_HEADERS}
    openc2 = {"request": {"action": "deny", "target": E4_TARGET}, "args": E4_ARGS}
    body = {"openc2": openc2, "actuator": E4_ACTUATOR}
    import json  # noqa: PLC0415 - the only payload that `send` would not build

    payload = json.dumps({"headers": headers, "body": body}).encode()
    producer.publish(payload, PROFILE, properties=properties())
    (reply,) = producer.wait("uuid_2")
    check_form(reply)
    assert reply.status == 400
    assert zulu.rules() == {}


@pytest.mark.req("SLPF-10", "SLPF-11", "SLPF-16", "AMB-45")
@pytest.mark.parametrize("direction", ["egress", "both", None])
def test_exchange_7_false_ack_is_an_option_not_supported(soc, zulu, host, direction):
    slpf = {"drop_process": "false_ack", **({"direction": direction} if direction else {})}
    reply = soc.ask({**A_1_2, "args": {"slpf": slpf}})
    assert reply.status == 501
    assert reply.text.startswith("Option not supported")
    assert (zulu.rules(), host.elements()) == ({}, [])


@pytest.mark.req("LANG-28", "SLPF-3", "SLPF-14", "SLPF-30", "SLPF-55")
def test_exchange_8_a_perimeter_filter_works_in_silence(soc, zulu, host):
    soc.silent(A_1_3, PROFILE)
    (rule,) = zulu.rules().values()
    assert rule["match"] == "ipv6_net 3ffe:1900:4545:3:200:f8ff:fe21:67cf/128"
    assert (rule["verdict"], rule["direction"]) == ("deny", "ingress")
    assert host.elements() == ["3ffe:1900:4545:3:200:f8ff:fe21:67cf"]


@pytest.mark.req("LANG-40", "SLPF-29", "SLPF-35", "SLPF-39", "SLPF-41", "AMB-40", "AMB-42")
def test_exchanges_9_and_10_a_rule_is_made_and_deleted_by_its_number(soc, zulu, host):
    reply = soc.ask(A_1_4)
    number = reply.number
    assert reply.response == {"status": 200, "results": {"slpf": {"rule_number": number}}}
    (rule,) = zulu.rules().values()
    assert (rule["number"], rule["verdict"]) == (number, "allow")
    (element,) = host.elements()
    assert element == {"concat": ["3ffe:1900:4545:3:0:f8ff:fe21:67cf", "tcp", 21]}
    lookups = rules_with(host, "ip6 daddr", "l4proto", "th sport", "accept")
    assert len(lookups) == 2  # ingress and egress
    assert not any("saddr" in line or "dport" in line for line in lookups)
    assert soc.ask(a_2(number)).response == {"status": 200}
    assert (zulu.rules(), host.elements()) == ({}, [])
    again = soc.ask(a_2(number))
    assert again.status == 500
    assert again.text.startswith("firewall rule not removed or updated")


@pytest.mark.req("LANG-36", "AMB-23", "SLPF-55", "SLPF-58")
def test_exchange_11_a_command_for_another_group(soc):
    soc.silent(A_3, PROFILE)
    assert soc.ask(A_3, DEVICE).status == 404


@pytest.mark.req("SLPF-48")
@pytest.mark.parametrize("actuator", [{"slpf": {"named_group": "perimeter"}}, None])
def test_exchange_12_update_file_without_a_directory_for_it(soc, actuator):
    sent = {**A_3, "actuator": actuator} if actuator else command(A_3["action"], A_3["target"])
    reply = soc.ask(sent)
    assert reply.status == 501
    assert reply.text.startswith("Command not supported")


@pytest.mark.req("SLPF-22", "SLPF-23", "SLPF-24", "AMB-38")
def test_exchange_13_a_number_is_given_once(soc, zulu, host):
    assert soc.ask(deny("10.0.0.0/8", insert_rule=100)).number == 100
    again = soc.ask(deny("10.0.0.0/8", insert_rule=100))
    assert again.status == 501
    assert again.text.startswith("Rule number currently in use")
    assert list(zulu.rules()) == [100]
    assert host.elements() == ["10.0.0.0"]


@pytest.mark.req("MQTT-50", "AMB-21")
def test_exchange_14_the_same_request_twice_is_one_rule_and_two_identical_responses(soc, zulu):
    request_id = str(uuid.uuid4())
    soc.ask(deny("10.14.0.0/16"), DEVICE, request_id=request_id)
    soc.send(deny("10.14.0.0/16"), PROFILE, request_id=request_id)
    first, second = soc.wait(request_id, 2)
    assert first.response == second.response
    assert list(zulu.rules()) == [first.number]


@pytest.mark.req("LANG-17", "LANG-18", "LANG-62", "LANG-67", "AMB-34")
@pytest.mark.parametrize(
    "connection",
    [
        {},
        {"dst_port": 70000},
        {"dst_port": -1},
        {"dst_port": "80"},
        {"dst_port": True},
        {"dst_prot": 80, "protocol": "tcp"},
        {"protocol": "icmp", "dst_port": 1},
        {"src_addr": "1.2.3.4/33"},
        {"src_addr": "010.0.0.1"},
    ],
)
def test_exchange_15_a_broken_connection(soc, zulu, connection):
    assert soc.ask(command("deny", {"ipv4_connection": connection})).status == 400
    assert zulu.rules() == {}


@pytest.mark.req("LANG-43")
@pytest.mark.parametrize(
    ("action", "target"),
    [
        ("deny", {"domain_name": "example.com"}),
        ("scan", {"device": {"hostname": "example"}}),
        ("start", {"process": {"name": "x"}}),
    ],
)
def test_exchange_16_what_the_language_knows_and_nobody_here_can_do(soc, action, target):
    assert soc.ask(command(action, target)).status == 501


@pytest.mark.req("LANG-12", "LANG-14", "LANG-16", "LANG-43")
@pytest.mark.parametrize(
    "change",
    [
        {"action": "block"},
        {"action": ["deny"]},
        {"target": {"ip_conection": CONNECTION}},
        {"target": {"ipv4_connection": CONNECTION, "ipv4_net": "10.0.0.0/8"}},
        {"target": {}},
        {"args": {}},
        {"actuator": {}},
    ],
)
def test_exchange_17_a_broken_command(soc, change):
    assert soc.ask({**E4, **change}).status == 400


@pytest.mark.req("LANG-25", "LANG-26")
def test_exchange_18_an_impossible_window(soc):
    now = int(time.time() * 1000)
    three = {"start_time": now, "stop_time": now + 1000, "duration": 1000}
    assert soc.ask(command("deny", E4_TARGET, **three)).status == 400
    backwards = {"start_time": now + 5000, "stop_time": now + 4000}
    assert soc.ask(command("deny", E4_TARGET, **backwards)).status == 400


@pytest.mark.req("LANG-23", "LANG-31")
def test_exchange_19_a_rule_for_half_a_second(soc, zulu, host):
    sent = time.monotonic()
    reply = soc.ask(command("deny", {"ipv4_net": "10.19.0.0/16"}, duration=500))
    assert reply.status == 200
    if time.monotonic() - sent < 0.4:
        assert reply.number in zulu.rules()
    wait_until(lambda: not zulu.rules() and not host.elements(), 5)
    assert time.monotonic() - sent > 0.5
    soc.producer.assert_silent(reply.headers["request_id"], expected=1)


@pytest.mark.req("AMB-25", "LANG-21", "LANG-20")
def test_exchange_20_a_rule_that_starts_later_is_answered_twice(soc, zulu, host):
    start = int(time.time() * 1000) + 1500
    request_id = soc.send(command("deny", {"ipv4_net": "10.20.0.0/16"}, start_time=start))
    (interim,) = soc.wait(request_id)
    check_form(interim, soc.form)
    assert interim.status == 102
    assert host.elements() == []
    _, final = soc.wait(request_id, 2)
    check_form(final, soc.form)
    assert int(time.time() * 1000) >= start
    assert final.response == {
        "status": 200,
        "results": {"slpf": {"rule_number": interim.number}},
    }
    assert list(zulu.rules()) == [interim.number]
    assert host.elements() == ["10.20.0.0"]


@pytest.mark.req("MQTT-44", "MQTT-46", "MQTT-51")
def test_exchange_21_what_is_not_for_us_or_no_request_is_passed_over(soc, producer, zulu):
    soc.silent(deny("10.21.0.0/16"), headers={"to": ["other"]})
    soc.silent(deny("10.21.0.0/16"), message_type="rsp")
    soc.silent(deny("10.21.0.0/16"), message_type="ntf")
    retained = soc.send(deny("10.21.0.0/16"), ALL, retain=True)
    producer.assert_silent(retained)
    producer.publish(b"", ALL, retain=True)  # the broker forgets it
    response = b'{"headers":{"request_id":"r21"},"body":{"openc2":{"response":{"status":200}}}}'
    producer.publish(response, ALL, properties=properties("req"))
    producer.publish(response, ALL, properties=properties("rsp"))
    producer.assert_silent("r21")
    assert zulu.rules() == {}


BROKEN = {
    "a member twice": b'{"headers":{},"headers":{},"body":{}}',
    "no number": b'{"headers":{"created":NaN},"body":{}}',
    "no UTF-8": b'{"headers":{"from":"\xff"},"body":{}}',
    "too deep": b"[" * 100_000,
}


@pytest.mark.req("LANG-44", "LANG-74", "LANG-75", "LANG-76", "LANG-77")
@pytest.mark.parametrize("payload", BROKEN.values(), ids=BROKEN)
def test_exchange_22_broken_json_is_answered_400_and_the_next_command_works(producer, payload):
    before = len(producer.replies)
    producer.publish(payload, properties=properties(text=False))
    reply = producer.until(lambda: producer.replies[before:], "an answer")[0]
    check_form(reply)
    assert reply.status == 400
    assert "request_id" not in reply.headers
    assert producer.ask(query()).status == 200


@pytest.mark.req("MQTT-23", "MQTT-38", "AMB-4")
def test_exchange_23_nothing_steers_a_response_elsewhere(soc, producer):
    asked = soc.send(query(), ResponseTopic="x/y", headers={"from": "a/b"})
    (reply,) = soc.wait(asked)
    check_form(reply, soc.form)
    producer.fence()
    assert {reply.topic for reply in producer.replies} == {"oc2/rsp"}


@pytest.mark.req("SLPF-18", "SLPF-20", "AMB-54", "AMB-31")
def test_exchange_24_what_is_not_persistent_outlives_a_restart(producer, zulu, host, clean):
    del clean
    kept = producer.ask(deny("10.24.0.0/16", persistent=False)).number
    lasting = producer.ask(deny("10.25.3.4/16"))
    assert lasting.text  # says that the host bits were masked
    zulu.restart()
    assert zulu.rules().keys() == {kept, lasting.number}
    assert sorted(host.elements()) == ["10.24.0.0", "10.25.0.0"]


@pytest.mark.req("SLPF-18", "AMB-54")
def test_exchange_24_what_is_not_persistent_is_gone_after_a_boot(producer, zulu, host, clean):
    del clean
    producer.ask(deny("10.24.0.0/16", persistent=False))
    lasting = producer.ask(deny("10.25.0.0/16")).number
    assert zulu.stop() == 0
    # what a boot leaves: no tmpfs, no tables
    for left in (zulu.directory / "run").iterdir():
        left.unlink()
    host.nft("delete", "table", "inet", "oc2d")
    zulu.start()
    assert list(zulu.rules()) == [lasting]
    assert host.elements() == ["10.25.0.0"]
