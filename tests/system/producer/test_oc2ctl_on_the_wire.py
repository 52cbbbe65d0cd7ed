"""oc2ctl and the broker: the bytes it sends, links that fail, topics it watches."""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import threading
import time
from typing import Any

import pytest

from oc2d.producer.cli import main
from oc2d.producer.client import Producer
from oc2d.producer.messages import command_topic
from oc2d.producer.settings import load_settings
from tests.peer import Peer, ack, short
from tests.system.producer.conftest import DENY, OK, answering
from tests.waiting import wait_until


@pytest.mark.req(
    "MQTT-2", "MQTT-6", "MQTT-16", "MQTT-20", "MQTT-21", "MQTT-29", "MQTT-30", "LANG-2"
)
def test_the_broker_sees_a_clean_short_conversation(broker, run) -> None:
    assert run("query features --all --from soc --timeout 0.1")[0] == 1
    wait_until(lambda: " disconnected." in broker.log.read_text(), what="DISCONNECT is logged")
    log = broker.log.read_text()
    assert "(p5, c0, k300)" in log
    assert log.count("closed its connection") == log.count("<unknown> closed its connection")
    steps = ("oc2/rsp (QoS 2)", "oc2/rsp/soc (QoS 2)", "Received PUBLISH", " disconnected.")
    at = [log.index(step) for step in steps]
    assert at == sorted(at)
    assert "(d0, q1, r0," in log
    assert "'oc2/cmd/all'" in log


@pytest.mark.req("MQTT-31", "MQTT-32", "MQTT-33", "MQTT-34", "MQTT-37", "MQTT-40", "MQTT-2")
@pytest.mark.parametrize("encoding", ["json", "cbor", "cbor-concise"])
def test_a_request_has_exactly_the_properties_it_must_have(run, encoding) -> None:
    peer = Peer()
    codes: list[int] = []
    line = f"query features --all --from soc --encoding {encoding} --expect 1"
    thread = threading.Thread(target=lambda: codes.append(run(line, peer.port)[0]))
    thread.start()
    try:
        conn = peer.accept()
        connect = conn.expect("CONNECT").body
        assert connect[7] == 0  # no flag at all: Clean Start, will, user name
        assert b"\x11\0\0\0\0" in connect  # Session Expiry Interval 0
        conn.send(bytes([0x20, 3, 0, 0, 0]))
        options = peer.grant(conn, b"\x02\x02").body
        assert options.count(b"\x0e") >= 2
        seen = conn.expect("PUBLISH")
        announced = encoding.removesuffix("-concise").encode()
        properties = b"".join(
            (
                b"\x01" + bytes([encoding == "json"]),
                b"\x03" + short(18) + b"application/openc2",
                b"\x26" + short(7) + b"msgType" + short(3) + b"req",
                b"\x26" + short(8) + b"encoding" + short(4) + announced,
            )
        )
        head = short(len("oc2/cmd/all")) + b"oc2/cmd/all" + short(seen.packet_id)
        head += bytes([len(properties)]) + properties
        assert seen.body.startswith(head)
        first = {"json": b"{", "cbor": b"\xa2", "cbor-concise": b"\x82"}[encoding]
        assert seen.body.removeprefix(head).startswith(first)
        conn.send(ack("PUBACK", seen.packet_id, 0x87))
        conn.expect("DISCONNECT")
        conn.close()
        thread.join(5)
    finally:
        peer.close()
    assert codes == [1]


def test_a_refused_message_is_an_error(run, make_broker, tmp_path) -> None:
    rules = tmp_path / "acl"
    rules.write_text("topic read oc2/rsp\n")
    rules.chmod(0o600)
    strict = make_broker(f"acl_file {rules}")
    code, _, err = run("query features --all", strict.port)
    assert code == 1
    assert "refused the message on oc2/cmd/all" in err


@pytest.mark.req("MQTT-20")
def test_an_unreachable_broker_is_told_within_the_timeout(run) -> None:
    peer = Peer()
    try:
        began = time.monotonic()
        code, out, err = run("query features --all --timeout 0.5", peer.port)
        assert time.monotonic() - began < 3
        assert (code, out) == (1, "")
        assert "no link to the broker" in err
    finally:
        peer.close()
    code, _, err = run("query features --all", peer.port)
    assert code == 1
    assert "refused" in err


def test_addresses_that_do_not_answer_leave_time_for_the_next(broker, run, monkeypatch) -> None:
    """As those of IPv6, of a broker with both, where it leads nowhere."""
    with socket.socket() as silent, contextlib.ExitStack() as waiting:
        silent.bind(("", 0))
        silent.listen(0)
        port = silent.getsockname()[1]
        for _ in range(3):  # its queue is full: whoever comes now hears nothing
            sock = waiting.enter_context(socket.socket())
            sock.setblocking(False)
            sock.connect_ex(("127.0.0.1", port))
        targets = (("127.0.0.1", port), ("127.0.0.2", port), ("127.0.0.1", broker.port))
        found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", target) for target in targets]
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
        assert "no response within" in run("query features --all --timeout 1")[2]


@pytest.mark.req("MQTT-57")
def test_tls_is_used_unless_switched_off(make_broker, certificates, capsys) -> None:
    broker = make_broker(
        f"certfile {certificates.cert('server')}", f"keyfile {certificates.key('server')}"
    )
    line = [
        "query",
        "features",
        "--all",
        "--timeout",
        "0.3",
        "--broker",
        f"127.0.0.1:{broker.port}",
    ]
    assert main([*line, "--ca-file", str(certificates.ca)]) == 1
    silent, why = capsys.readouterr().err.splitlines()
    assert silent == "oc2ctl: no response within 0.3 s"
    assert why.startswith("oc2ctl: the broker says that nobody has subscribed to this topic")
    assert main([*line, "--ca-file", str(certificates.cert("other_ca"))]) == 1
    assert "certificate" in capsys.readouterr().err


def test_a_silence_tells_a_lost_command_from_one_that_waits(broker, run) -> None:
    line = "deny ipv4_net 203.0.113.9 --device fw-7 --timeout 0.3"
    lost = "oc2ctl: the broker says that nobody has subscribed to this topic: the command is lost"
    assert lost in run(line)[2].splitlines()
    assert lost in run(f"{line} --response none")[2].splitlines()
    subscribe = ["mosquitto_sub", "-p", str(broker.port), "-t", "oc2/cmd/device/fw-7", "-q", "1"]
    subprocess.run([*subscribe, "-c", "-i", "away", "-E"], check=True, timeout=10)
    waits = (
        "either no Consumer with device_id fw-7 has ever subscribed here: then the command is lost;"
    )
    err = run(line)[2]
    assert waits in err
    assert lost not in err


def test_a_link_that_breaks_while_we_wait_is_told_as_the_reason_for_a_silence(run) -> None:
    """The command may have taken effect: nobody may believe that it waits, or is lost."""
    peer = Peer()

    def serve() -> None:
        conn = peer.welcome(codes=b"\2\2")
        conn.send(ack("PUBACK", conn.expect("PUBLISH").packet_id))
        conn.close()

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        code, _, err = run(f"{DENY} --timeout 0.5", peer.port)
        thread.join()
    finally:
        peer.close()
    assert code == 1
    assert "the link to the broker was lost" in err
    assert "has ever subscribed" not in err


@pytest.mark.req("MQTT-68")
def test_a_wrong_password_is_told_and_never_shown(make_broker, run, monkeypatch, tmp_path) -> None:
    users = tmp_path / "users"
    users.touch(0o600)
    subprocess.run(["mosquitto_passwd", "-b", users, "me", "right"], check=True)
    broker = make_broker("allow_anonymous false", f"password_file {users}")
    monkeypatch.setenv("OC2D_BROKER_PASSWORD", "wrong-secret")
    code, out, err = run("query features --all --username me --verbose", broker.port)
    assert code == 1
    assert "the broker refused us" in err
    assert "wrong-secret" not in out + err
    monkeypatch.setenv("OC2D_BROKER_PASSWORD", "right")
    line = "query features --all --username me --timeout 0.2"
    assert "no response" in run(line, broker.port)[2]


def test_watch_shows_commands_and_responses(broker, consumer, run) -> None:
    consumer(broker.port, answering(OK))
    results: list[tuple[int, str, str]] = []
    watching = threading.Thread(
        target=lambda: results.append(run("watch --expect 2 --json --timeout 10"))
    )
    watching.start()
    wait_until(lambda: "oc2/# (QoS 2)" in broker.log.read_text(), what="watch has subscribed")
    with Producer(load_settings(None, _options(broker.port))) as producer:
        command = {"action": "query", "target": {"features": []}}
        replies = list(producer.request(command, command_topic(device="fw-7"), expect=1))
        assert [reply.status for reply in replies] == [200]
    watching.join(10)
    ((code, out, _),) = results
    first, second = map(json.loads, out.splitlines())
    assert code == 0
    assert first["message"]["body"]["openc2"]["request"] == command
    assert first["topic"] == "oc2/cmd/device/fw-7"
    assert second["message"]["body"]["openc2"]["response"]["status"] == 200


def _options(port: int) -> dict[str, Any]:
    return {"broker.host": "127.0.0.1", "broker.port": port, "broker.tls": False, "from": "soc"}


def test_a_producer_serves_many_requests_over_one_connection(broker, consumer) -> None:
    consumer(broker.port, answering(OK))
    before = threading.active_count()
    with Producer(load_settings(None, _options(broker.port))) as producer:
        for _ in range(20):
            command = {"action": "query", "target": {"features": []}}
            replies = producer.request(command, command_topic(), expect=1)
            assert [reply.succeeded for reply in replies] == [True]
        assert producer.warnings == []
    assert threading.active_count() == before


@pytest.mark.req("MQTT-21")
def test_a_forbidden_topic_of_its_own_is_a_warning(make_broker, tmp_path) -> None:
    rules = tmp_path / "acl"
    rules.write_text("topic readwrite oc2/cmd/#\n")
    rules.chmod(0o600)
    broker = make_broker(f"acl_file {rules}")
    with Producer(load_settings(None, _options(broker.port))) as producer:
        # mosquitto grants subscriptions that its rules will never serve, so nothing to warn of
        assert producer.warnings == []
    peer = Peer()

    def serve() -> None:
        conn = peer.welcome(codes=b"\x02\x87")
        conn.at_end()
        conn.close()

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        with Producer(load_settings(None, _options(peer.port))) as producer:
            assert "oc2/rsp/soc" in producer.warnings[0]
    finally:
        peer.close()
        thread.join(5)
