"""`[actuators.pf]`: what `[actuators.slpf]` takes, but for what pf does not do, and `log_group`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from oc2d.errors import ConfigError, Problem
from oc2d_slpf import settings
from oc2d_slpf.settings import Settings

__all__ = ["Settings", "parse"]

_GROUPS = 1 << 16


def parse(values: Mapping[str, Any]) -> Settings:
    """Read the table; raises `ConfigError` with every mistake."""
    problems = []
    if "update_directories" in values:
        problems.append(Problem("update_directories", "pf has no update file: remove it"))
    if values.get("backend") == "iptables":
        problems.append(Problem("backend", "pf is for nftables, or dry-run"))
    group = values.get("log_group")
    if group is not None and (type(group) is not int or group not in range(_GROUPS)):
        problems.append(Problem("log_group", "must be a number from 0 to 65535, as of nflog"))
    own = {"log_group", *(problem.path for problem in problems)}
    try:
        parsed = settings.parse({key: one for key, one in values.items() if key not in own})
    except ConfigError as error:
        raise ConfigError((*problems, *error.problems)) from None
    if problems:
        raise ConfigError(tuple(problems))
    return replace(parsed, log_group=group)
