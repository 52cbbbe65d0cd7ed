"""`[actuators.sbom]`: the table of the configuration as a typed structure."""

from __future__ import annotations

import glob
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from oc2d.errors import ConfigError, Problem

__all__ = ["Settings", "parse"]

_LISTS = ("python_directories", "named_groups", "hostnames", "asset_tuple")
_TEXTS = ("supplier", "dpkg_status", "asset_id")
_PATHS = ("dpkg_status", "python_directories")
# What Debian's own Python packages hold is a Debian package already.
_OURS = ("/usr/local/lib/python3*/dist-packages", "/usr/local/lib/python3*/site-packages")


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What the table says; `python_directories` None: those of this host, see `directories`."""

    dpkg_status: str = "/var/lib/dpkg/status"
    python_directories: tuple[str, ...] | None = None
    supplier: str | None = None
    asset_id: str | None = None
    named_groups: tuple[str, ...] = ()
    hostnames: tuple[str, ...] = ()
    asset_tuple: tuple[str, ...] = ()

    def directories(self) -> tuple[Path, ...]:
        """Return where Python distributions are: outside of Debian's packages, and our own."""
        if self.python_directories is not None:
            return tuple(map(Path, self.python_directories))
        found = [path for pattern in _OURS for path in glob.glob(pattern)]  # noqa: PTH207 - of absolute patterns
        found += [path for path in sys.path if path and not path.startswith("/usr/lib/python3/")]
        return tuple(Path(path) for path in dict.fromkeys(found) if Path(path).is_dir())


def parse(table: Mapping[str, Any]) -> Settings:
    """Read the table; raises `ConfigError` with every mistake."""
    problems = tuple(problem for key, value in table.items() for problem in _problems(key, value))
    if problems:
        raise ConfigError(problems)
    return Settings(**{key: _frozen(value) for key, value in table.items()})


def _problems(key: str, value: object) -> Iterator[Problem]:
    if key not in (*_LISTS, *_TEXTS):
        yield Problem(key, f"unknown key; there are {', '.join((*_LISTS, *_TEXTS))}")
        return
    items = value if key in _LISTS else [value]
    if not isinstance(items, list) or not all(isinstance(item, str) and item for item in items):
        what = 'a list of strings, as ["a", "b"]' if key in _LISTS else "a string that is not empty"
        yield Problem(key, f"must be {what}")
    elif key in _PATHS:
        yield from (Problem(key, f"must be absolute: {p}") for p in items if not p.startswith("/"))


def _frozen(value: object) -> Any:  # noqa: ANN401 - what `_problems` has passed
    return tuple(value) if isinstance(value, list) else value
