"""The back end that only says what it would do: for trials where traffic must not change."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import structlog

from oc2d_slpf.backend import Step
from oc2d_slpf.rules import Verdict

__all__ = ["DryRun"]

_log = structlog.get_logger("oc2d.slpf")


class DryRun:
    """Log each change instead of making it."""

    ranked = True

    def check(self) -> None:
        """Say once that nothing is in force."""
        _log.warning("slpf_dry_run", detail="rules are answered 200 and not put in force")

    def can(self, verdict: Verdict) -> bool:
        """Every rule can be logged."""
        del verdict
        return True

    def replace(self, steps: Iterable[Step]) -> None:
        """Log how much would be loaded."""
        _log.info("slpf_would_replace", steps=sum(1 for _ in steps))

    def apply(self, steps: Sequence[Step]) -> None:
        """Log what would be changed."""
        for step in steps:
            _log.info("slpf_would_apply", step=repr(step))

    def remove(self) -> None:
        """Log that all would be removed."""
        _log.info("slpf_would_remove")

    def watch(self, changed: Callable[[], None]) -> None:
        """Nothing is there that others could change."""

    def close(self) -> None:
        """Nothing is held."""
