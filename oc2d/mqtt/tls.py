"""The TLS context of a link, and everything that is wrong with its files (MQTT-57 to 67).

What is offered: TLS 1.2 and newer; under 1.2 only suites with (EC)DHE and AEAD, which are all
that RFC 7540 Appendix A leaves; every suite of 1.3. No compression, no renegotiation, no 0-RTT
(Python's ssl has none).
"""

from __future__ import annotations

import ssl
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from oc2d.config import Broker
from oc2d.errors import ConfigError, Problem
from oc2d.mqtt.settings import TlsSettings, read_secret, tls_settings

__all__ = ["CIPHERS", "link_problems", "make_context", "tls_problems"]

#: In OpenSSL's words; it does not touch the suites of TLS 1.3.
CIPHERS: Final = (
    "ECDHE+AESGCM:ECDHE+CHACHA20:DHE+AESGCM:DHE+CHACHA20:ECDHE+AESCCM:DHE+AESCCM"
    ":!aNULL:!PSK:!SRP:!kRSA:!aDSS"
)


def make_context(tls: TlsSettings) -> ssl.SSLContext:
    """Build the context. Raises ConfigError with every problem of the files."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # verifies, checks the name, no maximum
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(CIPHERS)
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
    if tls.alpn is not None:
        context.set_alpn_protocols([tls.alpn])
    problems = [
        problem for step in (_trust, _revocation, _identity) for problem in step(context, tls)
    ]
    if problems:
        raise ConfigError(tuple(problems))
    return context


def link_problems(broker: Broker) -> Iterator[Problem]:
    """Find every problem of the secret and TLS files that `[broker]` names, without connecting."""
    if broker.password_file is not None:
        try:
            read_secret(broker.password_file, "broker.password_file")
        except ConfigError as error:
            yield from error.problems
    yield from tls_problems(broker)


def tls_problems(broker: Broker) -> tuple[Problem, ...]:
    """Find every problem of the TLS files that `[broker]` names, without connecting."""
    tls = tls_settings(broker)
    if tls is None:
        return ()
    try:
        make_context(tls)
    except ConfigError as error:
        return error.problems
    return ()


def _trust(context: ssl.SSLContext, tls: TlsSettings) -> list[Problem]:
    problems = []
    if tls.ca_file is not None:
        problems = _load(
            "broker.ca_file",
            tls.ca_file,
            "no certificate in PEM form in it",
            context.load_verify_locations,
        )
    elif tls.verify:
        context.load_default_certs()
    if not tls.verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return problems


def _revocation(context: ssl.SSLContext, tls: TlsSettings) -> list[Problem]:
    if tls.crl_file is None:
        return []
    known = context.cert_store_stats()["crl"]
    problems = _load(
        "broker.crl_file",
        tls.crl_file,
        "no revocation list in PEM form in it",
        context.load_verify_locations,
    )
    if not problems and context.cert_store_stats()["crl"] == known:
        problems = [Problem("broker.crl_file", f"{tls.crl_file}: no revocation list in it")]
    context.verify_flags |= ssl.VERIFY_CRL_CHECK_CHAIN
    return problems


def _identity(context: ssl.SSLContext, tls: TlsSettings) -> list[Problem]:
    cert, key = tls.cert_file, tls.key_file
    if cert is None:
        return [] if key is None else [Problem("broker.key_file", "needs broker.cert_file as well")]
    problems = [
        *_unreadable("broker.cert_file", cert),
        *(_unreadable("broker.key_file", key) if key is not None else ()),
    ]
    try:
        password = tls.key_password()
    except ConfigError as error:
        return [*problems, *error.problems]
    if problems:
        return problems
    asked = False

    def answer() -> str:  # always given, else OpenSSL asks on the terminal
        nonlocal asked
        asked = True
        return password or ""

    try:
        context.load_cert_chain(cert, key, answer)
    except (ssl.SSLError, ValueError, OSError) as error:
        return [_identity_problem(error, tls, asked=asked, password=password)]
    return []


def _identity_problem(
    error: Exception, tls: TlsSettings, *, asked: bool, password: str | None
) -> Problem:
    reason = getattr(error, "reason", None) or ""
    if reason == "KEY_VALUES_MISMATCH":
        return Problem(
            "broker.key_file", f"{tls.key_file or tls.cert_file} does not belong to {tls.cert_file}"
        )
    key = tls.key_file or tls.cert_file
    if asked and password is None:
        return Problem(
            "broker.key_password_file", f"{key} is encrypted: name the file of its password"
        )
    if asked:
        return Problem("broker.key_password_file", f"the password does not open {key}")
    return Problem(
        "broker.cert_file",
        f"no usable certificate and private key in PEM form in {tls.cert_file}"
        + (f" and {tls.key_file}" if tls.key_file else ": broker.key_file is not set"),
    )


def _unreadable(path: str, file: Path) -> list[Problem]:
    return _load(path, file, "", lambda name: name.read_bytes())


def _load(path: str, file: Path, hint: str, load: Callable[[Path], object]) -> list[Problem]:
    try:
        load(file)
    except ssl.SSLError:
        return [Problem(path, f"{file}: {hint}")]
    except OSError as error:
        return [Problem(path, f"cannot read {file}: {error.strerror}")]
    return []
