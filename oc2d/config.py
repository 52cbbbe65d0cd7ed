"""TOML into frozen, typed `Config`; nobody else sees a dict (DESIGN 2)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import msgspec

__all__ = [
    "ActuatorTable",
    "Broker",
    "Compat",
    "Config",
    "Limits",
    "Metrics",
    "Policy",
    "State",
]


class Broker(msgspec.Struct, frozen=True, kw_only=True):
    """`[broker]`: the link. Paths are absolute; `password_file` is resolved when it is read."""

    host: str
    port: int
    tls: bool = True
    ca_file: Path | None = None
    cert_file: Path | None = None
    key_file: Path | None = None
    key_password_file: str | None = None
    crl_file: Path | None = None
    tls_verify: bool = True
    alpn: str | None = None
    username: str | None = None
    password_file: str | None = None
    keep_alive: int = 300
    session_expiry: int = 86400
    protocol: Literal["5", "3.1.1"] = "5"
    qos: Literal[1, 2] = 1
    response_topic: Literal["general", "producer", "both"] = "general"
    extra_subscriptions: tuple[str, ...] = ()
    accept_retained: bool = False


class State(msgspec.Struct, frozen=True, kw_only=True):
    """`[state]`: where things are kept; the defaults are right under systemd."""

    directory: Path = Path("/var/lib/oc2d")
    runtime_directory: Path = Path("/run/oc2d")


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """`[limits]`: bytes, counts, commands per minute, seconds."""

    payload: int = 262144
    queue: int = 10_000
    queue_per_producer: int | None = None
    rate_per_minute: int | None = None
    remember: int | None = None  # seconds; None: twice broker.session_expiry
    remember_count: int = 1_000_000
    interim_after: float = 10.0  # seconds until a 102 tells that a command still runs


class Policy(msgspec.Struct, frozen=True, kw_only=True):
    """`[policy]`: who may command, how old a command may be, which actuator first."""

    producers: tuple[str, ...] | None = None
    max_age: int | None = None
    order: tuple[str, ...] = ()
    report_after_ack: bool = False


class Compat(msgspec.Struct, frozen=True, kw_only=True):
    """`[compat]`: how to treat what deployed software sends (AMB-8, AMB-30, AMB-31)."""

    bare_command: bool = False
    profile_field: bool = True
    strict_cidr: bool = False


class Metrics(msgspec.Struct, frozen=True, kw_only=True):
    """`[metrics]`: where a monitor of this host may ask; None: nowhere."""

    listen: str | None = None


class ActuatorTable(msgspec.Struct, frozen=True, kw_only=True):
    """`[actuators.<nsid>]`: the core's keys, and the rest for the plugin to parse."""

    name: str
    enabled: bool = True
    required: bool = True
    timeout: float = 60.0
    options: Mapping[str, Any] = msgspec.field(default_factory=dict)


class Config(msgspec.Struct, frozen=True, kw_only=True):
    """The whole configuration, checked."""

    device_id: str
    broker: Broker
    namespace: str = ""  # without trailing slash; empty: none
    sender: str = ""  # `from`; default: device_id
    state: State = State()
    limits: Limits = Limits()
    policy: Policy = Policy()
    compat: Compat = Compat()
    metrics: Metrics = Metrics()
    actuators: Mapping[str, ActuatorTable] = msgspec.field(default_factory=dict)
    plugins: Mapping[str, Mapping[str, Any]] = msgspec.field(default_factory=dict)
