"""`[actuators.slpf]`: the table of the configuration as a typed structure."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import collapse_addresses, ip_network
from pathlib import PurePosixPath
from typing import Any, Literal

from oc2d.errors import ConfigError, Problem, StateError
from oc2d_slpf.iptables_tools import families
from oc2d_slpf.rules import Network

__all__ = ["Settings", "parse"]

_KEYS = (
    "backend",
    "asset_id",
    "named_groups",
    "hostnames",
    "asset_tuple",
    "never_block",
    "update_directories",
    "at_stop",
)
_TUPLE_MAX = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What `[actuators.slpf]` says; `never_block` is collapsed."""

    backend: Literal["nftables", "iptables", "dry-run"] = "nftables"
    asset_id: str | None = None
    named_groups: tuple[str, ...] = ()
    hostnames: tuple[str, ...] = ()
    asset_tuple: tuple[str, ...] = ()
    never_block: tuple[Network, ...] = ()
    update_directories: tuple[PurePosixPath, ...] = ()
    at_stop: Literal["keep", "remove"] = "keep"
    log_group: int | None = None
    """Where packets are logged, of nfnetlink_log; None: in the kernel's log. No key of slpf's."""


@dataclass(slots=True)
class _Table:
    """Reads values and collects what is wrong with them."""

    values: Mapping[str, Any]
    problems: list[Problem] = field(default_factory=list)

    def wrong(self, path: str, message: str) -> None:
        self.problems.append(Problem(path, message))

    def choice(self, key: str, choices: tuple[str, ...]) -> Any:  # noqa: ANN401 - one of the literals
        value = self.values.get(key, choices[0])
        if value not in choices:
            near = difflib.get_close_matches(str(value), choices, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            self.wrong(key, f"must be one of {', '.join(map(repr, choices))}{hint}")
        return value

    def strings(self, key: str) -> tuple[str, ...]:
        value = self.values.get(key, [])
        if not isinstance(value, list):
            self.wrong(key, 'must be a list of strings, as ["a", "b"]')
            return ()
        for index, item in enumerate(value):
            if not isinstance(item, str) or not item:
                self.wrong(f"{key}[{index}]", "must be a string that is not empty")
        return tuple(item for item in value if isinstance(item, str))


def parse(values: Mapping[str, Any]) -> Settings:
    """Read the table; raises `ConfigError` with every mistake, its path and what to do."""
    table = _Table(values)
    for key in values:
        if key not in _KEYS:
            near = difflib.get_close_matches(key, _KEYS, n=1)
            table.wrong(key, "unknown key" + (f"; did you mean {near[0]!r}?" if near else ""))
    backend = table.choice("backend", ("nftables", "iptables", "dry-run"))
    if backend == "iptables":
        try:
            families()
        except StateError as error:
            table.wrong("backend", str(error))
    asset_id = values.get("asset_id")
    if asset_id is not None and not isinstance(asset_id, str):
        table.wrong("asset_id", f'must be a string: write asset_id = "{asset_id}"')
    asset_tuple = table.strings("asset_tuple")
    if len(asset_tuple) > _TUPLE_MAX:
        table.wrong("asset_tuple", f"takes at most {_TUPLE_MAX} strings")
    settings = Settings(
        backend=backend,
        asset_id=asset_id,
        named_groups=table.strings("named_groups"),
        hostnames=table.strings("hostnames"),
        asset_tuple=asset_tuple,
        never_block=_networks(table, "never_block"),
        update_directories=_directories(table, "update_directories"),
        at_stop=table.choice("at_stop", ("keep", "remove")),
    )
    if table.problems:
        raise ConfigError(tuple(table.problems))
    return settings


def _networks(table: _Table, key: str) -> tuple[Network, ...]:
    found: dict[int, list[Any]] = {4: [], 6: []}
    for index, text in enumerate(table.strings(key)):
        try:
            if "%" in text:
                raise ValueError("has a zone id")
            network = ip_network(text)
        except ValueError as error:
            table.wrong(f"{key}[{index}]", f"must be a network as 192.0.2.0/24 ({error})")
        else:
            found[network.version].append(network)
    return tuple(net for family in found.values() for net in collapse_addresses(family))


def _directories(table: _Table, key: str) -> tuple[PurePosixPath, ...]:
    found = [PurePosixPath(text) for text in table.strings(key)]
    for index, path in enumerate(found):
        if path.root != "/" or ".." in path.parts or len(path.parts) == 1 or "\0" in str(path):
            message = "must be the absolute path of a directory, as /etc/oc2d/updates"
            table.wrong(f"{key}[{index}]", message)
    return tuple(found)
