"""What a daemon finds of pf; the rest is loaded when the configuration has a table for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import oc2d_pf
from oc2d.actuator import Actuator

if TYPE_CHECKING:
    from oc2d_pf.settings import Settings

__all__ = ["Entry"]


class Entry(Actuator):
    """Stands for `Pf`."""

    profile = "pf"

    @classmethod
    def parse_config(cls, table: Mapping[str, Any]) -> Settings:
        """Read `[actuators.pf]`; raises `ConfigError` with every mistake."""
        return oc2d_pf.Pf.parse_config(table)

    @classmethod
    def create(cls, config: Settings) -> Sequence[Actuator]:
        """Make the actuator."""
        return oc2d_pf.Pf.create(config)
