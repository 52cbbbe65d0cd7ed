"""The life of plugins that bring hooks: their tables, their start, reload and end.

The hooks of requests are called by the engine; what is here runs on the main thread.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import structlog

from oc2d.errors import ConfigError, Oc2dError, PluginError, Problem
from oc2d.hookspecs import Place
from oc2d.plugins import HookPlugin, Registry, nearest, placed

__all__ = [
    "Tables",
    "hook_statuses",
    "parse_tables",
    "reload_hooks",
    "start_hooks",
    "stop_hooks",
    "takes_table",
]

_log = structlog.get_logger("oc2d.daemon")
PLUGIN_RELOAD_FAILED = "plugin_reload_failed"
PLUGIN_STOP_FAILED = "plugin_stop_failed"
_PARSE, _CONFIGURE = "oc2d_parse_config", "oc2d_configure"
_STATUS, _STOP = "oc2d_status", "oc2d_stop"


@dataclass(frozen=True, slots=True)
class Tables:
    """What the plugins made of `[plugins.<name>]`, by the names of their entry points."""

    configs: Mapping[str, Any]
    problems: tuple[Problem, ...]


def takes_table(plugin: HookPlugin) -> bool:
    """Tell whether a plugin is on only when its table is there."""
    return _PARSE in plugin.functions


def parse_tables(tables: Mapping[str, Mapping[str, Any]], plugins: Sequence[HookPlugin]) -> Tables:
    """Have each plugin read its table; every mistake is reported with its TOML path."""
    known: dict[str, list[HookPlugin]] = {}
    for plugin in filter(takes_table, plugins):
        known.setdefault(plugin.source.entry_point, []).append(plugin)
    configs: dict[str, Any] = {}
    problems: list[Problem] = []
    for name, table in tables.items():
        if name not in known:
            problem = "no installed plugin has this name and takes a table"
            problems.append(Problem(f"plugins.{name}", problem + nearest(name, known)))
            continue
        plugin, *others = known[name]
        if others:  # each would be given what one of them has made of it
            names = " and ".join(str(one.source) for one in known[name])
            problem = f"is claimed by {names}: uninstall all but one"
            problems.append(Problem(f"plugins.{name}", problem))
            continue
        try:
            configs[name] = plugin.call(_PARSE, table=deepcopy(table))
        except ConfigError as error:
            problems += placed(f"plugins.{name}", error)
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # noqa: BLE001 - any plugin, any error
            said = f"the plugin {plugin.source} failed on this table: {error!r}"
            problems.append(Problem(f"plugins.{name}", said))
    return Tables(configs, tuple(problems))


def start_hooks(registry: Registry, configs: Mapping[str, Any], place: Place) -> None:
    """Leave out the plugins that have no table, and start the others; raise `Oc2dError`."""
    for plugin in registry.hooks:
        name = plugin.source.entry_point
        if takes_table(plugin) and name not in configs:
            registry.manager.unregister(name=plugin.name)
            continue
        try:
            plugin.call(_CONFIGURE, config=configs.get(name), place=place)
        except Oc2dError:
            raise
        except BaseException as error:
            said = str(error) if isinstance(error, Exception) else repr(error)
            raise PluginError(f"the plugin {plugin.source} did not start: {said}") from error


def reload_hooks(registry: Registry, configs: Mapping[str, Any], place: Place) -> tuple[str, ...]:
    """Give the plugins that are on their new configuration; name those that did not take it."""
    refused = []
    for plugin in _running(registry):
        name = plugin.source.entry_point
        if takes_table(plugin) and name not in configs:
            continue  # its table is gone: a restart ends it, as `changed` says
        try:
            plugin.call(_CONFIGURE, config=configs.get(name), place=place)
        except Oc2dError as error:
            _log.error(PLUGIN_RELOAD_FAILED, plugin=str(plugin.source), error=str(error))
        except BaseException:  # noqa: BLE001 - any plugin, any error
            _log.exception(PLUGIN_RELOAD_FAILED, plugin=str(plugin.source))
        else:
            continue
        refused.append(name)
    return tuple(refused)


def hook_statuses(registry: Registry) -> list[Any]:
    """Collect what the plugins that are on tell of themselves; no failure hides the others."""
    told = []
    for plugin in _running(registry):
        try:
            status = json.loads(json.dumps(plugin.call(_STATUS), default=str))
        except BaseException as error:  # noqa: BLE001 - any plugin, any error
            status = {"error": f"oc2d_status of {plugin.source} failed: {type(error).__name__}"}
        if status is not None:
            told.append(status)
    return told


def stop_hooks(registry: Registry) -> None:
    """Tell the plugins that are on that it is over."""
    for plugin in _running(registry):
        try:
            plugin.call(_STOP)
        except BaseException:  # noqa: BLE001 - any plugin, any error
            _log.exception(PLUGIN_STOP_FAILED, plugin=str(plugin.source))


def _running(registry: Registry) -> list[HookPlugin]:
    return [plugin for plugin in registry.hooks if registry.manager.has_plugin(plugin.name)]
