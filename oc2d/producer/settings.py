"""What `oc2ctl` knows about the broker and itself: its file, with options laid over it (DESIGN 2).

The file has the same `[broker]`, `from` and `namespace` as the Consumer's; options win. Passwords
come from a file, a credential or the environment only (MQTT-68).
"""

from __future__ import annotations

import difflib
import getpass
import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from oc2d.config import Broker
from oc2d.config_file import TLS_KEYS, inspect_tree, read_toml
from oc2d.errors import ConfigError, Problem
from oc2d.mqtt.settings import Backoff, LinkSettings, broker_link, make_client_id

__all__ = ["DEFAULT_FILE", "ProducerSettings", "load_settings", "producer_link"]

DEFAULT_FILE = Path("~/.config/oc2d/oc2ctl.toml")

_KEYS = ("broker", "from", "namespace")
_MOST = 17 << 20  # bytes of a packet, for the largest response that is read


@dataclass(frozen=True, slots=True, kw_only=True)
class ProducerSettings:
    """The broker, who we say we are (`headers.from`), and what stands before every topic."""

    broker: Broker
    sender: str
    namespace: str = ""


def load_settings(file: Path | None, options: Mapping[str, Any]) -> ProducerSettings:
    """Read `file` (None: the default one, which may be missing) with `options` laid over it.

    `options` are by TOML path (`broker.host`); relative paths in them begin where the command was
    called. Raises `ConfigError` with every problem.
    """
    # Path.expanduser would fail where there is no home directory
    path = Path(os.path.expanduser(DEFAULT_FILE)) if file is None else file  # noqa: PTH111
    tree = {} if file is None and not path.exists() else read_toml(path)
    problems = [Problem(name, _not_ours(name)) for name in tree if name not in _KEYS]
    tree = {"from": _who(), **{name: tree[name] for name in _KEYS if name in tree}}
    broker = tree.get("broker", {})
    if isinstance(broker, dict):
        _overlay(tree, dict(broker), options)
    # The table of keys is the Consumer's: its only further required key is made up.
    findings = inspect_tree({"device_id": "oc2ctl", **tree}, path.absolute().parent)
    if findings.config is None or problems:
        problems += [_with_hint(problem) for problem in findings.problems]
        raise ConfigError(tuple(problems))
    config = findings.config
    return ProducerSettings(broker=config.broker, sender=config.sender, namespace=config.namespace)


def _overlay(tree: dict[str, Any], broker: dict[str, Any], options: Mapping[str, Any]) -> None:
    if "broker.host" in options:
        broker.pop("port", None)  # it was the port of the other broker
    if options.get("broker.tls") is False:
        for name in TLS_KEYS:
            broker.pop(name, None)
    for path, value in options.items():
        section, _, name = path.rpartition(".")
        (broker if section else tree)[name] = (
            str(value.absolute()) if isinstance(value, Path) else value
        )
    tree["broker"] = broker


def _with_hint(problem: Problem) -> Problem:
    if problem.path == "broker.host" and problem.message == "is required":
        return Problem(
            problem.path, f"is required: give --broker HOST, or set it in {DEFAULT_FILE}"
        )
    return problem


def _not_ours(name: str) -> str:
    near = difflib.get_close_matches(name, _KEYS, n=1)
    meant = f"did you mean {near[0]}?" if near else f"oc2ctl reads only {', '.join(_KEYS)}"
    return f"unknown key; {meant}"


def _who() -> str:
    """Name the person at this machine; one topic level, as `oc2/rsp/<producer_id>` wants it."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # nobody in the list of users
        user = "oc2ctl"
    return f"{user}@{socket.gethostname()}"


def producer_link(
    settings: ProducerSettings, subscriptions: tuple[str, ...], timeout: float
) -> LinkSettings:
    """Make the link of one run: a client id of its own, a session that ends with it (DESIGN 2)."""
    return replace(
        broker_link(settings.broker, make_client_id()),
        session_expiry=0,
        maximum_packet_size=_MOST,
        message_type="req",
        subscriptions=subscriptions,
        namespace=settings.namespace,
        backoff=Backoff(first=0.5, most=5.0),
        connect_timeout=timeout / 3,  # two addresses may lead nowhere
        answer_timeout=timeout,
    )
