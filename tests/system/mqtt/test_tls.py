"""TLS as Appendix B of the transfer specification wants it, against real handshakes."""

from __future__ import annotations

import contextlib
import shutil
import socket
import ssl
import struct
import subprocess
import time

import pytest
from structlog.testing import capture_logs

from oc2d.mqtt import events
from oc2d.mqtt.settings import TlsSettings
from tests.conftest import free_port
from tests.waiting import wait_until

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


@pytest.fixture
def s_server(certificates):
    """Start `openssl s_server` with options; returns its port."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    running = []

    def serve(*options, cert="server"):
        port = free_port()
        command = ["openssl", "s_server", "-accept", f"127.0.0.1:{port}", "-quiet"]
        command += ["-cert", certificates.cert(cert), "-key", certificates.key(cert), *options]
        running.append(
            subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
        )
        deadline = time.monotonic() + 5
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
                return port
            time.sleep(0.01)
        return pytest.fail("openssl s_server did not start")

    yield serve
    for process in running:
        process.kill()
        process.communicate()


def handshake(start, port, tls, host="localhost"):
    """The session and whether TLS stood (then it waits for CONNACK)."""
    session, _ = start(port, host=host, tls=tls, answer_timeout=0.2)
    wait_until(lambda: session.status().last_error)
    error = session.status().last_error
    return "" if "CONNACK" in error or "closed the connection" in error else error


@pytest.mark.req("MQTT-58", "MQTT-59")
@pytest.mark.parametrize(
    "options",
    [("-tls1_2",), ("-tls1_3",), ("-tls1_2", "-cipher", "ECDHE-ECDSA-CHACHA20-POLY1305")],
)
def test_tls_1_2_and_1_3_work(start, s_server, certificates, options):
    assert handshake(start, s_server(*options), TlsSettings(ca_file=certificates.ca)) == ""


@pytest.mark.req("MQTT-60", "MQTT-62", "MQTT-64")
@pytest.mark.parametrize(
    "options",
    [
        ("-tls1_1", "-cipher", "ALL:@SECLEVEL=0"),
        ("-tls1", "-cipher", "ALL:@SECLEVEL=0"),
        ("-tls1_2", "-cipher", "ECDHE-ECDSA-AES128-SHA256"),
        ("-tls1_2", "-cipher", "aNULL:@SECLEVEL=0"),
    ],
)
def test_old_versions_and_weak_suites_are_refused(start, s_server, certificates, options):
    error = handshake(start, s_server(*options), TlsSettings(ca_file=certificates.ca))
    assert "TLS failed" in error


@pytest.mark.req("MQTT-61", "MQTT-62")
@pytest.mark.parametrize(
    ("cert", "settings"),
    [
        ("elsewhere", {}),
        ("stranger", {}),
        ("server", {"ca_file": None}),
        ("server", {"crl_file": "crl_server"}),
    ],
)
def test_a_certificate_that_proves_nothing_is_refused(
    start, s_server, certificates, cert, settings
):
    given = {name: value and getattr(certificates, value) for name, value in settings.items()}
    tls = TlsSettings(**{"ca_file": certificates.ca, **given})
    assert "certificate is not accepted" in handshake(start, s_server(cert=cert), tls)


@pytest.mark.req("MQTT-61")
def test_a_certificate_that_is_not_revoked_is_accepted(start, s_server, certificates):
    tls = TlsSettings(ca_file=certificates.ca, crl_file=certificates.crl_none)
    assert handshake(start, s_server(), tls) == ""


@pytest.mark.req("MQTT-61")
def test_an_address_as_host_is_checked_too(start, s_server, certificates):
    tls = TlsSettings(ca_file=certificates.ca)
    assert handshake(start, s_server(), tls, host="127.0.0.1") == ""
    assert "certificate is not" in handshake(start, s_server(cert="elsewhere"), tls, "127.0.0.1")


@pytest.mark.req("MQTT-67")
def test_unverified_tls_is_possible_and_loud(start, s_server):
    with capture_logs() as logs:
        assert handshake(start, s_server(cert="stranger"), TlsSettings(verify=False)) == ""
    assert any(log["event"] == events.NO_VERIFY for log in logs)


@pytest.mark.req("MQTT-57")
def test_tls_to_a_plain_broker_fails(start, broker, certificates):
    error = handshake(start, broker.port, TlsSettings(ca_file=certificates.ca))
    assert error


def test_a_peer_that_does_not_answer_the_handshake_is_left_in_time(peer, start, certificates):
    session, _ = start(peer.port, tls=TlsSettings(ca_file=certificates.ca), connect_timeout=0.2)
    peer.accept()
    peer.accept()
    assert "in time" in session.status().last_error


@pytest.fixture
def tls_broker(make_broker, certificates):
    return make_broker(
        f"cafile {certificates.ca}",
        f"certfile {certificates.cert('server')}",
        f"keyfile {certificates.key('server')}",
        "require_certificate true",
        "use_identity_as_username true",
    )


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


@pytest.mark.req("MQTT-67")
def test_a_missing_client_certificate_is_an_error_not_a_hang(start, tls_broker, certificates):
    session, _ = start(tls_broker.port, host="localhost", tls=TlsSettings(ca_file=certificates.ca))
    wait_until(lambda: session.status().last_error)
    assert "certificate required" in session.status().last_error.lower().replace("_", " ")
    assert not session.status().connected


def test_large_messages_pass_over_tls_both_ways(tls_broker, certificates, exchange):
    tls = TlsSettings(
        ca_file=certificates.ca,
        cert_file=certificates.cert("client"),
        key_file=certificates.key("client"),
    )
    exchange(tls_broker.port, 8, payload=b"x" * 700_000, tls=tls, host="localhost")


def test_no_session_of_python_could_send_early_data():
    assert not [name for name in dir(ssl.SSLSocket) if "early" in name]
