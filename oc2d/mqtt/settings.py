"""What a link needs to know, as a Consumer's configuration or a Producer's options say it."""

from __future__ import annotations

import os
import re
import secrets
import string
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import structlog

from oc2d.config import Broker, Config
from oc2d.errors import ConfigError, Problem, StateError
from oc2d.mqtt import events, topics

__all__ = [
    "LARGEST_PACKET",
    "PASSWORD_VARIABLE",
    "Backoff",
    "LinkSettings",
    "Secret",
    "TlsSettings",
    "broker_link",
    "consumer_link",
    "load_client_id",
    "make_client_id",
    "read_secret",
    "secret_file",
    "tls_settings",
    "warn_of",
]

#: The password of the broker account, when no file names it (MQTT-68).
PASSWORD_VARIABLE = "OC2D_BROKER_PASSWORD"  # noqa: S105  the name of a variable, not a password

#: Reads a secret anew for each connection, so that a changed file counts at the next one.
Secret = Callable[[], "str | None"]

_log = structlog.get_logger("oc2d.mqtt")
_CLIENT_ID = re.compile(r"[0-9A-Za-z]{1,23}")
_CLIENT_ID_LENGTH = 23
_ALPHABET = string.digits + string.ascii_letters
_SMALLEST_PACKET_LIMIT = 1 << 20
#: Bytes behind the fixed header (MQTT 5.0, 2.1.4).
LARGEST_PACKET = 268_435_455
_WRITE_IT = (
    "; write /etc/oc2d/credentials/{}, where the unit has it from, then restart: "
    "systemd reads it at the start only"
)


def _no_secret() -> None:
    return None


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsSettings:
    """How to trust the broker and to show who we are (MQTT-57 to 67)."""

    ca_file: Path | None = None
    cert_file: Path | None = None
    key_file: Path | None = None
    key_password: Secret = _no_secret
    crl_file: Path | None = None
    verify: bool = True
    alpn: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Backoff:
    """Waiting between attempts: full jitter up to `first`, doubling up to `most` seconds.

    Only a connection that stood for `stable` seconds starts it over: two clients that take over
    each other's session connect successfully each time.
    """

    first: float = 1.0
    most: float = 60.0
    stable: float = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkSettings:
    """One link to one broker. Times are seconds, sizes bytes; `subscriptions` are whole filters.

    `device_id` and `namespace` tell what came in on what; a Producer leaves `device_id` empty.
    `maximum_packet_size` is what the broker is asked not to exceed. `connect_timeout` is for each
    address; `answer_timeout` is how long CONNACK, SUBACK and PINGRESP may
    take; `retry_after` when to publish again what the broker had no room for; `resubscribe_after`
    when to ask again for topics that it refused.
    """

    host: str
    port: int
    client_id: str
    tls: TlsSettings | None = None
    username: str | None = None
    password: Secret = _no_secret
    keep_alive: int = 300
    session_expiry: int = 86400
    protocol: Literal["5", "3.1.1"] = "5"
    qos: Literal[1, 2] = 1
    message_type: Literal["rsp", "req"] = "rsp"
    receive_maximum: int = 1000
    maximum_packet_size: int = _SMALLEST_PACKET_LIMIT
    subscriptions: tuple[str, ...] = ()
    namespace: str = ""
    device_id: str = ""
    backoff: Backoff = Backoff()
    connect_timeout: float = 10.0
    answer_timeout: float = 20.0
    retry_after: float = 10.0
    resubscribe_after: float = 60.0


def tls_settings(broker: Broker) -> TlsSettings | None:
    """Return the TLS part of `[broker]`; None when `tls = false`."""
    if not broker.tls:
        return None
    name = broker.key_password_file
    return TlsSettings(
        ca_file=broker.ca_file,
        cert_file=broker.cert_file,
        key_file=broker.key_file,
        key_password=_no_secret
        if name is None
        else lambda: read_secret(name, "broker.key_password_file"),
        crl_file=broker.crl_file,
        verify=broker.tls_verify,
        alpn=broker.alpn,
    )


def _password(broker: Broker) -> Secret:
    """Find where the password of the broker account comes from: its file, else the environment."""
    name = broker.password_file
    if broker.username is None:
        return _no_secret
    if name is None:
        return lambda: os.environ.get(PASSWORD_VARIABLE)
    return lambda: read_secret(name, "broker.password_file")


def broker_link(broker: Broker, client_id: str) -> LinkSettings:
    """Make the link that `[broker]` describes; it subscribes to nothing."""
    return LinkSettings(
        host=broker.host,
        port=broker.port,
        client_id=client_id,
        tls=tls_settings(broker),
        username=broker.username,
        password=_password(broker),
        keep_alive=broker.keep_alive,
        session_expiry=broker.session_expiry,
        protocol=broker.protocol,
        qos=broker.qos,
    )


def consumer_link(config: Config, profiles: Sequence[str], client_id: str) -> LinkSettings:
    """Make the link of a Consumer that implements `profiles`.

    A message somewhat larger than `limits.payload` is still let in, so that it can be answered
    400; beyond `maximum_packet_size` the broker drops it unseen.
    """
    extra = config.broker.extra_subscriptions
    return replace(
        broker_link(config.broker, client_id),
        maximum_packet_size=min(
            max(4 * config.limits.payload, _SMALLEST_PACKET_LIMIT), LARGEST_PACKET
        ),
        subscriptions=topics.filters(config.namespace, profiles, config.device_id, extra),
        namespace=config.namespace,
        device_id=config.device_id,
    )


def read_secret(
    name: str, path: str = "broker.password_file", environ: Mapping[str, str] = os.environ
) -> str:
    """Read the secret in the file `name`, or in the systemd credential of that name (MQTT-68).

    A name without a slash is a credential, never a file that happens to lie where we were started.
    One newline at the end is dropped. The error names the file and `path`, the place in the
    configuration, and never what was read. Raises ConfigError.
    """
    file = secret_file(name, environ)
    if file is None:
        raise _bad_secret(
            path,
            f"there is no systemd credential {name!r} (no CREDENTIALS_DIRECTORY); "
            f"a file is named with a slash: ./{name}; in the unit, LoadCredential={name}:FILE",
        )
    try:
        text = file.read_bytes().decode()
    except OSError as error:
        hint = _secret_hint(error, name, file, path)
        raise _bad_secret(path, f"cannot read {file}: {error.strerror}{hint}") from error
    except UnicodeDecodeError:
        raise _bad_secret(path, f"{file} is not UTF-8 text") from None
    text = text.removesuffix("\n").removesuffix("\r")
    if not text:
        hint = "" if "/" in name else _WRITE_IT.format(name)
        raise _bad_secret(path, f"{file} is empty{hint}")
    return text


def _secret_hint(error: OSError, name: str, file: Path, path: str) -> str:
    """Say how the service comes by a secret, where that is the likely mistake."""
    if isinstance(error, FileNotFoundError) and "/" not in name:
        return f"; the unit needs LoadCredential={name}:FILE, and has it for broker-password"
    if isinstance(error, PermissionError) and file.parent.name == "credentials":
        return f'; the service has it by its name alone: {path.rpartition(".")[2]} = "{file.name}"'
    return ""


def secret_file(name: str, environ: Mapping[str, str] = os.environ) -> Path | None:
    """Find the file of a secret; None: it is a credential, and systemd did not start us."""
    if "/" in name:
        return Path(name)
    directory = environ.get("CREDENTIALS_DIRECTORY")
    return None if directory is None else Path(directory, name)


def _bad_secret(path: str, message: str) -> ConfigError:
    return ConfigError((Problem(path, message),))


def load_client_id(state_directory: Path) -> str:
    """Return the client id of this installation, made at the first call and kept (MQTT-6 to 8).

    Random, so that it reveals nothing; the broker keeps our session under it, so losing it loses
    commands. Raises StateError.
    """
    file = state_directory / "client-id"
    try:
        if not file.exists():
            _store(file, make_client_id())
        text = file.read_text("ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise StateError(f"cannot keep the MQTT client id in {file}: {error}") from error
    if not _CLIENT_ID.fullmatch(text):
        raise StateError(
            f"{file} must hold 1 to 23 letters and digits; remove it to get a new client id "
            "(the broker then starts a new session)"
        )
    return text


def make_client_id() -> str:
    """Make a client id that every broker takes, and that tells nothing (MQTT-8)."""
    return "".join(secrets.choice(_ALPHABET) for _ in range(_CLIENT_ID_LENGTH))


def _store(file: Path, text: str) -> None:
    """Write `file` so that it is there in whole, for us alone, or not at all."""
    draft = file.with_suffix(".new")
    with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as stream:  # noqa: PTH123  mode at creation
        stream.write(text + "\n")
        stream.flush()
        os.fsync(stream.fileno())
    draft.replace(file)
    directory = os.open(file.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def warn_of(settings: LinkSettings) -> None:
    """Say loudly what is not as the specification wants it (MQTT-15, 57, 67)."""
    if settings.tls is None:
        _log.warning(
            events.NO_TLS, advice="for tests only: anybody on the way can read and command"
        )
    elif not settings.tls.verify:
        _log.warning(events.NO_VERIFY, advice="for tests only: anybody can pose as the broker")
    if settings.protocol != "5":
        _log.warning(
            events.NOT_CONFORMANT, protocol=settings.protocol, advice="OpenC2 wants MQTT 5.0"
        )
