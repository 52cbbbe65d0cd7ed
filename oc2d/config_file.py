"""Read the configuration file into `oc2d.config.Config`, or say all that is wrong with it."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from oc2d.config import ActuatorTable, Broker, Config, State
from oc2d.config_keys import KEYS, SECTIONS, Key
from oc2d.config_kinds import found
from oc2d.errors import ConfigError, Problem

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # type: ignore[import-not-found,unused-ignore]

__all__ = ["TLS_KEYS", "Findings", "inspect", "inspect_tree", "load", "read_toml"]

_ACTUATOR = "actuators.<nsid>"
#: What `[broker]` says of TLS; without effect when it is off.
TLS_KEYS = (
    "ca_file",
    "cert_file",
    "key_file",
    "key_password_file",
    "crl_file",
    "tls_verify",
    "alpn",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Findings:
    """What a file says, as far as it could be understood.

    `config` is None when there are problems at all, `broker` and `state` when a value of their
    section is wrong; `actuators`, `plugins` and `order` are what could be read.
    """

    problems: tuple[Problem, ...] = ()
    config: Config | None = None
    broker: Broker | None = None
    state: State | None = None
    actuators: Mapping[str, ActuatorTable] = field(default_factory=dict)
    plugins: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    order: tuple[str, ...] = ()


def load(path: Path) -> Config:
    """Read and check the file; raise `ConfigError` with every problem found in it.

    Whether the actuators of the file exist is for `oc2d.plugins.load_actuators` to say.
    """
    findings = inspect(path)
    if findings.config is None:
        raise ConfigError(findings.problems)
    return findings.config


def inspect(path: Path) -> Findings:
    """Read the file and report what is right and what is wrong with it; never raises."""
    try:
        tree = read_toml(path)
    except ConfigError as error:
        return Findings(problems=error.problems)
    return inspect_tree(tree, path.absolute().parent)


def inspect_tree(tree: Mapping[str, Any], base: Path) -> Findings:
    """Report what is right and wrong with this tree; relative paths in it begin at `base`."""
    return _Reader(base).read(tree)


def read_toml(path: Path) -> dict[str, Any]:
    """Read a TOML file; raise `ConfigError` when it cannot be read or is none."""
    try:
        tree: dict[str, Any] = tomllib.loads(path.read_bytes().decode("utf-8-sig"))
    except FileNotFoundError:
        reason = "no such file; write one, or name another with --config"
    except OSError as error:
        reason = f"cannot be read: {error.strerror}"
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        reason = f"line {line} is not UTF-8 text; TOML must be"
    except tomllib.TOMLDecodeError as error:
        hint = "; text stands in quotes" if str(error).startswith("Invalid value") else ""
        reason = f"is not TOML: {error}{hint}"
    except (RecursionError, ValueError):
        reason = "is not TOML for people: nested too deeply, or a number of thousands of digits"
    else:
        return tree
    raise ConfigError((Problem("", f"{path}: {reason}"),))


class _Reader:
    """Walks the tree once and collects problems; `base` is where relative paths begin."""

    def __init__(self, base: Path) -> None:
        self.base = base
        self.problems: list[Problem] = []

    def read(self, tree: Mapping[str, Any]) -> Findings:
        sections = [section for section in SECTIONS if section and section != _ACTUATOR]
        known = {*sections, "actuators", "plugins"}
        top = {key: value for key, value in tree.items() if key not in known}
        parts = {"": self._section("", top, also=known)}
        for section in sections:
            parts[section] = self._section(section, self._table(section, tree.get(section, {})))
        actuators = self._actuators(self._table("actuators", tree.get("actuators", {})))
        plugins = {
            name: self._table(f"plugins.{name}", table)
            for name, table in self._table("plugins", tree.get("plugins", {})).items()
        }
        link_is_right = self._is_right("broker")
        self._consider_link(parts["broker"])
        broker = Broker(**parts["broker"]) if link_is_right else None
        policy = SECTIONS["policy"](**parts["policy"])
        found = Findings(actuators=actuators, plugins=plugins, order=policy.order)
        return self._findings(parts, broker, found)

    def _findings(
        self,
        parts: Mapping[str, dict[str, Any]],
        broker: Broker | None,
        read: Findings,
    ) -> Findings:
        findings = replace(
            read,
            problems=tuple(self.problems),
            broker=broker,
            state=State(**parts["state"]) if self._is_right("state") else None,
        )
        if self.problems or broker is None:
            return findings
        top = parts[""]
        sections = {
            name: SECTIONS[name](**values)
            for name, values in parts.items()
            if name not in ("", "broker")
        }
        config = Config(
            **{"sender": top["device_id"]} | top,
            broker=broker,
            actuators=read.actuators,
            plugins=read.plugins,
            **sections,
        )
        return replace(findings, config=config)

    def _table(self, path: str, value: object) -> Mapping[str, Any]:
        if isinstance(value, dict):
            return value
        self._problem(path, f"expected a table ([{path}]), found {found(value)}")
        return {}

    def _section(
        self, section: str, table: Mapping[str, Any], also: set[str] | None = None
    ) -> dict[str, Any]:
        """Parse one table by the keys that the table of keys has for it."""
        keys = {key.name: key for key in KEYS if key.section == section}
        for name in [name for name in table if name not in keys]:
            self._problem(
                f"{section}.{name}" if section else name,
                f"unknown key{_suggestion(name, {*keys, *(also or ())}, section)}",
            )
        values: dict[str, Any] = {}
        for name, key in keys.items():
            if name in table:
                self._value(key, key.path, table[name], values)
            elif key.required:
                self._problem(key.path, "is required")
        return values

    def _value(self, key: Key, path: str, value: object, values: dict[str, Any]) -> None:
        try:
            values[key.field] = key.kind.parse(value, self.base)
        except ValueError as error:
            self._problem(path, str(error))

    def _actuators(self, tables: Mapping[str, Any]) -> dict[str, ActuatorTable]:
        """Split each `[actuators.<nsid>]` into the core's keys and the plugin's options."""
        keys = {key.name: key for key in KEYS if key.section == _ACTUATOR}
        actuators = {}
        for name, value in tables.items():
            if not isinstance(value, dict):
                self._problem(f"actuators.{name}", f"expected a table, found {found(value)}")
                continue
            values: dict[str, Any] = {}
            for key in keys.values():
                if key.name in value:
                    path = f"actuators.{name}.{key.name}"
                    self._value(key, path, value[key.name], values)
            options = {key: item for key, item in value.items() if key not in keys}
            actuators[name] = ActuatorTable(name=name, options=options, **values)
        return actuators

    def _consider_link(self, broker: dict[str, Any]) -> None:
        """Fill in the port, and refuse keys of `[broker]` that do not go together."""
        tls = broker.get("tls", True)
        broker.setdefault("port", 8883 if tls else 1883)
        if not tls:
            # An error, no warning: whoever names a certificate counts on the protection (MQTT-57).
            for name in TLS_KEYS:
                if name in broker:
                    self._problem(
                        f"broker.{name}", "has no effect with tls = false: remove one of the two"
                    )
        for name, needed in (
            ("cert_file", "key_file"),
            ("key_file", "cert_file"),
            ("key_password_file", "key_file"),
            ("password_file", "username"),
        ):
            if name in broker and needed not in broker:
                both = "; one PEM file may serve for both" if "cert_file" in (name, needed) else ""
                self._problem(f"broker.{name}", f"needs broker.{needed}{both}")

    def _is_right(self, section: str) -> bool:
        return not any(problem.path.partition(".")[0] == section for problem in self.problems)

    def _problem(self, path: str, message: str) -> None:
        self.problems.append(Problem(path, message))


def _suggestion(name: str, siblings: set[str], section: str) -> str:
    """Name the key that was probably meant: a similar one here, or the same one elsewhere."""
    from difflib import get_close_matches  # noqa: PLC0415 - needed for mistakes only

    homes = [key.section for key in KEYS if key.name == name and key.section != section]
    if len(homes) == 1:
        return f"; it belongs to [{homes[0]}]" if homes[0] else "; it belongs above all tables"
    near = get_close_matches(name, sorted(siblings), 1) or get_close_matches(
        f"{name}_file", sorted(siblings), 1, 0.9
    )
    return f"; did you mean {near[0]}?" if near else ""
