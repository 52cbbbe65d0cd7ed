"""oc2ctl as the broker sees it: the very bytes of a run, recorded on the way."""

from __future__ import annotations

import json
import logging
import ssl
import threading
import uuid
from contextlib import closing, contextmanager

import pytest
import structlog

from oc2d.producer.cli import main
from tests.conformance.conftest import message_of
from tests.peer import PINGRESP, Peer, connack, publish, short, string
from tests.waiting import wait_until

SESSION_EXPIRY_0 = b"\x11\0\0\0\0"
SERVER_KEEP_ALIVE = 0x13
DENY = "deny ipv4_net 203.0.113.0/24 --device zulu"


@pytest.fixture(scope="module")
def host(make_broker_host):
    made = make_broker_host(isolated=False)
    made.consumer(actuators_slpf={"backend": "dry-run"}).start()
    return made


@pytest.fixture(autouse=True)
def quiet(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    yield
    structlog.reset_defaults()


@pytest.fixture
def oc2ctl(tmp_path, capsys):
    """Run oc2ctl with a file of these lines of `[broker]`: exit code, output, errors."""

    def run(line, port, *broker, tls=False):
        file = tmp_path / "oc2ctl.toml"
        head = ["[broker]", 'host = "127.0.0.1"', f"port = {port}", f"tls = {str(tls).lower()}"]
        file.write_text("\n".join([*head, *broker]) + "\n")
        code = main([*line.split(), "--config", str(file), "--from", "soc"])
        return code, *capsys.readouterr()

    return run


@pytest.mark.req(
    "MQTT-1", "MQTT-2", "MQTT-3", "MQTT-4", "MQTT-5", "MQTT-6", "MQTT-7", "MQTT-8", "MQTT-16",
    "MQTT-20", "MQTT-21", "MQTT-22", "MQTT-24", "MQTT-28", "MQTT-29", "MQTT-30", "MQTT-31",
    "MQTT-32", "MQTT-33", "MQTT-34", "MQTT-35", "MQTT-36", "MQTT-37", "MQTT-40", "MQTT-42",
    "MQTT-43", "MQTT-47", "MQTT-48", "MQTT-49", "MQTT-53", "LANG-1", "LANG-2", "LANG-3", "LANG-7",
    "LANG-8", "LANG-11", "SLPF-5", "SLPF-8", "SLPF-27", "AMB-9", "AMB-26", "AMB-49",
)  # fmt: skip
@pytest.mark.parametrize("form", ["json", "cbor", "cbor-concise"])
@pytest.mark.parametrize("qos", [1, 2])
def test_a_run_is_this_conversation_to_the_byte(host, record, oc2ctl, form, qos):
    recorder = record(host.broker.port)
    for _ in range(2):
        code, out, _ = oc2ctl(f"{DENY} --to zulu --encoding {form}", recorder.port, f"qos = {qos}")
        assert (code, out.split()[:2]) == (0, ["zulu", "200"])
    wait_until(lambda: all(seen.over for seen in recorder.connections))
    ids = set()
    for seen in recorder.connections:
        publishing = ["PUBLISH"] if qos == 1 else ["PUBLISH", "PUBREL"]
        # the response comes at the QoS of its own and is acknowledged before we leave
        assert seen.names[: 2 + len(publishing)] == ["CONNECT", "SUBSCRIBE", *publishing]
        assert seen.names[-2:] == ["PUBACK", "DISCONNECT"]
        assert seen.sent[-1].body == b""

        connect = seen.sent[0].body
        head = string("MQTT") + b"\x05\x00" + short(300)
        assert connect.startswith(head)
        length = connect[len(head)]
        offered, rest = connect[len(head) + 1 :][:length], connect[len(head) + 1 + length :]
        assert offered.startswith(SESSION_EXPIRY_0)
        client_id = rest[2:].decode()
        assert rest == string(client_id)  # and nothing after it
        assert len(client_id) == 23
        assert client_id.isalnum()
        assert client_id.isascii()
        ids.add(client_id)

        subscribe = seen.of("SUBSCRIBE")[0]
        filters = string("oc2/rsp") + b"\x0e" + string("oc2/rsp/soc") + b"\x0e"
        assert subscribe.body == short(subscribe.packet_id) + b"\0" + filters
        check_request(seen.of("PUBLISH"), form, qos)
    assert len(ids) == 2


def check_request(published, form, qos):
    (one,) = published
    message = message_of(one, "oc2/cmd/device/zulu", "req", form, qos)
    headers = message["headers"]
    assert uuid.UUID(headers.pop("request_id")).version == 4
    assert headers == {"from": "soc", "to": ["zulu"]}
    net = "203.0.113.0/24" if form == "json" else [bytes([203, 0, 113, 0]), 24]
    assert message["body"]["openc2"] == {
        "request": {
            "action": "deny",
            "target": {"ipv4_net": net},
            "args": {"response_requested": "complete"},
        }
    }


@pytest.mark.req("MQTT-10", "MQTT-57", "MQTT-61", "MQTT-67", "MQTT-68", "SLPF-7")
def test_a_certificate_and_a_password_of_the_file_are_shown_to_the_broker(
    host, record, oc2ctl, certificates, tmp_path
):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates.cert("server"), certificates.key("server"))
    context.load_verify_locations(certificates.ca)
    context.verify_mode = ssl.CERT_REQUIRED
    recorder = record(host.broker.port, context)
    for name, text in (("key", certificates.key_password), ("broker", "s3kret")):
        (tmp_path / name).write_text(f"{text}\n")
        (tmp_path / name).chmod(0o600)
    files = (
        f'ca_file = "{certificates.ca}"',
        f'cert_file = "{certificates.cert("client")}"',
        f'key_file = "{certificates.client_locked_key}"',
        'key_password_file = "./key"',
        'username = "me"',
        'password_file = "./broker"',
    )
    code, out, err = oc2ctl("query features --device zulu", recorder.port, *files, tls=True)
    assert (code, err) == (0, "")
    seen = recorder.connection(0)
    assert seen.certificate == ssl.PEM_cert_to_DER_cert(certificates.cert("client").read_text())
    assert seen.sent[0].body[7] == 0xC0
    assert seen.sent[0].body.endswith(string("me") + string("s3kret"))

    code, out, err = oc2ctl("query features --all", recorder.port, files[0], tls=True)
    assert (code, out) == (1, "")
    assert "wants a client certificate: set broker.cert_file" in err
    other = f'ca_file = "{certificates.cert("other_ca")}"'
    code, out, err = oc2ctl("query features --all", recorder.port, other, tls=True)
    assert (code, out) == (1, "")
    assert "broker.ca_file must hold the authority" in err
    assert "s3kret" not in err


@contextmanager
def asking(oc2ctl, words):
    """Run oc2ctl beside, at a peer; behind it the list has what it returned."""
    results = []
    with closing(Peer()) as peer:
        run = threading.Thread(target=lambda: results.append(oc2ctl(words, peer.port)))
        run.start()
        yield peer, results
        run.join(10)


@pytest.mark.req("MQTT-5", "MQTT-12", "MQTT-52")
def test_watch_pings_at_95_percent_of_the_keep_alive_that_the_broker_wants(oc2ctl):
    with asking(oc2ctl, "watch --expect 1 --timeout 20") as (peer, results):
        conn = peer.accept()
        assert conn.expect("CONNECT").keep_alive == 300
        conn.send(connack(properties=bytes([SERVER_KEEP_ALIVE]) + short(2)))
        subscribed = peer.grant(conn, b"\x02")
        assert subscribed.body[3:] == string("oc2/#") + b"\x0e"
        first = conn.expect("PINGREQ")
        assert 1.5 < first.at - subscribed.at <= 1.9
        conn.send(PINGRESP + publish("oc2/cmd/all", b"{}", packet_id=9))
        assert conn.expect("PUBACK").packet_id == 9
        assert conn.expect("DISCONNECT").body == b""
        conn.close()
    assert results[0][0] == 0


@pytest.mark.req("MQTT-5")
def test_a_keep_alive_beyond_300_seconds_is_refused_before_anything_is_sent(oc2ctl):
    code, _, err = oc2ctl("query features --all", 1, "keep_alive = 301")
    assert code == 78
    assert "broker.keep_alive" in err


@pytest.mark.req("MQTT-13")
def test_a_broker_with_qos_0_only_is_left(oc2ctl):
    with asking(oc2ctl, "query features --all") as (peer, results):
        conn = peer.accept()
        conn.expect("CONNECT")
        conn.send(connack(properties=b"\x24\x00"))
        assert conn.expect("DISCONNECT").body == b"\x83"
        conn.close()
    assert results[0][0] == 1
    assert "QoS 0 only" in results[0][2]


@pytest.mark.req("MQTT-12", "MQTT-26")
def test_a_request_larger_than_the_broker_takes_is_not_sent_and_told(oc2ctl):
    with asking(oc2ctl, DENY) as (peer, results):
        conn = peer.welcome(properties=b"\x27\x00\x00\x00\x40", codes=b"\x02\x02")
        assert conn.expect("DISCONNECT").body == b""
        conn.close()
    assert results[0][0] == 1
    assert "too large" in results[0][2]


@pytest.mark.req("MQTT-57", "MQTT-66", "SLPF-9", "LANG-46", "LANG-88")
def test_a_run_without_tls_warns_each_time_and_shows_what_the_consumer_can(host, oc2ctl):
    line = "query features versions profiles --device zulu"
    for _ in range(2):
        code, out, err = oc2ctl(line, host.broker.port)
        assert code == 0
        assert "1.0" in out
        assert "slpf" in out
        assert "no TLS, for tests only" in err


@pytest.mark.req("MQTT-36", "MQTT-37", "LANG-2")
def test_a_message_of_a_file_goes_out_with_what_it_must_have(host, record, oc2ctl, tmp_path):
    recorder = record(host.broker.port)
    file = tmp_path / "m.json"
    body = {"openc2": {"request": {"action": "query", "target": {"features": []}}}}
    file.write_text(json.dumps({"body": body}))
    assert oc2ctl(f"send {file} --device zulu", recorder.port)[0] == 0
    (one,) = recorder.connection(0).of("PUBLISH")
    message = json.loads(one.body[one.body.index(b"{") :])
    assert message["headers"].keys() == {"request_id", "created", "from"}
    assert message["headers"]["from"] == "soc"
