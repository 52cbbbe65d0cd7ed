"""TLS as Appendix B of the transfer specification wants it, against real handshakes."""

from __future__ import annotations

import ssl
import struct

import pytest

from oc2d.mqtt.settings import TlsSettings

EARLY_DATA = 42
SUPPORTED_VERSIONS = 43
COMPRESSION_NULL = b"\x01\x00"

#: The TLS 1.2 suites with (EC)DHE and AEAD: all that RFC 7540 Appendix A does not list.
ALLOWED_12 = {
    0xC02B, 0xC02C, 0xC02F, 0xC030, 0xCCA8, 0xCCA9, 0xCCAA, 0x009E, 0x009F,
    0xC0AC, 0xC0AD, 0xC0AE, 0xC0AF, 0xC09E, 0xC09F, 0xC0A2, 0xC0A3,
}  # fmt: skip
ALLOWED_13 = {0x1301, 0x1302, 0x1303, 0x1304, 0x1305}
SIGNALLING = {0x00FF}  # TLS_EMPTY_RENEGOTIATION_INFO_SCSV, not a suite


def client_hello(peer, start, certificates):
    start(peer.port, tls=TlsSettings(ca_file=certificates.ca))
    conn = peer.accept()
    head = conn._exactly(5)
    return conn._exactly(struct.unpack("!H", head[3:])[0])


@pytest.mark.req(
    "MQTT-58", "MQTT-59", "MQTT-60", "MQTT-61", "MQTT-62", "MQTT-64", "MQTT-65", "AMB-11"
)
def test_the_client_hello_offers_only_what_is_allowed(peer, start, certificates):
    hello = client_hello(peer, start, certificates)
    at = 4 + 2 + 32
    at += 1 + hello[at]
    size = struct.unpack_from("!H", hello, at)[0]
    suites = set(struct.unpack_from(f"!{size // 2}H", hello, at + 2))
    at += 2 + size
    assert hello[at : at + 2] == COMPRESSION_NULL
    at += 4
    extensions = {}
    while at < len(hello):
        kind, size = struct.unpack_from("!HH", hello, at)
        extensions[kind] = hello[at + 4 : at + 4 + size]
        at += 4 + size
    assert suites - SIGNALLING <= ALLOWED_12 | ALLOWED_13
    assert suites & ALLOWED_12
    assert suites & ALLOWED_13
    assert extensions[SUPPORTED_VERSIONS] == b"\x04\x03\x04\x03\x03"
    assert EARLY_DATA not in extensions
    assert b"127.0.0.1" not in extensions.get(0, b"")


def test_a_peer_that_does_not_answer_the_handshake_is_left_in_time(peer, start, certificates):
    session, _ = start(peer.port, tls=TlsSettings(ca_file=certificates.ca), connect_timeout=0.2)
    peer.accept()
    peer.accept()
    assert "in time" in session.status().last_error


@pytest.fixture
def tls_broker(make_broker, certificates):
    return make_broker(*certificates.mutual("server"))


@pytest.mark.req("MQTT-67", "SLPF-7")
def test_commands_and_responses_pass_over_mutual_tls_with_an_encrypted_key(
    tls_broker, certificates, exchange
):
    tls = TlsSettings(
        ca_file=certificates.ca,
        cert_file=certificates.cert("client"),
        key_file=certificates.client_locked_key,
        key_password=lambda: certificates.key_password,
    )
    exchange(tls_broker.port, 300, tls=tls, host="localhost")


def test_large_messages_pass_over_tls_both_ways(tls_broker, certificates, exchange):
    tls = TlsSettings(
        ca_file=certificates.ca,
        cert_file=certificates.cert("client"),
        key_file=certificates.key("client"),
    )
    exchange(tls_broker.port, 8, payload=b"x" * 700_000, tls=tls, host="localhost")


def test_no_session_of_python_could_send_early_data():
    assert not [name for name in dir(ssl.SSLSocket) if "early" in name]
