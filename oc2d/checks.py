"""Everything that can be known before the daemon runs: the configuration, plugins, TLS, secrets.

`oc2d check` shows it, the daemon starts and reloads by it: what passes the check is what runs.
Nothing of the host is changed.
"""

from __future__ import annotations

import os
import socket
import stat
import threading
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from oc2d.config import Broker, Config
from oc2d.config_file import inspect
from oc2d.errors import ConfigError, Problem
from oc2d.hook_plugins import parse_tables
from oc2d.plugins import LoadedActuators, Registry, discover, try_actuators

__all__ = ["Prepared", "prepare"]

_RESOLVER_PATIENCE = 5.0


@dataclass(frozen=True, slots=True)
class Prepared:
    """A configuration that can run, with its actuators built and not started.

    `hooks` is what the plugins of hooks made of their tables, by entry point.
    `warnings` are for the log at each start: a link without protection, actuators left out.
    """

    config: Config
    registry: Registry
    actuators: LoadedActuators
    hooks: Mapping[str, Any]
    warnings: tuple[Problem, ...]


def prepare(path: Path, registry: Registry | None = None, *, by_hand: bool = False) -> Prepared:
    """Read and check everything; raise `ConfigError` with every problem of every kind.

    `registry`: what an earlier call found, for a reload. `by_hand`: not in the service, so a
    systemd credential cannot be read here and is only warned about.
    """
    registry = registry or discover()
    findings = inspect(path)
    attempt = try_actuators(findings.actuators, findings.order, registry)
    hooks = parse_tables(findings.plugins, registry.hooks)
    problems = [*findings.problems, *attempt.problems, *hooks.problems]
    warnings = [*attempt.loaded.warnings]
    if not attempt.loaded.actuators:
        warnings.append(Problem("actuators", "none is on, so no command can be carried out"))
    if findings.broker is not None and by_hand:
        warnings += _name_warnings(findings.broker)
    if findings.broker is not None:
        from oc2d.mqtt.tls import link_problems  # noqa: PLC0415 - not needed for `oc2d plugins`

        unread = _unreadable_credentials(findings.broker) if by_hand else {}
        kept = path.absolute().parent / "credentials"
        problems += _credential_problems(unread, kept)
        named = {problem.path for problem in problems}
        problems += [
            problem
            for problem in link_problems(findings.broker)
            if problem.path not in named and problem.path not in unread
        ]
        warnings += _link_warnings(findings.broker)
        warnings += _open_to_everybody(findings.broker)
        warnings += _credential_warnings(unread, kept)
        warnings += _kept_from_the_service(findings.broker, kept) if by_hand else ()
    if findings.config is None or problems:
        raise ConfigError(tuple(problems))
    return Prepared(findings.config, registry, attempt.loaded, hooks.configs, tuple(warnings))


def _unreadable_credentials(broker: Broker) -> dict[str, str]:
    """Find the secrets that only systemd can give us, when it did not start us."""
    if "CREDENTIALS_DIRECTORY" in os.environ:
        return {}
    return {path: name for path, name in _secrets(broker).items() if "/" not in name}


def _secrets(broker: Broker) -> dict[str, str]:
    names = {
        "broker.password_file": broker.password_file,
        "broker.key_password_file": broker.key_password_file,
    }
    return {path: name for path, name in names.items() if name is not None}


def _credential_problems(unread: dict[str, str], kept: Path) -> Iterator[Problem]:
    """Read those that the unit takes from `kept`, where we may: root may, the service may not."""
    from oc2d.mqtt.settings import read_secret  # noqa: PLC0415 - not needed for `oc2d plugins`

    for path, name in unread.items():
        if os.access(kept / name, os.R_OK):
            try:
                read_secret(str(kept / name), path)
            except ConfigError as error:
                yield from error.problems


def _credential_warnings(unread: dict[str, str], kept: Path) -> Iterator[Problem]:
    for path, name in unread.items():
        if os.access(kept / name, os.R_OK):
            continue
        if os.access(kept, os.R_OK | os.X_OK):
            yield Problem(path, f"there is no {kept / name}, where the service has it from")
        else:
            yield Problem(path, f"not checked: only the service has the credential {name!r}")


def _kept_from_the_service(broker: Broker, kept: Path) -> Iterator[Problem]:
    """Find paths into the directory that is root's alone: by hand they can be read."""
    for path, name in _secrets(broker).items():
        if "/" in name and Path(name).parent == kept:
            yield Problem(path, f"the service cannot read {name}: it has it as {Path(name).name!r}")


def _open_to_everybody(broker: Broker) -> Iterator[Problem]:
    """Find secrets in files that every account of this host may read."""
    named = {path: Path(name) for path, name in _secrets(broker).items() if "/" in name}
    if broker.key_file is not None:
        named["broker.key_file"] = broker.key_file
    for path, file in named.items():
        with suppress(OSError):
            if file.stat().st_mode & stat.S_IROTH:
                yield Problem(path, f"everybody on this host can read {file}: chmod o= {file}")


def _name_warnings(broker: Broker) -> Iterator[Problem]:
    """Ask for the broker's address, and wait no longer than a person would."""
    outcome: list[str] = []

    def ask() -> None:
        try:
            socket.getaddrinfo(broker.host, broker.port, type=socket.SOCK_STREAM)
            outcome.append("")
        except (OSError, UnicodeError) as error:
            outcome.append(f": {getattr(error, 'strerror', None) or error}")

    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(_RESOLVER_PATIENCE)
    said = outcome[0] if outcome else f" within {_RESOLVER_PATIENCE:g} seconds"
    if said:
        yield Problem(
            "broker.host",
            f"{broker.host} has no address here{said}; the daemon would start and go on trying",
        )


def _link_warnings(broker: Broker) -> Iterator[Problem]:
    if not broker.tls:
        yield Problem("broker.tls", "no TLS: anybody on the way can command this host (MQTT-57)")
    elif not broker.tls_verify:
        yield Problem("broker.tls_verify", "the broker is not verified: for tests only (MQTT-67)")
    from oc2d.mqtt.expiry import expiry_problems  # noqa: PLC0415 - not needed for `oc2d plugins`

    yield from expiry_problems(broker, datetime.now(timezone.utc))
    if broker.protocol != "5":
        yield Problem("broker.protocol", "MQTT 3.1.1 does not conform to OpenC2 (MQTT-15)")
