"""What a failed TLS handshake means for the person who has to mend it."""

from __future__ import annotations

import re
import ssl
from collections.abc import Mapping
from typing import Final

__all__ = ["tls_failure"]

_TEXT: Final = re.compile(r"\[.*?\] (.+?) \(_ssl")

_CLOCK: Final = "renew it at the broker, or set the clock of this host"
_AUTHORITY: Final = "broker.ca_file must hold the authority that issued it"

#: By OpenSSL's X509_V_ERR number.
_CERTIFICATE: Final[Mapping[int, str]] = {
    3: "broker.crl_file holds no list of the authority that issued it",
    9: _CLOCK,
    10: _CLOCK,
    12: "broker.crl_file holds an outdated list: fetch a new one",
    18: _AUTHORITY,
    19: _AUTHORITY,
    20: _AUTHORITY,
    21: _AUTHORITY,
    23: "its authority has revoked it: do not trust this broker until it has a new one",
    62: "broker.host must be a name that is in it",
    64: "broker.host must be an address that is in it",
}

_NO_TLS: Final = "no TLS is spoken there: see broker.port"
_OLD: Final = "the broker has no TLS 1.2 or newer, and older versions are not allowed"
_NOT_US: Final = "the broker does not accept our client certificate: see broker.cert_file"
_NOTHING: Final = (
    "no cipher suite in common: TLS 1.2 needs one with (EC)DHE and AEAD at the broker; or it wants "
    "a client certificate: set broker.cert_file"
)

#: By the reason in OpenSSL's words.
_REASONS: Final[Mapping[str, str]] = {
    "HTTP_REQUEST": _NO_TLS,
    "PACKET_LENGTH_TOO_LONG": _NO_TLS,
    "RECORD_LAYER_FAILURE": _NO_TLS,
    "WRONG_VERSION_NUMBER": _NO_TLS,
    "TLSV1_ALERT_PROTOCOL_VERSION": _OLD,
    "UNSUPPORTED_PROTOCOL": _OLD,
    "INSUFFICIENT_SECURITY": _NOTHING,
    "NO_CIPHERS_AVAILABLE": _NOTHING,
    "SSLV3_ALERT_HANDSHAKE_FAILURE": _NOTHING,
    "TLSV1_ALERT_INSUFFICIENT_SECURITY": _NOTHING,
    "TLSV13_ALERT_CERTIFICATE_REQUIRED": (
        "the broker wants a client certificate: set broker.cert_file and broker.key_file"
    ),
    "SSLV3_ALERT_BAD_CERTIFICATE": _NOT_US,
    "SSLV3_ALERT_CERTIFICATE_EXPIRED": _NOT_US,
    "SSLV3_ALERT_CERTIFICATE_REVOKED": _NOT_US,
    "SSLV3_ALERT_CERTIFICATE_UNKNOWN": _NOT_US,
    "SSLV3_ALERT_UNSUPPORTED_CERTIFICATE": _NOT_US,
    "TLSV1_ALERT_ACCESS_DENIED": _NOT_US,
    "TLSV1_ALERT_DECRYPT_ERROR": _NOT_US,
    "TLSV1_ALERT_UNKNOWN_CA": _NOT_US,
    "TLSV1_ALERT_NO_APPLICATION_PROTOCOL": (
        "the broker does not know the protocol that broker.alpn names"
    ),
    "UNEXPECTED_EOF_WHILE_READING": _NO_TLS,
}


def tls_failure(error: ssl.SSLError) -> str:
    """Word the error: what OpenSSL found, and what to do about it."""
    if isinstance(error, ssl.SSLCertVerificationError):
        what = f"the broker's certificate is not accepted: {error.verify_message.rstrip('.')}"
        advice = _CERTIFICATE.get(error.verify_code)
    else:
        reason = error.reason or _reason(str(error))
        what, advice = f"TLS failed: {reason}", _REASONS.get(reason)
    return what if advice is None else f"{what} ({advice})"


def _reason(text: str) -> str:
    """Make of a text the reason that Python has no name for."""
    found = _TEXT.search(text)
    return found[1].upper().replace(" ", "_") if found else text
