"""The daemon's life as its users see it: links, signals, the service manager, exit codes."""

from __future__ import annotations

import json
import re
import shutil
import signal
import socket
import ssl
import threading

import pytest

from tests.consumer import delete, deny, lines, query
from tests.namespace import tool
from tests.system.conftest import DRY
from tests.waiting import wait_until

# -- the link


@pytest.mark.req("MQTT-57", "MQTT-58", "MQTT-61", "MQTT-67", "SLPF-7")
def test_commands_over_tls_with_a_client_certificate_and_new_files_at_sighup(
    make_broker_host, certificates
):
    host = make_broker_host(*certificates.mutual("server"), isolated=False)
    own = {name: host.directory / name for name in ("client.crt", "client.key")}
    for path in own.values():
        shutil.copy(certificates.directory / path.name, path)
    zulu = host.consumer(
        broker={
            "tls": True,
            "ca_file": str(certificates.ca),
            "cert_file": str(own["client.crt"]),
            "key_file": str(own["client.key"]),
            "key_password_file": str(host.directory / "password"),
        },
        actuators_slpf=DRY,
    )
    (host.directory / "password").write_text(certificates.key_password)
    (host.directory / "password").chmod(0o600)
    zulu.start()

    def configure(client):
        client.tls_set(
            str(certificates.ca),
            str(certificates.cert("client")),
            str(certificates.key("client")),
            tls_version=ssl.PROTOCOL_TLS_CLIENT,
        )

    soc = host.producer(configure=configure)
    assert soc.ask(query("profiles")).status == 200
    assert not zulu.entries("mqtt.no_tls")
    shutil.copy(certificates.client_locked_key, own["client.key"])
    zulu.signal(signal.SIGHUP)
    wait_until(lambda: len(zulu.entries("mqtt.subscribed")) == 2, what="a second connection")
    zulu.until_subscribed()
    assert soc.ask(query("profiles")).status == 200
    assert certificates.key_password not in zulu.log.read_text()


@pytest.fixture
def guarded(make_broker_host, tmp_path):
    """A broker that wants the password `right` of the user fw-7."""
    file = tmp_path / "passwords"
    tool("mosquitto_passwd", "-b", "-c", str(file), "fw-7", "right")
    return make_broker_host("allow_anonymous false", f"password_file {file}", isolated=False)


@pytest.mark.req("MQTT-14", "MQTT-67", "MQTT-68")
def test_sighup_takes_a_new_password_and_keeps_the_old_link_when_the_change_is_wrong(guarded):
    host = guarded
    password = host.directory / "password"
    password.write_text("wrong-secret\n")
    zulu = host.consumer(
        broker={"username": "fw-7", "password_file": str(password)}, actuators_slpf=DRY
    ).launch()
    wait_until(lambda: zulu.told().get("link", {}).get("last_error"))
    password.write_text("right\n")
    zulu.signal(signal.SIGHUP)
    zulu.until_subscribed()
    soc = host.producer(configure=lambda client: client.username_pw_set("fw-7", "right"))
    number = soc.ask(deny("10.0.0.1")).number
    before = zulu.told()["link"]

    zulu.tables["broker"]["keep_alife"] = 3
    zulu.write_config()
    zulu.signal(signal.SIGHUP)
    wait_until(lambda: zulu.entries("reload_refused"))
    (refused,) = zulu.entries("reload_refused")
    assert refused["path"] == "broker.keep_alife"
    assert "keep_alive" in refused["message"]
    assert zulu.told()["reload_refused"] == [f"broker.keep_alife: {refused['message']}"]
    assert soc.ask(query()).status == 200
    assert zulu.told()["link"]["since"] == before["since"]

    del zulu.tables["broker"]["keep_alife"]
    zulu.tables["broker"]["keep_alive"] = 77
    zulu.tables["broker"]["response_topic"] = "both"
    zulu.tables["policy"] = {"max_age": 5}
    zulu.tables[""]["from"] = "another name"
    zulu.write_config()
    zulu.signal(signal.SIGHUP)
    wait_until(lambda: zulu.entries("restart_needed"))
    assert zulu.entries("restart_needed")[-1]["keys"] == ["from"]
    assert zulu.entries("reloaded")[-1]["changed"] == [
        "broker.keep_alive",
        "broker.response_topic",
        "policy.max_age",
    ]
    assert zulu.told()["restart_needed"] == ["from"]
    assert zulu.told()["reload_refused"] == []
    wait_until(lambda: zulu.told()["link"]["since"] != before["since"])
    zulu.until_subscribed()
    assert "k77, u'fw-7')" in host.broker.log.read_text()
    assert zulu.told()["link"]["session_present"] is True
    assert soc.ask(delete(number)).status == 200
    assert not re.search("wrong-secret|right", zulu.log.read_text())
    assert zulu.stop() == 0


@pytest.mark.req("MQTT-16", "MQTT-18", "MQTT-20", "MQTT-23")
def test_a_namespace_stands_in_front_of_every_topic(make_broker_host):
    host = make_broker_host(isolated=False)
    zulu = host.consumer(top={"namespace": "a/b/"}, actuators_slpf=DRY).start()
    soc = host.producer(topic="a/b/oc2/cmd/device/zulu")
    plain = soc.send(query(), "oc2/cmd/all")
    for topic in ("all", "ap/slpf", "device/zulu"):
        assert soc.ask(query(), f"a/b/oc2/cmd/{topic}").topic == "a/b/oc2/rsp"
    assert soc.of(plain) == []
    assert all(name.startswith("a/b/oc2/cmd/") for name in zulu.told()["link"]["subscriptions"])


# -- who and for whom


@pytest.mark.req("AMB-12", "MQTT-44")
def test_only_producers_that_are_listed_may_command(make_broker_host):
    host = make_broker_host(isolated=False)
    zulu = host.consumer(policy={"producers": ["soc@example.com"]}, actuators_slpf=DRY).start()
    soc = host.producer()
    assert soc.ask(deny("10.0.0.1"), headers={"from": "eve@example.com"}).status == 403
    nobody = json.dumps(
        {"headers": {"request_id": "n"}, "body": {"openc2": {"request": deny("10.0.0.1")}}}
    )
    from tests.producer import properties  # noqa: PLC0415 - only here

    soc.publish(nobody.encode(), properties=properties())
    assert soc.wait("n")[0].status == 401
    assert zulu.rules() == {}
    assert soc.ask(deny("10.0.0.1")).status == 200


@pytest.mark.req("LANG-34", "LANG-35", "LANG-36", "LANG-37", "AMB-27", "MQTT-17", "MQTT-44")
def test_the_actuator_is_chosen_by_topic_name_and_target(soc, zulu):
    net = {"ipv4_net": "10.1.0.0/16"}

    def chosen(topic, actuator=None, **more):
        sent = {"action": "deny", "target": net, **more}
        if actuator:
            sent["actuator"] = {actuator: {}}
        reply = soc.ask(sent, topic)
        return reply.status, lines(zulu, reply.headers["request_id"])[0]["profile"]

    assert soc.ask(query("profiles")).response["results"]["profiles"] == ["slpf", "x-log"]
    assert chosen("oc2/cmd/ap/slpf") == (200, "slpf")
    assert chosen("oc2/cmd/ap/x-log") == (200, "x-log")
    assert chosen("oc2/cmd/all", "x-log") == (200, "x-log")
    assert chosen("oc2/cmd/all", args={"slpf": {"direction": "ingress"}}) == (200, "slpf")
    assert chosen("oc2/cmd/all") == (200, "slpf")
    assert chosen("oc2/cmd/all", target={"domain_name": "example.com"}) == (200, "x-log")
    assert chosen("oc2/cmd/all", "slpf", args={"x-log": {}})[0] == 501
    assert chosen("oc2/cmd/device/zulu", "x-door")[0] == 404
    silent = soc.send({"action": "deny", "target": net, "actuator": {"x-door": {}}}, "oc2/cmd/all")
    soc.assert_silent(silent)
    for number in zulu.rules():
        assert soc.ask(delete(number)).status == 200


@pytest.mark.req("MQTT-44", "AMB-4", "AMB-13")
def test_to_names_the_consumer_its_device_or_its_topics(soc):
    for to in (["zulu"], "zulu", ["other", "zulu"], ["oc2/cmd/device/zulu"], ["oc2/cmd/all"], []):
        assert soc.ask(query(), "oc2/cmd/all", headers={"to": to}).status == 200
    soc.assert_silent(soc.send(query(), headers={"to": ["ZULU", "zulu2", "oc2/cmd/device/x"]}))


# -- the service manager


def test_the_service_manager_hears_of_ready_watchdog_reload_and_stop(host, tmp_path):
    said: list[str] = []
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        path = tmp_path / "notify"
        manager.bind(str(path))

        def listen():
            while text := manager.recv(4096).decode():
                said.extend(text.splitlines())

        thread = threading.Thread(target=listen)
        thread.start()
        try:
            service = host.consumer("service", actuators_slpf=DRY)
            service.start(NOTIFY_SOCKET=str(path), WATCHDOG_USEC="400000")
            wait_until(lambda: said.count("WATCHDOG=1") > 2)
            assert said.index("READY=1") < said.index("WATCHDOG=1")
            service.signal(signal.SIGHUP)
            wait_until(lambda: said.count("READY=1") == 2)
            assert "RELOADING=1" in said
            assert service.stop() == 0
            wait_until(lambda: "STOPPING=1" in said)
            assert not service.entries("not_alive")
        finally:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as end:
                end.sendto(b"", str(path))
            thread.join()


# -- ends and exit codes


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_in_order_with_0(host, number):
    name = f"ends{number}"
    consumer = host.consumer(name, actuators_slpf=DRY).start()
    client_id = (consumer.directory / "state" / "client-id").read_text().strip()
    consumer.signal(number)
    assert consumer.wait() == 0
    assert consumer.entries()[-1]["event"] == "stopped"
    wait_until(lambda: f"Received DISCONNECT from {client_id}" in host.broker.log.read_text())
    done = consumer.run("status")
    assert done.returncode == 1
    assert "not running" in done.stderr


def test_a_bad_configuration_is_told_in_whole_and_ends_with_78(host):
    bad = host.consumer("bad", broker={"keep_alive": 0, "prot": 1}, actuators_slfp={})
    bad.write_config()
    for command in ((), ("check",)):
        done = bad.run(*command)
        assert done.returncode == 78
        for path in ("broker.keep_alive", "broker.prot", "actuators.slfp"):
            assert f"oc2d: {path}: " in done.stderr
        assert "Traceback" not in done.stderr
    assert not (bad.directory / "state").exists()


def test_a_good_configuration_is_checked_without_a_trace_and_a_wrong_call_ends_with_2(host):
    good = host.consumer("good", actuators_slpf=DRY)
    good.write_config()
    done = good.run("check")
    assert (done.returncode, done.stdout) == (0, "configuration OK\n")
    assert not (good.directory / "state").exists()
    assert good.run("--nonsense").returncode == 2


def test_a_start_that_cannot_work_says_why_and_ends_with_1(host):
    made = host.consumer("blocked", actuators_slpf=DRY)
    (made.directory / "state").write_text("a file")
    made.write_config()
    done = made.run("--foreground")
    assert done.returncode == 1
    assert "state.directory" in done.stderr
    assert "Traceback" not in done.stderr


# -- what counts without a restart


def test_limits_policy_dialect_and_topics_count_from_the_reload_on(make_broker_host):
    host = make_broker_host(isolated=False)
    zulu = host.consumer(actuators_slpf=DRY, **{"actuators_x-log": {"profiles": ["x-log"]}}).start()
    soc = host.producer()
    assert soc.ask(query("rate_limit")).status == 200
    assert soc.ask({"action": "scan", "target": {"uri": "a:b"}}).status == 200
    since = zulu.told()["link"]["since"]

    def reload(count):
        zulu.write_config()
        zulu.signal(signal.SIGHUP)
        wait_until(lambda: len(zulu.entries("reloaded")) == count)

    zulu.tables["limits"] = {"rate_per_minute": 5}
    zulu.tables["policy"] = {"order": ["x-log", "slpf"]}
    zulu.tables["compat"] = {"strict_cidr": True}
    zulu.tables["actuators.x-log"] |= {"timeout": 7, "profiles": ["x-other"]}
    reload(1)
    told = soc.ask(query("rate_limit", "profiles")).response["results"]
    assert told == {"rate_limit": 5, "profiles": ["x-log", "slpf"]}
    assert soc.ask(deny("10.1.2.3/8")).status == 400
    assert zulu.told()["restart_needed"] == ["actuators.x-log.profiles"]
    assert zulu.told()["link"]["since"] == since  # no reason for another connection

    zulu.tables["policy"]["producers"] = ["somebody else"]
    zulu.tables["actuators.x-log"]["profiles"] = ["x-log"]
    reload(2)
    assert soc.ask(query()).status == 403
    assert zulu.told()["restart_needed"] == []
    assert len(zulu.entries("restart_needed")) == 1

    zulu.tables["policy"]["producers"] = "nonsense"
    zulu.tables["limits"] = {}
    zulu.write_config()
    zulu.signal(signal.SIGHUP)
    wait_until(lambda: zulu.entries("reload_refused"))
    assert soc.ask(query()).status == 403
