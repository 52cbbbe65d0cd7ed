"""Stand-in."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

__all__ = ["RunOptions", "run"]


@dataclass(frozen=True, slots=True)
class RunOptions:
    """Stand-in."""

    config: Path
    foreground: bool = False


def run(options: RunOptions) -> int:
    """Stand-in."""
    from oc2d.checks import prepare

    prepare(options.config)
    return 0
