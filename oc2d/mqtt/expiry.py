"""Until when the certificates and revocation lists of a link are good.

Python's ssl tells the dates of authorities only, and a library for X.509 would be a dependency of
some megabytes: here are the few fields of DER that lead to a date (RFC 5280, 4.1 and 5.1).
"""

from __future__ import annotations

import datetime as dt
import re
import ssl
from collections.abc import Iterator
from pathlib import Path

from oc2d.config import Broker
from oc2d.errors import Problem

__all__ = ["ends", "expiry_problems"]

_SOON = dt.timedelta(days=30)
_LISTS = "broker.crl_file"  # short-lived by nature: only their end is news
_PEM = re.compile(r"-----BEGIN (CERTIFICATE|X509 CRL)-----(.+?)-----END \1-----", re.DOTALL)
_LONG_FORM = 0x80
_INTEGER, _UTC_TIME, _GENERALIZED_TIME, _VERSION = 0x02, 0x17, 0x18, 0xA0


def ends(broker: Broker) -> dict[str, dt.datetime]:
    """Return by TOML path when each file that `[broker]` names is over, as far as it can be read.

    Of our own chain and of revocation lists the first to end counts, of authorities the last.
    """
    found = {}
    for path, file, choose in (
        ("broker.ca_file", broker.ca_file, max),
        ("broker.cert_file", broker.cert_file, min),
        (_LISTS, broker.crl_file, min),
    ):
        if broker.tls and file is not None and (times := _times(file)):
            found[path] = choose(times)
    return found


def expiry_problems(broker: Broker, now: dt.datetime) -> Iterator[Problem]:
    """Tell which are over, and which will be within 30 days; `now` has a time zone."""
    for path, end in ends(broker).items():
        when = f"{end:%Y-%m-%d %H:%M} UTC"
        if end <= now:
            yield Problem(path, f"ended on {when}: the broker and we refuse each other; replace it")
        elif path != _LISTS and end - now < _SOON:
            days = (end - now).days
            yield Problem(path, f"ends on {when}, in {days} days: replace it, then reload (SIGHUP)")


def _times(file: Path) -> list[dt.datetime]:
    """Read a PEM file; what is wrong with it is for `oc2d.mqtt.tls` to say."""
    try:
        text = file.read_text("ascii", errors="replace")
        return [end for match in _PEM.finditer(text) if (end := _end(*match.groups()))]
    except (OSError, ValueError, IndexError):
        return []


def _end(kind: str, body: str) -> dt.datetime | None:
    der = ssl.PEM_cert_to_DER_cert(f"{ssl.PEM_HEADER}{body}{ssl.PEM_FOOTER}")
    (_, signed), *_ = _items(der)
    (_, inner), *_ = _items(signed)
    # version (optional), serial number (certificates only), algorithm, issuer, then the dates
    items = [item for item in _items(inner) if item[0] not in (_VERSION, _INTEGER)]
    dates = _items(items[2][1]) if kind == "CERTIFICATE" else iter(items[2:4])
    times = [_time(tag, value) for tag, value in dates if tag in (_UTC_TIME, _GENERALIZED_TIME)]
    return times[1] if len(times) > 1 else None


def _items(der: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield tag and content of each element."""
    at = 0
    while at < len(der):
        tag, length = der[at], der[at + 1]
        at += 2
        if length >= _LONG_FORM:
            more = length - _LONG_FORM
            length = int.from_bytes(der[at : at + more], "big")
            at += more
        yield tag, der[at : at + length]
        at += length


def _time(tag: int, value: bytes) -> dt.datetime:
    """Read `YYMMDDHHMMSSZ` (from 1950 to 2049) or `YYYYMMDDHHMMSSZ`."""
    text = value.decode("ascii").removesuffix("Z")
    if tag == _UTC_TIME:
        text = ("20" if text < "50" else "19") + text
    return dt.datetime.strptime(f"{text}+0000", "%Y%m%d%H%M%S%z")
