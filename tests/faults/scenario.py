"""What the scenarios share: a host of their own, a Consumer with the unkind plugin, the figures."""

from __future__ import annotations

import itertools
import random
import shutil
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from tests.consumer import Consumer, Host

__all__ = ["Run"]

_PLUGIN = Path(__file__).with_name("unkind.py")
_ENTRIES = """\
[oc2d]
count = oc2d_faults:Count
unkind = oc2d_faults:Unkind
steady = oc2d_faults:Steady
"""


@dataclass
class Run:
    """One run of one scenario; `figures` is what it reports."""

    directory: Path
    seed: int
    size: str | int
    figures: Counter[str] = field(default_factory=Counter)
    hosts: list[Host] = field(default_factory=list)
    patience: float = 1.0  # seconds that a start takes

    def __post_init__(self) -> None:
        self.rnd = random.Random(self.seed)
        self._numbers = itertools.count()
        self.site = self.directory / "site"
        info = self.site / "oc2d_faults-1.0.dist-info"
        info.mkdir(parents=True)
        shutil.copy(_PLUGIN, self.site / "oc2d_faults.py")
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: oc2d-faults\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(_ENTRIES)

    def many(self, short: int, long: int) -> int:
        """How many of what this scenario counts."""
        return {"short": short, "long": long}.get(str(self.size), 0) or int(self.size)

    def host(self, *options: str, persistent: bool = False, isolated: bool = True) -> Host:
        place = self.directory / f"host{next(self._numbers)}"
        place.mkdir()
        made = Host(place, *options, persistent=persistent, isolated=isolated)
        self.hosts.append(made)
        return made.start_broker()

    def environment(self, point: str = "") -> dict[str, str]:
        """What the daemon needs to find the plugin, and where it is to die."""
        return {"PYTHONPATH": str(self.site), "OC2D_FAULTS": point}

    def start(self, consumer: Consumer, **environment: str) -> None:
        """Start it, and note how long that takes now: others may keep the machine busy."""
        begun = time.monotonic()
        consumer.start(**{**self.environment(), **environment})
        self.patience = time.monotonic() - begun

    def tell(self) -> None:
        """Say how far it is."""
        sys.stderr.write(f"     {dict(self.figures)}\n")

    def close(self) -> None:
        while self.hosts:
            self.hosts.pop().close()
