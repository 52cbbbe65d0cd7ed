"""`oc2d check`: what it refuses, what it warns of, and that it changes nothing."""

from __future__ import annotations

import datetime as dt
import shutil

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from oc2d.config import Broker
from oc2d.mqtt.expiry import ends, expiry_problems

CONFIG = 'device_id = "fw-7"\n[broker]\nhost = "127.0.0.1"\n'
X_LOG = "[actuators.x-log]\n"


def test_check_warns_when_no_actuator_could_carry_out_anything(oc2d, write):
    done = oc2d("check", "--config", write(CONFIG))
    assert (done.returncode, done.stdout) == (0, "configuration OK\n")
    assert done.stderr == (
        "oc2d: warning: actuators: none is on, so no command can be carried out\n"
    )


def test_check_reports_every_mistake_of_every_kind_and_ends_with_78(oc2d, write, tmp_path):
    done = oc2d(
        "check",
        "--config",
        write(
            """
keep_alive = 3
device_id = "a/b"
[broker]
host = "h"
ca_file = "gone.pem"
username = "u"
password_file = "./secret"
[policy]
order = ["x-nobody"]
[actuators.x-lok]
[actuators.x-log]
profiles = ["acme"]
color = "red"
"""
        ),
    )
    assert done.returncode == 78
    assert done.stdout == ""
    *lines, last = done.stderr.splitlines()
    assert last == f"oc2d: the configuration is {tmp_path}/oc2d.toml"
    assert [line.split(": ")[:2] for line in lines] == [
        ["oc2d", "keep_alive"],
        ["oc2d", "device_id"],
        ["oc2d", "actuators.x-lok"],
        ["oc2d", "actuators.x-log.color"],
        ["oc2d", "actuators.x-log.profiles"],
        ["oc2d", "policy.order"],
        ["oc2d", "broker.password_file"],
        ["oc2d", "broker.ca_file"],
    ]
    assert [entry.name for entry in tmp_path.iterdir() if entry.is_file()] == ["oc2d.toml"]


def test_check_changes_nothing(oc2d, write, tmp_path):
    state = f'[state]\ndirectory = "{tmp_path}/state"\nruntime_directory = "{tmp_path}/run"\n'
    assert oc2d("check", "--config", write(CONFIG + state + X_LOG)).returncode == 0
    assert not (tmp_path / "state").exists()
    assert not (tmp_path / "run").exists()


@pytest.mark.req("MQTT-57", "MQTT-66")
def test_check_warns_of_a_link_without_protection(oc2d, write):
    done = oc2d("check", "--config", write(CONFIG + "tls = false\n"))
    assert done.returncode == 0
    assert "oc2d: warning: broker.tls: no TLS" in done.stderr
    done = oc2d("check", "--config", write(CONFIG + 'tls_verify = false\nprotocol = "3.1.1"\n'))
    assert "warning: broker.tls_verify" in done.stderr
    assert "warning: broker.protocol" in done.stderr


@pytest.mark.req("MQTT-68")
def test_check_warns_of_secrets_that_everybody_can_read(oc2d, write, tmp_path):
    path = write(CONFIG + 'username = "u"\npassword_file = "./secret"\n' + X_LOG)
    secret = tmp_path / "secret"
    secret.write_text("hunter2\n")
    secret.chmod(0o644)
    done = oc2d("check", "--config", path)
    assert f"warning: broker.password_file: everybody on this host can read {secret}" in done.stderr
    assert done.returncode == 0
    secret.chmod(0o640)
    assert oc2d("check", "--config", path).stderr == ""


def test_a_credential_of_the_service_is_not_missed_by_hand(oc2d, write, tmp_path):
    path = write(CONFIG + 'username = "u"\npassword_file = "broker-password"\n' + X_LOG)
    done = oc2d("check", "--config", path)
    assert done.returncode == 0
    assert "only the service has the credential 'broker-password'" in done.stderr
    kept = tmp_path / "credentials"
    kept.mkdir()
    done = oc2d("check", "--config", path)
    assert done.returncode == 0
    assert f"there is no {kept}/broker-password, where the service has it from" in done.stderr
    (kept / "broker-password").write_text("\n")
    done = oc2d("check", "--config", path)
    assert (done.returncode, "broker-password is empty" in done.stderr) == (78, True)
    (kept / "broker-password").write_text("hunter2\n")
    assert oc2d("check", "--config", path).stderr == ""
    by_path = CONFIG + f'username = "u"\npassword_file = "{kept}/broker-password"\n' + X_LOG
    done = oc2d("check", "--config", write(by_path))
    assert done.returncode == 0
    assert f"the service cannot read {kept}/broker-password: it has it as" in done.stderr
    path = write(CONFIG + 'username = "u"\npassword_file = "broker-password"\n' + X_LOG)
    service = {"CREDENTIALS_DIRECTORY": str(tmp_path)}
    assert oc2d("check", "--config", path, env=service).returncode == 78
    (tmp_path / "broker-password").write_text("hunter2\n")
    done = oc2d("check", "--config", path, env=service)
    assert (done.returncode, done.stderr) == (0, "")


def test_what_is_not_required_is_only_warned_of(oc2d, write):
    done = oc2d("check", "--config", write(CONFIG + "[actuators.x-gone]\nrequired = false\n"))
    assert done.returncode == 0
    assert "oc2d: warning: actuators.x-gone: no plugin serves this profile" in done.stderr


# -- what it says of the link


def test_check_warns_of_a_broker_without_an_address(oc2d, write):
    done = oc2d("check", "--config", write(CONFIG.replace("127.0.0.1", "a..b") + X_LOG))
    assert (done.returncode, done.stdout) == (0, "configuration OK\n")
    assert done.stderr.startswith("oc2d: warning: broker.host: a..b has no address here: ")


@pytest.fixture
def link(tmp_path, certificates):
    """A configuration whose files, copies, may be replaced."""
    for name in ("ca.crt", "client.crt", "client.key", "server.key"):
        shutil.copy(certificates.directory / name, tmp_path / name)
    return CONFIG + (
        'ca_file = "ca.crt"\ncert_file = "client.crt"\nkey_file = "client.key"\n' + X_LOG
    )


def certificate_until(end, key):
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "fw-7")])
    builder = (
        x509.CertificateBuilder(name, name, key.public_key(), 7, end - dt.timedelta(days=1), end)
        # longer than the short form of DER
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("x" * 60)] * 9), critical=False)
    )
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


@pytest.mark.parametrize(
    ("days", "words"),
    [
        (-1, "ended on {}: the broker and we refuse each other; replace it"),
        (20.5, "ends on {}, in 20 days: replace it, then reload (SIGHUP)"),
        (40, None),
        (40 * 365, None),  # written in another form from 2050 on
    ],
)
def test_check_warns_of_certificates_that_end_soon_or_are_over(
    oc2d, write, link, tmp_path, days, words
):
    end = dt.datetime.now(dt.timezone.utc).replace(microsecond=0) + dt.timedelta(days=days)
    key = serialization.load_pem_private_key((tmp_path / "client.key").read_bytes(), None)
    (tmp_path / "client.crt").write_bytes(certificate_until(end, key))
    config = Broker(host="h", port=1, cert_file=tmp_path / "client.crt")
    assert ends(config) == {"broker.cert_file": end}
    done = oc2d("check", "--config", write(link))
    said = [line for line in done.stderr.splitlines() if "cert_file" in line]
    when = f"{end:%Y-%m-%d %H:%M} UTC"
    wanted = [f"oc2d: warning: broker.cert_file: {words.format(when)}"] if words else []
    assert (done.returncode, said) == (0, wanted)
    assert "warning: broker.ca_file: ends on" in done.stderr


def test_of_several_authorities_the_last_to_end_counts_and_of_our_chain_the_first(tmp_path):
    now = dt.datetime.now(dt.timezone.utc).replace(microsecond=0)
    key = ec.generate_private_key(ec.SECP256R1())
    both = [now + dt.timedelta(days=days) for days in (3, 300)]
    (tmp_path / "two.pem").write_bytes(b"".join(certificate_until(end, key) for end in both))
    config = Broker(host="h", port=1, ca_file=tmp_path / "two.pem", cert_file=tmp_path / "two.pem")
    assert ends(config) == {"broker.ca_file": both[1], "broker.cert_file": both[0]}


def test_the_end_of_a_revocation_list_is_known(certificates):
    config = Broker(host="h", port=1, crl_file=certificates.crl("none"))
    (crl,) = [x509.load_pem_x509_crl(certificates.crl("none").read_bytes())]
    (end,) = ends(config).values()
    assert end == crl.next_update_utc
    assert list(expiry_problems(config, end - dt.timedelta(minutes=1))) == []
    (problem,) = expiry_problems(config, end)
    assert problem.path == "broker.crl_file"


@pytest.mark.parametrize(
    "content", [b"", b"\xff", b"-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----"]
)
def test_a_file_without_a_date_in_it_has_no_end(tmp_path, content):
    (tmp_path / "odd").write_bytes(content)
    assert ends(Broker(host="h", port=1, ca_file=tmp_path / "odd")) == {}
    assert ends(Broker(host="h", port=1, ca_file=tmp_path / "none")) == {}


def test_a_key_of_another_certificate_is_an_error(oc2d, write, link):
    done = oc2d("check", "--config", write(link.replace("client.key", "server.key")))
    assert done.returncode == 78
    assert "broker.key_file" in done.stderr
    assert "does not belong to" in done.stderr
