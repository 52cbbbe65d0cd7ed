"""Stand-in."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["OpenC2Command"]


@dataclass(frozen=True)
class OpenC2Command:
    """Stand-in."""
