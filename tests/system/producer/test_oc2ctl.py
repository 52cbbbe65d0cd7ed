"""oc2ctl against a real broker and a scripted Consumer; against a scripted broker for bytes."""

from __future__ import annotations

import io
import json
import logging
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import structlog

from oc2d.engine.ports import Outgoing
from oc2d.language.codec import Encoding
from oc2d.producer.cli import main
from oc2d.producer.client import Producer
from oc2d.producer.messages import command_topic
from oc2d.producer.settings import load_settings
from tests.peer import Peer, ack, short
from tests.terminal import Terminal
from tests.waiting import wait_until

RSP = "oc2/rsp"


def answering(*responses: dict[str, Any], sender: str = "fw-7", topics: tuple[str, ...] = (RSP,)):
    """An answer: each response in turn, on each of the topics."""

    def answer(request: dict[str, Any]):
        headers = {"request_id": request["headers"]["request_id"], "created": 1, "from": sender}
        for response in responses:
            message = {"headers": headers, "body": {"openc2": {"response": response}}}
            for topic in topics:
                yield topic, message

    return answer


OK = {"status": 200, "results": {"slpf": {"rule_number": 999}}}
WAIT = {"status": 102}
BAD = {"status": 501, "status_text": "Option not supported"}


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch) -> Iterator[None]:
    """Nobody's settings, and a quiet log until oc2ctl sets up its own."""
    monkeypatch.setenv("HOME", str(tmp_path))
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    yield
    structlog.reset_defaults()


@pytest.fixture
def run(broker, capsys) -> Callable[..., tuple[int, str, str]]:
    """Run oc2ctl here: exit code, output, errors (less the warning about TLS)."""

    def call(line: str | list[str], port: int = broker.port) -> tuple[int, str, str]:
        words = line.split() if isinstance(line, str) else line
        code = main([*words, "--broker", f"127.0.0.1:{port}", "--no-tls"])
        out, err = capsys.readouterr()
        wait_until(lambda: not [t for t in threading.enumerate() if t.name == "oc2d-dial"])
        lines = [line for line in err.splitlines() if "no TLS" not in line]
        return code, out, "\n".join(lines)

    return call


DENY = "deny ipv4_net 203.0.113.0/24 --device fw-7"


@pytest.mark.req("LANG-88", "LANG-41", "MQTT-28")
def test_a_response_is_printed_and_ends_the_run(broker, consumer, run) -> None:
    fake = consumer(broker.port, answering(OK))
    began = time.monotonic()
    assert run(f"{DENY} --from soc --to fw-7") == (0, "fw-7  200  rule_number=999\n", "")
    assert time.monotonic() - began < 3
    (request,) = fake.requests
    assert fake.got[0].topic == "oc2/cmd/device/fw-7"
    assert request["headers"]["from"] == "soc"
    assert request["headers"]["to"] == ["fw-7"]
    assert request["body"]["openc2"]["request"] == {
        "action": "deny",
        "target": {"ipv4_net": "203.0.113.0/24"},
        "args": {"response_requested": "complete"},
    }


@pytest.mark.parametrize(
    ("responses", "options", "code", "out", "err"),
    [
        ((BAD,), "", 1, "fw-7  501  Option not supported\n", ""),
        ((WAIT, OK), "", 0, "fw-7  102\nfw-7  200  rule_number=999\n", ""),
        ((WAIT, OK), "--response ack", 0, "fw-7  102\n", ""),
        ((WAIT, OK), "--response status", 0, "fw-7  102\nfw-7  200  rule_number=999\n", ""),
        ((BAD,), "--response ack", 1, "fw-7  501  Option not supported\n", ""),
        ((WAIT,), "--timeout 0.3", 1, "fw-7  102\n", "accepted, not finished within 0.3 s"),
        ((), "--timeout 0.3", 1, "", "no response within 0.3 s"),
        ((OK,), "--timeout 0.3 --expect 2", 1, "fw-7  200  rule_number=999\n", "1 of 2"),
        ((), "--response none", 0, "", ""),
        (({"status": 200, "results": "x"},), "", 0, "fw-7  200  x\n", "results are no object"),
        (({"status": "200"},), "", 1, "fw-7  no status\n", "integer status"),
    ],
)
@pytest.mark.req("LANG-41", "LANG-42", "AMB-16", "AMB-18", "AMB-25")
def test_the_exit_status_comes_from_the_responses(
    broker, consumer, run, responses, options, code, out, err
) -> None:
    consumer(broker.port, answering(*responses))
    got = run(f"{DENY} {options}")
    assert got[:2] == (code, out.replace("  x\n", '  "x"\n'))
    assert err in got[2]
    assert bool(err) == bool(got[2])


@pytest.mark.req("MQTT-20", "MQTT-21", "AMB-3")
def test_a_response_on_both_topics_counts_once(broker, consumer, run) -> None:
    consumer(broker.port, answering(OK, topics=(RSP, "oc2/rsp/soc")))
    code, out, _ = run("query features --all --from soc --timeout 0.5")
    assert (code, out.count("fw-7")) == (0, 1)


@pytest.mark.req("LANG-41", "MQTT-40")
@pytest.mark.parametrize(("expect", "code"), [(2, 1), (1, 0)])
def test_one_consumer_that_answers_twice_is_not_two(broker, consumer, run, expect, code) -> None:
    """As after a redelivery: the response is repeated, with another `created`."""
    again = {**OK, "status_text": "again"}
    consumer(broker.port, answering(OK, again))
    got, _, err = run(f"query features --all --timeout 0.5 --expect {expect}")
    assert got == code
    assert ("1 of 2 responses" in err) is (code == 1)


@pytest.mark.req("MQTT-21")
def test_a_response_on_the_topic_of_the_producer_is_heard(broker, consumer, run) -> None:
    consumer(broker.port, answering(OK, topics=("oc2/rsp/soc",)))
    assert run(f"{DENY} --from soc")[0] == 0


def test_responses_of_several_consumers_are_shown_and_one_failure_is_a_failure(
    broker, consumer, run
) -> None:
    consumer(broker.port, answering(OK, sender="a"), client_id="a")
    consumer(broker.port, answering(BAD, sender="b"), client_id="b")
    code, out, _ = run("query features --all --expect 2")
    assert code == 1
    assert sorted(out.splitlines()) == [
        "a  200  rule_number=999",
        "b  501  Option not supported",
    ]


@pytest.mark.req("LANG-2")
def test_responses_to_other_requests_and_noise_are_ignored(broker, consumer, run) -> None:
    def answer(request: dict[str, Any]):
        yield RSP, b"\xff"
        yield RSP, b"{}"
        yield RSP, request
        stranger = {"headers": {"request_id": "other", "from": "x"}}
        yield RSP, {**stranger, "body": {"openc2": {"response": BAD}}}
        yield from answering(OK)(request)

    consumer(broker.port, answer)
    assert run(DENY)[:2] == (0, "fw-7  200  rule_number=999\n")


@pytest.mark.req("AMB-14", "LANG-42")
def test_a_consumer_on_mqtt_3_is_understood_with_a_warning(broker, consumer, run) -> None:
    consumer(broker.port, answering(OK), protocol="3.1.1")
    code, out, err = run(DENY)
    assert (code, out) == (0, "fw-7  200  rule_number=999\n")
    assert "msgType is missing" in err


def test_json_output_is_one_object_a_response(broker, consumer, run) -> None:
    consumer(broker.port, answering(WAIT, OK))
    code, out, _ = run(f"{DENY} --json")
    first, second = map(json.loads, out.splitlines())
    assert code == 0
    assert (first["status"], second["status"]) == (102, 200)
    assert second["results"] == {"slpf": {"rule_number": 999}}
    assert second["topic"] == RSP


@pytest.mark.req("MQTT-22")
def test_namespace_and_forced_topics_are_used(broker, consumer, run) -> None:
    fake = consumer(broker.port, answering(OK, topics=("vpf/oc2/rsp",)), topic="#")
    assert run("query features --namespace vpf --profile slpf --expect 1")[0] == 0
    assert run("query features --namespace vpf --topic oc2/cmd --expect 1")[0] == 0
    topics = [message.topic for message in fake.got]
    assert [topic for topic in topics if "cmd" in topic] == ["vpf/oc2/cmd/ap/slpf", "oc2/cmd"]


@pytest.mark.req("MQTT-29", "MQTT-49")
def test_requests_go_out_at_qos_2_when_the_file_says_so(broker, consumer, run, tmp_path) -> None:
    fake = consumer(broker.port, answering(OK), qos=2)
    file = tmp_path / "oc2ctl.toml"
    file.write_text("[broker]\nqos = 2\n")
    assert run(f"{DENY} --config {file}")[0] == 0
    assert [message.token.qos for message in fake.got] == [2]


def test_a_broker_that_restarts_while_we_wait_loses_no_later_response(
    broker, consumer, run
) -> None:
    fake = consumer(broker.port, lambda _: ())

    def restart() -> None:
        wait_until(lambda: fake.got, what="the request has arrived")
        broker.stop()
        broker.start()
        again = "oc2/rsp/soc (QoS 2)"
        wait_until(lambda: broker.log.read_text().count(again) == 2, what="subscribed again")
        wait_until(lambda: fake.session.status().subscriptions, what="the Consumer is back")
        ((topic, message),) = answering(OK)(fake.requests[0])
        fake.session.send([Outgoing(1, topic, json.dumps(message).encode(), Encoding.JSON)])

    thread = threading.Thread(target=restart)
    thread.start()
    assert run(f"{DENY} --from soc --timeout 30")[0] == 0
    thread.join()


def test_a_file_is_sent_as_a_message_or_as_it_is(broker, consumer, run, tmp_path, monkeypatch):
    fake = consumer(broker.port, answering(OK, topics=("oc2/rsp/orch",)))
    file = tmp_path / "c.json"
    body = {"openc2": {"request": {"action": "query", "target": {"features": []}}}}
    message = {"headers": {"request_id": "uuid_1", "from": "orch"}, "body": body}
    file.write_text(json.dumps(message, indent=1))
    assert run(f"send {file} --device fw-7")[0] == 0
    assert run(f"send --raw {file} --device fw-7")[0] == 0
    assert fake.requests[0]["body"] == body
    assert fake.requests[0]["headers"]["created"]
    assert fake.got[1].payload == file.read_bytes()
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b'{"action": "dny"}')))
    code, _, err = run("send - --device fw-7")
    assert code == 2
    assert "missing target" in err
    assert run(f"send {tmp_path}/none --all")[0] == 2


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


@pytest.mark.req("LANG-74")
def test_mistakes_end_with_their_code_and_without_a_traceback(run, tmp_path, capsys) -> None:
    code, _, err = run("deny ipv4_net 1.2.3.400 --device x")
    assert code == 2
    assert err.startswith("oc2ctl: an IPv4 range like 192.0.2.0/24 expected, not '1.2.3.400' (at")
    code, _, err = run(["command", "scan", "file", "name=\udcff", "--all"])
    assert (code, err) == (2, "oc2ctl: the command line is not UTF-8 text")
    bad = tmp_path / "bad.toml"
    bad.write_text("[broker]\nprot = 1\n")
    assert main(["query", "features", "--all", "--config", str(bad)]) == 78
    prot, host = capsys.readouterr().err.splitlines()
    assert prot == "oc2ctl: broker.prot: unknown key; did you mean port?"
    assert host.startswith("oc2ctl: broker.host: is required: give --broker HOST")


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


def test_the_program_ends_at_once_and_on_interrupt(broker, consumer, tmp_path) -> None:
    consumer(broker.port, answering(OK))
    program = [
        sys.executable,
        "-c",
        "import sys; from oc2d.producer.cli import main; sys.exit(main())",
    ]
    link = ["--broker", f"127.0.0.1:{broker.port}", "--no-tls"]
    environment = {**os.environ, "HOME": str(tmp_path)}
    done = subprocess.run(
        [*program, *DENY.split(), *link],
        check=False,
        capture_output=True,
        timeout=20,
        env=environment,
    )
    assert (done.returncode, done.stdout) == (0, b"fw-7  200  rule_number=999\n")
    watch = subprocess.Popen(
        [*program, "watch", *link], stderr=subprocess.PIPE, stdout=subprocess.PIPE, env=environment
    )
    wait_until(lambda: "oc2/# (QoS 2)" in broker.log.read_text(), what="watch has subscribed")
    watch.send_signal(signal.SIGINT)
    _, err = watch.communicate(timeout=10)
    assert watch.returncode == 0
    assert b"Traceback" not in err


# -- for people


@pytest.fixture
def terminal(broker) -> Iterator[Callable[..., Terminal]]:
    """Run oc2ctl on a terminal."""
    made: list[Terminal] = []

    def start(line: str, **environment: str) -> Terminal:
        words = [*line.split(), "--broker", f"127.0.0.1:{broker.port}", "--no-tls"]
        program = "import sys; from oc2d.producer.cli import main; sys.exit(main())"
        made.append(Terminal(sys.executable, "-c", program, *words, **environment))
        return made[-1]

    yield start
    for one in made:
        one.close()


def plain(text: str) -> str:
    """What is left on the screen: without colours and erased lines."""
    text = re.sub(r"\x1b\[\d+m", "", text).replace("\r\n", "\n")
    return re.sub(r"[^\n]*\r\x1b\[K", "", text)


def test_on_a_terminal_replies_are_rows_in_colour_and_it_says_what_it_waits_for(
    broker, consumer, terminal
) -> None:
    consumer(broker.port, answering(OK))
    consumer(broker.port, answering(BAD, sender="a-longer-name"), client_id="other")
    shown = terminal("deny ipv4_net 203.0.113.0/24 --all --expect 3 --timeout 60")
    shown.until("501")
    shown.until("200")
    assert "oc2/cmd/all: waiting for 3 responses, 60 s at most" in shown.read()
    shown.process.send_signal(signal.SIGINT)
    assert shown.process.wait(10) == 1
    text = shown.read()
    assert "\x1b[32m200\x1b[0m" in text
    assert "\x1b[31m501\x1b[0m" in text
    rows = plain(text).splitlines()
    assert rows[1] == "FROM      STATUS"
    assert {row.split()[0] for row in rows[2:4]} == {"fw-7", "a-longer-name"}
    assert "2 responses: " in rows[4]
    assert "waiting" not in plain(text)


def test_without_colours_where_they_are_not_wanted(broker, consumer, terminal) -> None:
    consumer(broker.port, answering(OK))
    shown = terminal(DENY, NO_COLOR="1")
    shown.until("rule_number=999")
    assert shown.process.wait(10) == 0
    assert not re.search(r"\x1b\[\d*m", shown.read())


@pytest.mark.parametrize(
    ("options", "path"),
    [
        ("--username soc --password-file {}/none", "broker.password_file"),
        ("--ca-file {}/none", "broker.ca_file"),
    ],
)
def test_a_secret_or_tls_file_that_cannot_be_read_is_a_wrong_configuration(
    tmp_path, capsys, options, path
) -> None:
    words = f"{DENY} --broker 127.0.0.1:1 {options.format(tmp_path)}".split()
    assert main(words) == 78
    assert f"oc2ctl: {path}: cannot read {tmp_path}/none" in capsys.readouterr().err
