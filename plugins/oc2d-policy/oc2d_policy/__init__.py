"""Authorisation of OpenC2 commands by a policy file: who may do what, to which targets, when.

`[plugins.policy]` names the file. It is read at start and at reload, and by `oc2d check`; one with
a mistake is never put in force.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog

from oc2d.errors import ConfigError, Problem, Refusal
from oc2d.hookspecs import Place, Request, hookimpl
from oc2d_policy.judge import Policy
from oc2d_policy.reading import read_policy

__all__ = ["POLICY_LOADED", "PolicyPlugin", "plugin"]

POLICY_LOADED = "policy_loaded"
_log = structlog.get_logger("oc2d_policy")


@dataclass(frozen=True, slots=True)
class _Loaded:
    file: Path
    policy: Policy


class PolicyPlugin:
    """The hooks; without a policy in force everything is refused."""

    def __init__(self) -> None:
        self._loaded: _Loaded | None = None
        self._refused = 0

    @hookimpl
    def oc2d_parse_config(self, table: Mapping[str, Any]) -> _Loaded:
        """Read `file`, an absolute path; mistakes in it are told with their place there."""
        problems = [Problem(key, "unknown key; there is file") for key in table if key != "file"]
        file = table.get("file")
        if not isinstance(file, str) or not Path(file).is_absolute():
            problems.append(Problem("file", "the absolute path of the policy is needed"))
            raise ConfigError(tuple(problems))
        try:
            policy = read_policy(Path(file))
        except ConfigError as error:
            problems += [Problem("file", str(problem)) for problem in error.problems]
            raise ConfigError(tuple(problems)) from None
        if problems:
            raise ConfigError(tuple(problems))
        return _Loaded(Path(file), policy)

    @hookimpl
    def oc2d_configure(self, config: _Loaded, place: Place) -> None:
        """Judge by this policy from now on."""
        del place
        self._loaded = config
        _log.info(POLICY_LOADED, file=str(config.file), rules=len(config.policy.rules))

    @hookimpl
    def oc2d_authorise(self, request: Request) -> str | Refusal | None:
        """Refuse what the policy does not allow."""
        if self._loaded is None:
            return "no policy is in force"
        refusal = self._loaded.policy.judge(request, time.time())
        self._refused += refusal is not None
        return refusal

    @hookimpl
    def oc2d_status(self) -> Mapping[str, Any]:
        """Tell which policy is in force and how much it refused."""
        if self._loaded is None:
            return {}
        policy = self._loaded.policy
        return {
            "policy": {
                "file": str(self._loaded.file),
                "rules": len(policy.rules),
                "default": policy.default.value,
                "refused": self._refused,
            }
        }


#: What the entry point names.
plugin = PolicyPlugin()
