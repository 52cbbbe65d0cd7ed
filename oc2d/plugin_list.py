"""What `oc2d plugins` shows: every plugin that is installed, and whether it is used or why not."""

from __future__ import annotations

import platform
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path
from typing import Any, Literal

from oc2d import __version__
from oc2d.actuator import Pair
from oc2d.config import ActuatorTable
from oc2d.config_file import Findings, inspect
from oc2d.hook_plugins import parse_tables, takes_table
from oc2d.plugin_search import Place, strays
from oc2d.plugins import Attempt, Failure, HookPlugin, Registry, discover, hooks_of, try_actuators

__all__ = ["PluginRow", "as_json", "list_plugins", "render"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PluginRow:
    """One profile, one plugin of hooks only (`profile` is None), or one that did not load.

    A table that no plugin serves has no `distribution`, what only looks like a plugin no
    `entry_point`. `needs` are the versions of oc2d that its distribution asks for, `hooks` the
    hooks that it implements, `where` the line at which it failed.
    """

    profile: str | None
    state: Literal["on", "off", "failed"]
    reason: str = ""
    pairs: Mapping[str, tuple[str, ...]]
    distribution: str | None = None
    version: str | None = None
    entry_point: str | None = None
    location: str | None = None
    order: int | None = None
    needs: str = ""
    hooks: tuple[str, ...] = ()
    where: str = ""


def list_plugins(config: Path) -> list[PluginRow]:
    """Describe all plugins; an absent or broken configuration only makes them show as off."""
    registry = discover()
    findings = inspect(config)
    attempt = try_actuators(findings.actuators, (), registry)
    rows = [*_profiles(registry, findings, attempt), *map(_failed, registry.failures)]
    rows += _unserved(registry, findings, attempt)
    shown = {(row.distribution, row.entry_point) for row in rows}
    rows += [
        _hooks(plugin, registry, findings)
        for plugin in registry.hooks
        if (plugin.source.distribution, plugin.source.entry_point) not in shown
    ]
    rows += [PluginRow(profile=None, pairs={}, **asdict(stray)) for stray in strays()]
    hooks = hooks_of(registry)
    return [
        replace(
            row,
            needs=_needs(row.distribution),
            hooks=hooks.get((row.distribution or "", row.entry_point or ""), ()),
        )
        for row in rows
    ]


def _needs(distribution: str | None) -> str:
    """Tell which versions of oc2d a distribution asks for, as it writes them."""
    if distribution is None:
        return ""
    try:
        wanted = requires(distribution) or []
    except PackageNotFoundError:
        return ""
    return next((one for one in wanted if re.match(r"oc2d(?![\w.-])", one, re.IGNORECASE)), "")


def _hooks(plugin: HookPlugin, registry: Registry, findings: Findings) -> PluginRow:
    name = plugin.source.entry_point
    absent = takes_table(plugin) and name not in findings.plugins
    own = {} if absent or not takes_table(plugin) else {name: findings.plugins[name]}
    wrong = [str(problem) for problem in parse_tables(own, registry.hooks).problems]
    state: Literal["on", "off", "failed"] = "failed" if wrong else "off" if absent else "on"
    reason = f"no [plugins.{name}] in the configuration" if absent else "; ".join(wrong)
    return PluginRow(profile=None, state=state, reason=reason, pairs={}, **asdict(plugin.source))


def _profiles(registry: Registry, findings: Findings, attempt: Attempt) -> Iterator[PluginRow]:
    for one in attempt.loaded.actuators:
        yield PluginRow(
            profile=one.nsid,
            state="on",
            pairs=_pairs(one.actuator.supported_pairs()),
            **asdict(one.source),
        )
    used = {one.table.name for one in attempt.loaded.actuators}
    for profile, found in registry.found.items():
        if profile in used:
            continue
        state, reason = _why_not(profile, findings, attempt)
        yield PluginRow(
            profile=profile,
            state=state,
            reason=reason,
            pairs=_default_pairs(profile, registry),
            **asdict(found.source),
        )


def _unserved(registry: Registry, findings: Findings, attempt: Attempt) -> Iterator[PluginRow]:
    for table in findings.actuators.values():
        if table.enabled and table.name not in registry.found:
            state, reason = _why_not(table.name, findings, attempt)
            yield PluginRow(profile=table.name, state=state, reason=reason, pairs={})


def _failed(failure: Failure) -> PluginRow:
    return PluginRow(
        profile=failure.profile,
        state="failed",
        reason=failure.reason,
        where=failure.where,
        pairs={},
        **asdict(failure.source),
    )


def _why_not(
    profile: str, findings: Findings, attempt: Attempt
) -> tuple[Literal["off", "failed"], str]:
    path = f"actuators.{profile}"
    if wrong := [
        str(problem)
        for problem in (*findings.problems, *attempt.problems, *attempt.loaded.warnings)
        if problem.path == path or problem.path.startswith(f"{path}.")
    ]:
        return "failed", "; ".join(wrong)
    if profile in findings.actuators:
        return "off", "enabled = false"
    if unread := [str(problem) for problem in findings.problems if not problem.path]:
        return "off", unread[0]
    return "off", f"no [{path}] in the configuration"


def _default_pairs(profile: str, registry: Registry) -> dict[str, tuple[str, ...]]:
    """Tell what a profile would carry out with an empty table, if it can do with one."""
    trial = try_actuators({profile: ActuatorTable(name=profile)}, (), registry).loaded.actuators
    return _pairs(pair for one in trial for pair in one.actuator.supported_pairs())


def _pairs(pairs: Iterable[Pair]) -> dict[str, tuple[str, ...]]:
    """Group by action, as `query features` does."""
    grouped: dict[str, set[str]] = {}
    for pair in pairs:
        grouped.setdefault(pair.action.value, set()).add(pair.target)
    return {action: tuple(sorted(grouped[action])) for action in sorted(grouped)}


def render(rows: Iterable[PluginRow], looked: Iterable[Place] = ()) -> str:
    """Write the list for people, and where was looked."""
    blocks = ["\n".join(_block(row)) for row in rows] or ["no plugins installed"]
    if lines := [_line(place) for place in looked]:
        python = f"Python {platform.python_version()}, {sys.executable}"
        blocks.append(
            "\n".join([f"looked for plugins of oc2d {__version__} ({python}) in", *lines])
        )
    return "\n".join(blocks)


def _block(row: PluginRow) -> Iterator[str]:
    yield f"{row.profile or '-'}: {row.state}" + (f" ({row.reason})" if row.reason else "")
    if row.where:
        yield f"  at {row.where}"
    if row.distribution is not None:
        entry = f" ({row.entry_point})" if row.entry_point else ""
        yield f"  from {row.distribution} {row.version}{entry}"
        if row.state == "failed":
            needs = f", which needs {row.needs}" if row.needs else ""
            yield f"  in {row.location}{needs}"
    if row.hooks:
        yield f"  hooks, loaded as number {row.order}: {', '.join(row.hooks)}"
    yield from _pair_lines(row.pairs)


def _line(place: Place) -> str:
    return f"  {place.directory}: {place.problem or ', '.join(place.plugins) or 'none'}"


def _pair_lines(pairs: Mapping[str, tuple[str, ...]]) -> Iterator[str]:
    """Name actions with the same targets together."""
    together: dict[tuple[str, ...], list[str]] = {}
    for action, targets in pairs.items():
        together.setdefault(targets, []).append(action)
    for targets, actions in together.items():
        yield f"  {', '.join(actions)}: {', '.join(targets)}"


def as_json(rows: Iterable[PluginRow]) -> list[dict[str, Any]]:
    """Make plain objects of the rows, for `--json`."""
    return [asdict(row) for row in rows]
