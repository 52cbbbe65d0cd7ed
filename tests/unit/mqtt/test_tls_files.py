from __future__ import annotations

import ssl

import pytest

from oc2d.config import Broker
from oc2d.errors import ConfigError
from oc2d.mqtt.settings import TlsSettings
from oc2d.mqtt.tls import make_context, tls_problems


def problems(**files):
    found = tls_problems(Broker(host="h", port=8883, **files))
    return [(problem.path, problem.message) for problem in found]


@pytest.mark.req("MQTT-58", "MQTT-59", "MQTT-60", "MQTT-61", "AMB-11")
def test_the_context_has_a_minimum_and_no_maximum_and_verifies():
    context = make_context(TlsSettings())
    assert context.minimum_version is ssl.TLSVersion.TLSv1_2
    assert context.maximum_version is ssl.TLSVersion.MAXIMUM_SUPPORTED
    assert context.check_hostname
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.options & ssl.OP_NO_COMPRESSION
    assert context.options & ssl.OP_NO_RENEGOTIATION


@pytest.mark.req("MQTT-62", "MQTT-64")
def test_every_suite_of_tls_1_2_is_ephemeral_authenticated_and_aead():
    for suite in make_context(TlsSettings()).get_ciphers():
        if suite["protocol"] != "TLSv1.3":
            assert suite["name"].startswith(("ECDHE-ECDSA", "ECDHE-RSA", "DHE-RSA"))
            assert suite["aead"]
            assert suite["auth"] in {"auth-ecdsa", "auth-rsa"}


@pytest.mark.req("MQTT-67")
def test_good_files_are_no_problem(certificates, tmp_path):
    password = tmp_path / "password"
    password.write_text(certificates.key_password)
    assert problems() == []
    assert problems(tls=False, ca_file=tmp_path / "absent") == []
    assert (
        problems(
            ca_file=certificates.ca,
            crl_file=certificates.crl("none"),
            cert_file=certificates.cert("client"),
            key_file=certificates.client_locked_key,
            key_password_file=str(password),
        )
        == []
    )
    both = tmp_path / "both.pem"
    both.write_bytes(
        certificates.cert("client").read_bytes() + certificates.key("client").read_bytes()
    )
    assert problems(ca_file=certificates.ca, cert_file=both) == []


@pytest.mark.req("MQTT-67")
def test_every_problem_is_found_at_once_with_its_place(tmp_path):
    rubbish = tmp_path / "rubbish"
    rubbish.write_text("no certificate")
    found = problems(
        ca_file=tmp_path / "absent",
        crl_file=rubbish,
        cert_file=tmp_path / "absent.crt",
        key_file=tmp_path / "absent.key",
        key_password_file=str(tmp_path / "absent.password"),
    )
    assert [path for path, _ in found] == [
        "broker.ca_file",
        "broker.crl_file",
        "broker.cert_file",
        "broker.key_file",
        "broker.key_password_file",
    ]
    with pytest.raises(ConfigError):
        make_context(TlsSettings(ca_file=rubbish))


@pytest.mark.req("MQTT-67")
def test_the_key_must_fit_the_certificate_and_its_password(certificates, tmp_path):
    wrong = tmp_path / "wrong"
    wrong.write_text("battery staple")
    cert = certificates.cert("client")
    cases = [
        ({"key_file": certificates.key("server")}, "broker.key_file", "does not belong"),
        ({"key_file": certificates.client_locked_key}, "broker.key_password_file", "is encrypted"),
        (
            {"key_file": certificates.client_locked_key, "key_password_file": str(wrong)},
            "broker.key_password_file",
            "does not open",
        ),
        ({}, "broker.cert_file", "broker.key_file is not set"),
        ({"key_file": wrong}, "broker.cert_file", "no usable"),
    ]
    for files, path, told in cases:
        ((where, message),) = problems(ca_file=certificates.ca, cert_file=cert, **files)
        assert where == path
        assert told in message
        assert "battery" not in message
    ((where, message),) = problems(ca_file=certificates.ca, key_file=certificates.key("client"))
    assert (where, message) == ("broker.key_file", "needs broker.cert_file as well")


@pytest.mark.req("MQTT-61")
def test_a_certificate_is_no_revocation_list(certificates):
    ((path, message),) = problems(ca_file=certificates.ca, crl_file=certificates.ca)
    assert path == "broker.crl_file"
    assert "no revocation list" in message
