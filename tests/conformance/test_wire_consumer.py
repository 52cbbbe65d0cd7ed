"""oc2d as the broker sees it: the very bytes of a running daemon, recorded on the way."""

from __future__ import annotations

import shutil
import signal
import ssl
import struct

import pytest
from cryptography import x509

from tests.conformance.conftest import message_of
from tests.consumer import deny, query
from tests.peer import PINGRESP, Peer, connack, packet, short, string
from tests.producer import properties
from tests.waiting import wait_until

DRY = {"backend": "dry-run"}
SESSION_EXPIRY, RECEIVE_MAXIMUM, MAXIMUM_PACKET_SIZE, SERVER_KEEP_ALIVE = 0x11, 0x21, 0x27, 0x13
FILTERS = ("oc2/cmd/all", "oc2/cmd/ap/slpf", "oc2/cmd/ap/x-log", "oc2/cmd/device/zulu")


@pytest.fixture(scope="module")
def host(make_broker_host):
    return make_broker_host(isolated=False)


@pytest.fixture
def daemon(host, tmp_path):
    """A function that makes a Consumer `zulu` that reaches the broker by the way of `port`."""
    made = []

    def make(port, **broker):
        given = {"host": "127.0.0.1", "port": port, **broker}
        consumer = host.consumer(
            f"zulu{tmp_path.name}{len(made)}",
            top={"device_id": "zulu"},
            broker=given,
            actuators_slpf=DRY,
            **{"actuators_x-log": {}},
        )
        made.append(consumer)
        return consumer

    yield make
    for consumer in made:
        consumer.close()


def connect_body(client_id, keep_alive, session_expiry, receive_maximum, packet_size):
    """CONNECT as it must be: MQTT 5, no flag set, nothing after the client id."""
    offered = (
        bytes([SESSION_EXPIRY]) + struct.pack("!I", session_expiry),
        bytes([RECEIVE_MAXIMUM]) + short(receive_maximum),
        bytes([MAXIMUM_PACKET_SIZE]) + struct.pack("!I", packet_size),
    )
    length = bytes([len(b"".join(offered))])
    head = string("MQTT") + b"\x05\x00" + short(keep_alive) + length
    return head + b"".join(offered) + string(client_id)


def subscribe_body(seen, filters):
    """SUBSCRIBE as it must be: Maximum QoS 2, No Local, Retain As Published, no other option."""
    return short(seen.packet_id) + b"\0" + b"".join(string(text) + b"\x0e" for text in filters)


@pytest.mark.req(
    "MQTT-1", "MQTT-2", "MQTT-3", "MQTT-4", "MQTT-5", "MQTT-6", "MQTT-7", "MQTT-8", "MQTT-9",
    "MQTT-14", "MQTT-16", "MQTT-17", "MQTT-18", "MQTT-19", "MQTT-24", "MQTT-47", "MQTT-48", "AMB-9",
    "AMB-5",
)  # fmt: skip
def test_the_first_connection_and_every_later_one_begin_with_the_same_bytes(host, record, daemon):
    recorder = record(host.broker.port)
    zulu = daemon(recorder.port, keep_alive=77, session_expiry=4711).start()
    client_id = (zulu.directory / "state" / "client-id").read_text().strip()
    assert client_id.isalnum()
    assert len(client_id) == 23
    recorder.cut()
    recorder.connection(1).wait("SUBSCRIBE")
    zulu.until_subscribed()
    zulu.restart()
    for number in range(3):
        seen = recorder.connection(number)
        subscribe = seen.wait("SUBSCRIBE")
        assert seen.names[:2] == ["CONNECT", "SUBSCRIBE"]
        assert seen.sent[0].flags == 0
        assert seen.sent[0].body == connect_body(client_id, 77, 4711, 1000, 1 << 20)
        assert subscribe.flags == 2
        assert subscribe.body == subscribe_body(subscribe, FILTERS)
        assert seen.got[0].body[0] == (number > 0)  # the broker still had our session


@pytest.mark.req(
    "MQTT-23", "MQTT-28", "MQTT-29", "MQTT-30", "MQTT-31", "MQTT-32", "MQTT-33", "MQTT-34",
    "MQTT-35", "MQTT-36", "MQTT-38", "MQTT-39", "MQTT-42", "MQTT-43", "MQTT-45", "MQTT-54",
    "MQTT-53", "LANG-1", "LANG-4", "LANG-7", "LANG-8", "LANG-38", "LANG-40", "LANG-87", "SLPF-8",
    "SLPF-35", "AMB-42", "AMB-49", "AMB-52",
)  # fmt: skip
@pytest.mark.parametrize("form", ["json", "cbor", "cbor-concise"])
@pytest.mark.parametrize("qos", [1, 2])
def test_a_response_is_published_with_these_fields_and_no_others(host, record, daemon, form, qos):
    recorder = record(host.broker.port)
    daemon(recorder.port, qos=qos).start()
    soc = host.producer()
    number = soc.ask(
        deny("203.0.113.0/24"),
        request_id="Frage-Ä",
        encoding=form,
        CorrelationData=b"\x00\xff",
        ResponseTopic="x/y",
    ).number
    seen = recorder.connection(0)
    publish = seen.wait("PUBLISH")
    seen.wait("PUBREL" if qos == 2 else "PUBLISH")
    correlation = b"\x09" + short(2) + b"\x00\xff"
    assert message_of(publish, "oc2/rsp", "rsp", form, qos, correlation) == {
        "headers": {"request_id": "Frage-Ä", "from": "zulu", "to": ["soc@example.com"]},
        "body": {
            "openc2": {"response": {"status": 200, "results": {"slpf": {"rule_number": number}}}}
        },
    }
    # the request was acknowledged, and before it was answered
    acknowledged = seen.names.index("PUBACK")
    assert acknowledged < seen.names.index("PUBLISH")
    request = next(one for one in seen.got if one.name == "PUBLISH")
    assert seen.sent[acknowledged].packet_id == request.packet_id
    assert {one.topic for one in seen.of("PUBLISH")} == {"oc2/rsp"}


@pytest.mark.req("MQTT-49", "MQTT-53", "MQTT-54")
def test_a_request_at_qos_2_is_acknowledged_in_both_steps(host, record, daemon):
    recorder = record(host.broker.port)
    daemon(recorder.port).start()
    soc = host.producer()
    assert soc.ask(query(), qos=2).status == 200
    seen = recorder.connection(0)
    pubcomp = seen.wait("PUBCOMP")
    request = next(one for one in seen.got if one.name == "PUBLISH")
    assert request.qos == 2
    for name in ("PUBREC", "PUBCOMP"):
        assert seen.of(name)[0].body == short(request.packet_id)
    assert pubcomp.packet_id == request.packet_id
    assert "PUBACK" not in seen.names


@pytest.mark.req("MQTT-5", "MQTT-52", "MQTT-53")
def test_an_idle_daemon_pings_at_95_percent_of_its_keep_alive(host, record, daemon):
    recorder = record(host.broker.port)
    daemon(recorder.port, keep_alive=2).start()
    seen = recorder.connection(0)
    seen.wait("PINGREQ", 2, timeout=5)
    subscribe, first, second = seen.of("SUBSCRIBE")[0], *seen.of("PINGREQ")[:2]
    assert 1.5 < first.at - subscribe.at <= 1.9
    assert 1.5 < second.at - first.at <= 1.9
    assert first.body == b""


@pytest.mark.req("MQTT-12", "MQTT-52")
def test_the_server_keep_alive_takes_the_place_of_the_daemons_own(daemon):
    peer = Peer()
    try:
        zulu = daemon(peer.port, keep_alive=300).launch()
        conn = peer.accept(20)
        assert conn.expect("CONNECT").keep_alive == 300
        conn.send(connack(properties=bytes([SERVER_KEEP_ALIVE]) + short(2)))
        subscribed = peer.grant(conn, b"\x02" * len(FILTERS)).at
        first = conn.expect("PINGREQ")
        assert 1.5 < first.at - subscribed <= 1.9
        conn.send(PINGRESP)
        assert 1.5 < conn.expect("PINGREQ").at - first.at <= 1.9
        zulu.signal(signal.SIGTERM)
        assert conn.expect("DISCONNECT").body == b""
    finally:
        peer.close()


@pytest.mark.req("MQTT-53", "MQTT-9")
def test_the_end_is_a_plain_disconnect_that_leaves_the_session_at_the_broker(host, record, daemon):
    recorder = record(host.broker.port)
    zulu = daemon(recorder.port).start()
    assert zulu.stop() == 0
    seen = recorder.connection(0)
    wait_until(lambda: seen.over)
    assert seen.sent[-1].name == "DISCONNECT"
    assert (seen.sent[-1].flags, seen.sent[-1].body) == (0, b"")


@pytest.mark.req("MQTT-13")
def test_a_broker_with_qos_0_only_is_told_why_it_is_left(daemon):
    peer = Peer()
    try:
        zulu = daemon(peer.port).launch()
        conn = peer.accept(20)
        conn.expect("CONNECT")
        conn.send(packet(0x20, b"\x00\x00\x02\x24\x00"))
        assert conn.expect("DISCONNECT").body == b"\x83"
        conn.close()
        wait_until(lambda: "QoS 0 only" in (zulu.told().get("link", {}).get("last_error") or ""))
    finally:
        peer.close()


@pytest.mark.req("MQTT-46", "MQTT-51", "MQTT-44", "LANG-28", "SLPF-3")
def test_nothing_at_all_is_published_where_silence_is_wanted(host, record, daemon):
    recorder = record(host.broker.port)
    zulu = daemon(recorder.port).start()
    soc = host.producer()
    soc.send(deny("10.0.0.1") | {"args": {"response_requested": "none"}})
    soc.send(deny("10.0.0.2"), headers={"to": ["other"]})
    soc.send(deny("10.0.0.3"), message_type="rsp")
    soc.send(deny("10.0.0.4"), "oc2/cmd/all", retain=True)
    soc.publish(b"", "oc2/cmd/all", properties=properties(), retain=True)  # and take it away again
    last = soc.ask(deny("10.0.0.5"), request_id="last")
    seen = recorder.connection(0)
    assert [one.packet_id for one in seen.of("PUBLISH")] == [seen.wait("PUBLISH").packet_id]
    assert last.payload in seen.of("PUBLISH")[0].body
    rules = sorted(rule["match"] for rule in zulu.rules().values())
    assert rules == ["ipv4_net 10.0.0.1/32", "ipv4_net 10.0.0.5/32"]


# -- TLS


def server_context(certificates):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates.cert("server"), certificates.key("server"))
    context.load_verify_locations(certificates.ca)
    context.verify_mode = ssl.CERT_REQUIRED
    return context


def serial(certificate):
    return x509.load_der_x509_certificate(certificate).serial_number


@pytest.mark.req("MQTT-67", "MQTT-68", "MQTT-14", "MQTT-9")
def test_sighup_shows_the_broker_the_new_certificate_and_keeps_the_session(
    host, record, daemon, certificates
):
    recorder = record(host.broker.port, server_context(certificates))
    zulu = daemon(
        recorder.port,
        host="localhost",
        tls=True,
        ca_file=str(certificates.ca),
        cert_file="own.crt",
        key_file="own.key",
        key_password_file="key-password",  # a credential of the service
    )
    credentials = zulu.directory / "credentials"
    credentials.mkdir()
    (credentials / "key-password").write_text("not needed yet\n")

    def own(name, key):
        shutil.copy(certificates.cert(name), zulu.directory / "own.crt")
        shutil.copy(key, zulu.directory / "own.key")

    own("rsa", certificates.key("rsa"))
    zulu.start(CREDENTIALS_DIRECTORY=str(credentials))
    soc = host.producer()
    number = soc.ask(deny("10.0.0.1")).number

    own("client", certificates.client_locked_key)
    zulu.signal(signal.SIGHUP)
    wait_until(lambda: zulu.entries("reload_refused"), what="a wrong password is found")
    assert zulu.entries("reload_refused")[0]["path"] == "broker.key_password_file"
    assert soc.ask(query()).status == 200
    assert len(recorder.connections) == 1  # the old link stands

    (credentials / "key-password").write_text(f"{certificates.key_password}\n")
    zulu.signal(signal.SIGHUP)
    recorder.connection(1).wait("SUBSCRIBE")
    zulu.until_subscribed()
    first, second = recorder.connections
    wanted = [
        x509.load_pem_x509_certificate(certificates.cert(name).read_bytes()).serial_number
        for name in ("rsa", "client")
    ]
    assert [serial(first.certificate), serial(second.certificate)] == wanted
    assert first.sent[-1].name == "DISCONNECT"
    assert second.sent[0].body == first.sent[0].body  # the same client id
    assert second.got[0].body[0] == 1  # Session Present
    assert list(zulu.rules()) == [number]
    assert soc.ask(query()).status == 200

    (credentials / "key-password").write_text(certificates.key_password)  # that file alone
    zulu.signal(signal.SIGHUP)
    recorder.connection(2).wait("SUBSCRIBE")
    log = zulu.log.read_text()
    assert certificates.key_password not in log
    assert "not needed yet" not in log
