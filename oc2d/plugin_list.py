"""What `oc2d plugins` shows: every plugin that is installed, and whether it is used or why not."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from oc2d.actuator import Pair
from oc2d.config import ActuatorTable
from oc2d.config_file import Findings, inspect
from oc2d.plugins import Attempt, Failure, Registry, discover, try_actuators

__all__ = ["PluginRow", "as_json", "list_plugins", "render"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PluginRow:
    """One profile, one plugin of hooks only (`profile` is None), or one that did not load.

    A table that no plugin serves has no `distribution`.
    """

    profile: str | None
    state: Literal["on", "off", "failed"]
    reason: str = ""
    pairs: Mapping[str, tuple[str, ...]]
    distribution: str | None = None
    version: str | None = None
    entry_point: str | None = None


def list_plugins(config: Path, registry: Registry | None = None) -> list[PluginRow]:
    """Describe all plugins; an absent or broken configuration only makes them show as off."""
    registry = registry or discover()
    findings = inspect(config)
    attempt = try_actuators(findings.actuators, (), registry)
    rows = [*_profiles(registry, findings, attempt), *map(_failed, registry.failures)]
    rows += _unserved(registry, findings, attempt)
    shown = {(row.distribution, row.entry_point) for row in rows}
    rows += [
        PluginRow(profile=None, state="on", pairs={}, **asdict(source))
        for source in registry.hooks
        if (source.distribution, source.entry_point) not in shown
    ]
    return rows


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


def render(rows: Iterable[PluginRow]) -> str:
    """Write the list for people."""
    blocks = []
    for row in rows:
        reason = f" ({row.reason})" if row.reason else ""
        lines = [f"{row.profile or '-'}: {row.state}{reason}"]
        if row.distribution is not None:
            lines.append(f"  from {row.distribution} {row.version} ({row.entry_point})")
        lines += _pair_lines(row.pairs)
        blocks.append("\n".join(lines))
    return "\n".join(blocks) or "no plugins installed"


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
