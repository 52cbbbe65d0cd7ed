"""What several parts of the suite need: a real broker, certificates, waiting."""

from __future__ import annotations

import datetime as dt
import ipaddress
import logging
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from structlog import reset_defaults  # itself: `logs.keep` puts another in its place

from oc2d.testing import Broker, NoBroker, free_port

__all__ = ["Broker", "Certificates", "free_port"]

KEY_PASSWORD = "correct horse"

# What a shell starts in the background ignores SIGINT, and so would all that is started here.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def own_log() -> Iterator[None]:
    """Leave the log as it was to the next test: this one configures it."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    reset_defaults()


@pytest.fixture
def make_broker(tmp_path: Path) -> Iterator[Callable[..., Broker]]:
    """A function that starts a Broker; its arguments are those of the class after the directory."""
    brokers: list[Broker] = []

    def make(*options: str, persistent: bool = False) -> Broker:
        directory = tmp_path / f"broker{len(brokers)}"
        brokers.append(Broker(directory, *options, persistent=persistent))
        try:
            return brokers[-1].start()
        except NoBroker as none:
            pytest.skip(str(none))

    yield make
    for broker in brokers:
        broker.kill()


@pytest.fixture
def broker(make_broker: Callable[..., Broker]) -> Broker:
    """A plain broker: no TLS, everybody may do everything."""
    return make_broker()


@dataclass(frozen=True)
class Certificates:
    """Files of a small certificate authority; `key_password` opens `client_locked_key`."""

    directory: Path
    key_password: str = KEY_PASSWORD

    @property
    def ca(self) -> Path:
        return self.directory / "ca.crt"

    def cert(self, name: str) -> Path:
        return self.directory / f"{name}.crt"

    def key(self, name: str) -> Path:
        return self.directory / f"{name}.key"

    def mutual(self, name: str) -> tuple[str, ...]:
        """Configure a broker that shows this certificate and wants one of the other side."""
        return (
            f"cafile {self.ca}",
            f"certfile {self.cert(name)}",
            f"keyfile {self.key(name)}",
            "require_certificate true",
            "use_identity_as_username true",
        )

    @property
    def client_locked_key(self) -> Path:
        return self.directory / "client.locked.key"

    def crl(self, name: str) -> Path:
        """What is revoked; where nothing is said of it, nothing is.

        `none`; `server`: that one's certificate; `between`: that authority, and nothing by it;
        `old`: as was known until yesterday; `other`: by `other_ca`.
        """
        return self.directory / f"{name}.crl"


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    """Certificates: `ca`, `server` (localhost, 127.0.0.1), `elsewhere` (another name), `client`,
    `expired`, `early`, `rsa` (a server's too), `between` (an authority below `ca`) and `below` it
    (with the chain), `other_ca` and `stranger` (localhost, signed by it)."""
    made = Certificates(tmp_path_factory.mktemp("certificates"))
    authority = _issue(made, "ca", None, ())
    _issue(made, "server", authority, ("localhost", "127.0.0.1"))
    _issue(made, "elsewhere", authority, ("broker.example.org",))
    key, _ = _issue(made, "client", authority, ())
    own = ("localhost", "127.0.0.1")
    other = _issue(made, "other_ca", None, ())
    _issue(made, "stranger", other, own)
    _issue(made, "expired", authority, own, days=(-9, -1))
    _issue(made, "early", authority, own, days=(1, 9))
    _issue(made, "rsa", authority, own, rsa_key=True)
    between = _issue(made, "between", authority, (), is_authority=True)
    _issue(made, "below", between, own)
    chain = [made.cert(name).read_bytes() for name in ("below", "between")]
    made.cert("below").write_bytes(b"".join(chain))
    made.client_locked_key.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(KEY_PASSWORD.encode()),
        )
    )
    server = x509.load_pem_x509_certificate(made.cert("server").read_bytes())
    made.crl("none").write_bytes(_revoke(authority))
    made.crl("server").write_bytes(_revoke(authority, server.serial_number))
    serial = between[1].serial_number
    made.crl("between").write_bytes(_revoke(authority, serial) + _revoke(between))
    made.crl("old").write_bytes(_revoke(authority, until=-1))
    made.crl("other").write_bytes(_revoke(other))
    return made


_Identity = tuple[Any, x509.Certificate]


def _issue(
    made: Certificates,
    name: str,
    authority: _Identity | None,
    hosts: tuple[str, ...],
    *,
    days: tuple[float, float] = (-0.1, 1),
    is_authority: bool = False,
    rsa_key: bool = False,
) -> _Identity:
    now = dt.datetime.now(dt.timezone.utc)
    is_authority = is_authority or authority is None
    key: Any = rsa.generate_private_key(65537, 2048) if rsa_key else None
    key = key or ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    issuer = subject if authority is None else authority[1].subject
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + dt.timedelta(days=days[0]))
        .not_valid_after(now + dt.timedelta(days=days[1]))
        .add_extension(x509.BasicConstraints(ca=is_authority, path_length=None), critical=True)
    )
    if not is_authority:
        usages = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
        builder = builder.add_extension(x509.ExtendedKeyUsage(usages), critical=False)
    if hosts:
        names = [_general_name(host) for host in hosts]
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    certificate = builder.sign(key if authority is None else authority[0], hashes.SHA256())
    made.cert(name).write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    made.key(name).write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return key, certificate


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _revoke(authority: _Identity, *serials: int, until: float = 1) -> bytes:
    now = dt.datetime.now(dt.timezone.utc)
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(authority[1].subject)
        .last_update(now - dt.timedelta(days=2))
        .next_update(now + dt.timedelta(days=until))
    )
    for serial in serials:
        entry = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(now).build()
        builder = builder.add_revoked_certificate(entry)
    return builder.sign(authority[0], hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
