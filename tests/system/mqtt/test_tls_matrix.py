"""TLS against real servers, one property of theirs at a time: what stands, what is refused and why.

The messages are what a person has to work with: they say what is wrong and which key mends it.
"""

from __future__ import annotations

import re

import pytest
import structlog
from structlog.testing import capture_logs

from oc2d.mqtt import events
from oc2d.mqtt.settings import TlsSettings
from oc2d.producer.cli import main
from tests.waiting import wait_until

WEAK = "ALL:COMPLEMENTOFALL:@SECLEVEL=0"

EC = (
    "ECDHE-ECDSA-AES128-GCM-SHA256",
    "ECDHE-ECDSA-AES256-GCM-SHA384",
    "ECDHE-ECDSA-CHACHA20-POLY1305",
    "ECDHE-ECDSA-AES128-CCM",
)
RSA = (
    "ECDHE-RSA-AES128-GCM-SHA256",
    "ECDHE-RSA-AES256-GCM-SHA384",
    "ECDHE-RSA-CHACHA20-POLY1305",
    "DHE-RSA-AES128-GCM-SHA256",
    "DHE-RSA-CHACHA20-POLY1305",
    "DHE-RSA-AES256-CCM",
)
FORBIDDEN = {
    "CBC, ephemeral": ("server", "ECDHE-ECDSA-AES128-SHA256:ECDHE-ECDSA-AES256-SHA"),
    "CBC, ephemeral, RSA": ("rsa", "ECDHE-RSA-AES128-SHA256:ECDHE-RSA-AES256-SHA384"),
    "CBC, finite field": ("rsa", "DHE-RSA-AES128-SHA256:DHE-RSA-AES256-SHA"),
    "AEAD, key transport": ("rsa", "AES128-GCM-SHA256:AES256-GCM-SHA384:AES128-CCM"),
    "CBC, key transport": ("rsa", "AES128-SHA:AES256-SHA256"),
    "no encryption": ("rsa", "eNULL:@SECLEVEL=0"),
    "no authentication": ("server", "aNULL:!eNULL:@SECLEVEL=0"),
}


@pytest.mark.req("MQTT-58", "MQTT-59")
@pytest.mark.parametrize("version", ["-tls1_2", "-tls1_3"])
@pytest.mark.parametrize("cert", ["server", "rsa"])
def test_tls_1_2_and_1_3_work(handshake, s_server, certificates, version, cert):
    assert handshake(s_server(version, cert=cert), TlsSettings(ca_file=certificates.ca)) == ""


@pytest.mark.req("MQTT-58", "MQTT-62", "MQTT-64")
@pytest.mark.parametrize("suite", [*EC, *RSA])
def test_every_kind_of_suite_that_is_allowed_works(handshake, s_server, certificates, suite):
    port = s_server("-tls1_2", "-cipher", suite, cert="server" if suite in EC else "rsa")
    assert handshake(port, TlsSettings(ca_file=certificates.ca)) == ""


@pytest.mark.req("MQTT-62", "MQTT-64")
@pytest.mark.parametrize("kind", FORBIDDEN)
def test_no_suite_of_a_forbidden_kind_works(handshake, s_server, certificates, kind):
    cert, suites = FORBIDDEN[kind]
    # unverified, so that nothing but the suite is in the way
    for tls in (TlsSettings(ca_file=certificates.ca), TlsSettings(verify=False)):
        error = handshake(s_server("-tls1_2", "-cipher", suites, cert=cert), tls)
        assert "no cipher suite in common: TLS 1.2 needs one with (EC)DHE and AEAD" in error


@pytest.mark.req("MQTT-60")
@pytest.mark.parametrize("version", ["-tls1_1", "-tls1"])
def test_older_versions_are_refused(handshake, s_server, certificates, version):
    for tls in (TlsSettings(ca_file=certificates.ca), TlsSettings(verify=False)):
        error = handshake(s_server(version, "-cipher", WEAK), tls)
        assert "has no TLS 1.2 or newer" in error


@pytest.mark.req("MQTT-61", "MQTT-62")
@pytest.mark.parametrize(
    ("cert", "host", "what", "advice"),
    [
        ("elsewhere", "localhost", "Hostname mismatch", "broker.host must be a name"),
        ("elsewhere", "127.0.0.1", "IP address mismatch", "broker.host must be an address"),
        ("stranger", "localhost", "unable to get local issuer", "broker.ca_file must hold"),
        ("expired", "localhost", "certificate has expired", "renew it at the broker"),
        ("early", "localhost", "certificate is not yet valid", "set the clock"),
    ],
)
def test_a_certificate_that_proves_nothing_is_refused(
    handshake, s_server, certificates, cert, host, what, advice
):
    port = s_server(cert=cert)
    error = handshake(port, TlsSettings(ca_file=certificates.ca), host)
    assert error.startswith(f"127.0.0.1:{port}: the broker's certificate is not accepted: ")
    assert what in error
    assert advice in error
    assert handshake(port, TlsSettings(verify=False), host) == ""


@pytest.mark.req("MQTT-61")
def test_the_authorities_of_the_system_do_not_know_ours(handshake, s_server):
    assert "broker.ca_file must hold" in handshake(s_server(), TlsSettings())


@pytest.mark.req("MQTT-61")
@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
def test_a_name_and_an_address_of_the_certificate_are_accepted(
    handshake, s_server, certificates, host
):
    assert handshake(s_server(), TlsSettings(ca_file=certificates.ca), host) == ""


@pytest.mark.req("MQTT-61", "MQTT-62")
@pytest.mark.parametrize(
    ("cert", "crl", "what", "advice"),
    [
        ("server", "none", "", ""),
        ("server", "server", "certificate revoked", "its authority has revoked it"),
        ("rsa", "server", "", ""),
        ("below", "between", "certificate revoked", "its authority has revoked it"),
        ("below", "none", "unable to get certificate CRL", "holds no list of the authority"),
        ("server", "other", "unable to get certificate CRL", "holds no list of the authority"),
        ("server", "old", "CRL has expired", "fetch a new one"),
    ],
)
def test_a_revoked_certificate_is_refused_wherever_it_is_in_the_chain(
    handshake, s_server, certificates, cert, crl, what, advice
):
    tls = TlsSettings(ca_file=certificates.ca, crl_file=certificates.crl(crl))
    error = handshake(s_server(cert=cert), tls)
    assert bool(error) == bool(what)
    assert what in error
    assert advice in error


def test_a_chain_is_followed_to_an_authority_that_we_know(handshake, s_server, certificates):
    assert handshake(s_server(cert="below"), TlsSettings(ca_file=certificates.ca)) == ""


@pytest.mark.req("MQTT-67")
def test_unverified_tls_is_possible_and_loud(handshake, s_server):
    with capture_logs() as logs:
        assert handshake(s_server(cert="stranger"), TlsSettings(verify=False)) == ""
    assert any(log["event"] == events.NO_VERIFY for log in logs)


def client(certificates, cert="client", key=None):
    return TlsSettings(
        ca_file=certificates.ca,
        cert_file=certificates.cert(cert),
        key_file=key or certificates.key(cert),
        key_password=lambda: certificates.key_password,
    )


@pytest.mark.req("MQTT-67")
@pytest.mark.parametrize("version", ["-tls1_2", "-tls1_3"])
def test_a_server_that_wants_a_client_certificate_gets_it(
    handshake, s_server, certificates, version
):
    port = s_server(version, "-Verify", "1", "-verify_return_error", "-CAfile", certificates.ca)
    assert handshake(port, client(certificates)) == ""
    assert handshake(port, client(certificates, key=certificates.client_locked_key)) == ""
    missing = handshake(port, TlsSettings(ca_file=certificates.ca))
    assert "wants a client certificate: set broker.cert_file" in missing
    for cert in ("stranger", "expired"):
        refused = handshake(port, client(certificates, cert))
        assert "does not accept our client certificate: see broker.cert_file" in refused


@pytest.mark.req("MQTT-67")
@pytest.mark.parametrize(
    ("key", "password", "what"),
    [
        ("server", None, "broker.key_file: .* does not belong to .*client.crt"),
        ("client.locked", None, "broker.key_password_file: .* is encrypted: name the file"),
        ("client.locked", "wrong", "broker.key_password_file: the password does not open"),
    ],
)
def test_a_key_that_cannot_be_used_is_told_and_nothing_is_sent(
    start, peer, certificates, key, password, what
):
    tls = TlsSettings(
        ca_file=certificates.ca,
        cert_file=certificates.cert("client"),
        key_file=certificates.key(key),
        key_password=lambda: password,
    )
    session, _ = start(peer.port, tls=tls)
    wait_until(lambda: session.status().last_error)
    with pytest.raises(TimeoutError):
        peer.accept(0.1)
    assert re.search(what, session.status().last_error)


@pytest.mark.parametrize(("alpn", "stands"), [("mqtt", True), (None, True), ("h2", False)])
def test_the_protocol_is_named_in_the_handshake_where_it_is_configured(
    handshake, s_server, certificates, alpn, stands
):
    error = handshake(s_server("-alpn", "mqtt"), TlsSettings(ca_file=certificates.ca, alpn=alpn))
    assert bool(error) != stands
    assert stands or "does not know the protocol that broker.alpn names" in error


@pytest.mark.req("MQTT-57")
@pytest.mark.parametrize("greeting", [b"SSH-2.0-x\r\n", b"HTTP/1.1 400 Bad Request\r\n\r\n"])
def test_a_server_that_speaks_no_tls_is_told_from_one_that_does(
    start, peer, certificates, greeting
):
    session, _ = start(peer.port, tls=TlsSettings(ca_file=certificates.ca))
    conn = peer.accept()
    conn.send(greeting)
    wait_until(lambda: session.status().last_error)
    assert "no TLS is spoken there: see broker.port" in session.status().last_error


@pytest.mark.req("MQTT-57")
def test_tls_to_a_plain_broker_fails_and_sends_nothing_in_the_clear(
    handshake, broker, certificates
):
    error = handshake(broker.port, TlsSettings(ca_file=certificates.ca))
    assert "no TLS is spoken there: see broker.port" in error
    assert "as consumer" not in broker.log.read_text()


@pytest.mark.req("MQTT-67")
@pytest.mark.parametrize("version", ["tlsv1.2", "tlsv1.3"])
def test_mosquitto_wants_our_certificate_and_says_what_it_thinks_of_it(
    start, make_broker, certificates, version
):
    broker = make_broker(*certificates.mutual("rsa"), f"tls_version {version}")

    def connect(tls):
        session, _ = start(broker.port, host="localhost", tls=tls)
        wait_until(lambda: session.status().healthy or session.status().last_error)
        return session.status()

    assert connect(client(certificates)).healthy
    assert "u'client'" in broker.log.read_text()
    missing = connect(TlsSettings(ca_file=certificates.ca))
    assert "wants a client certificate: set broker.cert_file" in missing.last_error
    assert not missing.connected
    assert "see broker.cert_file" in connect(client(certificates, "stranger")).last_error


@pytest.mark.req("MQTT-58", "MQTT-59", "MQTT-60", "MQTT-61", "MQTT-62", "MQTT-64")
@pytest.mark.parametrize(
    ("cert", "options", "said"),
    [
        ("server", ("-tls1_2",), "in time"),  # s_server speaks no MQTT: TLS stood
        ("server", ("-tls1_3",), "in time"),
        ("server", ("-tls1_1", "-cipher", WEAK), "has no TLS 1.2 or newer"),
        ("server", ("-tls1_2", "-cipher", "ECDHE-ECDSA-AES128-SHA256"), "no cipher suite"),
        ("rsa", ("-tls1_2", "-cipher", "AES128-GCM-SHA256"), "no cipher suite in common"),
        ("server", ("-tls1_2", "-cipher", "aNULL:@SECLEVEL=0"), "no cipher suite in common"),
        ("elsewhere", (), "broker.host must be an address that is in it"),
        ("expired", (), "renew it at the broker"),
        ("stranger", (), "broker.ca_file must hold the authority that issued it"),
    ],
)
def test_oc2ctl_holds_to_the_same_and_says_so(
    s_server, certificates, capsys, monkeypatch, tmp_path, cert, options, said
):
    monkeypatch.setenv("HOME", str(tmp_path))
    port = s_server(*options, cert=cert)
    link = ["--broker", f"127.0.0.1:{port}", "--ca-file", str(certificates.ca)]
    assert main(["query", "features", "--all", "--timeout", "0.5", *link]) == 1
    structlog.reset_defaults()
    out, err = capsys.readouterr()
    assert out == ""
    assert said in err
