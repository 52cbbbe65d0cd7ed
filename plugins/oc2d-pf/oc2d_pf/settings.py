"""`[actuators.pf]`: what `[actuators.slpf]` takes, but for what pf does not do."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from oc2d.errors import ConfigError, Problem
from oc2d_slpf import settings
from oc2d_slpf.settings import Settings

__all__ = ["Settings", "parse"]


def parse(values: Mapping[str, Any]) -> Settings:
    """Read the table; raises `ConfigError` with every mistake."""
    problems = []
    if "update_directories" in values:
        problems.append(Problem("update_directories", "pf has no update file: remove it"))
    if values.get("backend") == "iptables":
        problems.append(Problem("backend", "pf is for nftables, or dry-run"))
    kept = {key: value for key, value in values.items() if key not in {p.path for p in problems}}
    try:
        parsed = settings.parse(kept)
    except ConfigError as error:
        raise ConfigError((*problems, *error.problems)) from None
    if problems:
        raise ConfigError(tuple(problems))
    return parsed
