"""Why a plugin does not appear: where was looked for it, and what lies there that is not found.

Plugins have one way in, the entry points of the distributions on the path of modules. A directory
such as /usr/local/lib/oc2d/plugins is one of them where a .pth file puts it there.
"""

from __future__ import annotations

import os
import re
import sys
import sysconfig
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib.metadata import Distribution, distributions, packages_distributions
from pathlib import Path
from typing import Literal
from urllib.parse import unquote, urlsplit

import msgspec

from oc2d.hookspecs import ENTRY_POINT_GROUP
from oc2d.plugins import name_of

__all__ = ["Place", "Stray", "places", "strays"]

_OURS = "oc2d"
_NEEDS_US = re.compile(r"oc2d(?![\w.-])", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Stray:
    """Something like a plugin that is not loaded; a lone module has no distribution."""

    state: Literal["off", "failed"]
    reason: str
    distribution: str | None = None
    version: str | None = None
    location: str | None = None


class _Origin(msgspec.Struct):
    """What pip writes of where a distribution came from (PEP 610)."""

    url: str = ""
    dir_info: dict[str, bool] = {}


@dataclass(frozen=True, slots=True)
class Place:
    """A directory of the path of modules: the distributions in it that bring plugins."""

    directory: str
    plugins: tuple[str, ...] = ()
    problem: str = ""


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _location(distribution: Distribution) -> str:
    return str(distribution.locate_file(""))


def _is_plugin(distribution: Distribution) -> bool:
    return any(entry.group == ENTRY_POINT_GROUP for entry in distribution.entry_points)


def _found() -> list[Distribution]:
    """Return what is installed and has a name."""
    return [one for one in distributions() if name_of(one)]


def strays() -> list[Stray]:
    """Find what somebody may have meant to be a plugin, and say why it is none."""
    found, seen = [], dict[str, Distribution]()
    for one in _found():
        name = _normal(one.metadata["Name"])
        if name == _OURS:
            continue
        first = seen.setdefault(name, one)
        if first is not one:
            if _is_plugin(one) and _location(first) != _location(one):
                found.append(_stray("off", one, f"hidden by {name} in {_location(first)}"))
        elif _is_meant(one):
            found.append(_stray("failed", one, _no_entry(one)))
    return [*found, *_modules()]


def _stray(state: Literal["off", "failed"], one: Distribution, reason: str) -> Stray:
    return Stray(state, reason, one.metadata["Name"], one.version, _location(one))


def _is_meant(one: Distribution) -> bool:
    """Tell whether it needs oc2d or is called after it, and brings no plugin."""
    if _is_plugin(one):
        return False
    named = _normal(one.metadata["Name"]).startswith(f"{_OURS}-")
    return named or any(_NEEDS_US.match(wanted) for wanted in one.requires or ())


def _no_entry(one: Distribution) -> str:
    near = sorted({e.group for e in one.entry_points if e.group.startswith(_OURS)})
    if near:
        return f"its entry points are of the group {near[0]}; it must be {ENTRY_POINT_GROUP}"
    return "has no entry point: [project.entry-points.oc2d] is missing in its pyproject.toml"


def _modules() -> Iterator[Stray]:
    """Find modules by their name that no distribution brings: copied there, not installed."""
    try:
        known = {*packages_distributions()}
    except UnicodeDecodeError:  # of a damaged record: then nobody knows what belongs to nobody
        return
    for one in _found():
        known |= {entry.module.partition(".")[0] for entry in one.entry_points}
    for directory in _directories():
        for path in _listed(directory):
            name = path.name.removesuffix(".py")
            if name.startswith(f"{_OURS}_") and name.isidentifier() and name not in known:
                why = "belongs to no distribution: pip writes what plugins are found by"
                yield Stray("failed", f"{path} {why}")


def _listed(directory: str) -> Iterable[Path]:
    try:
        return sorted(Path(directory).iterdir())
    except OSError:
        return ()


def _directories() -> list[str]:
    """Return the path of modules without Python's own library."""
    own = {os.path.realpath(sysconfig.get_path(name)) for name in ("stdlib", "platstdlib")}
    own |= {os.path.join(one, "lib-dynload") for one in own}  # noqa: PTH118 - texts, as in sys.path
    path = dict.fromkeys(os.path.realpath(entry or ".") for entry in sys.path)
    return [one for one in path if one not in own and not one.endswith(".zip")]


def places() -> list[Place]:
    """Tell where was looked, in order, and what was found there."""
    plugins: dict[str, list[str]] = {}
    for one in _found():
        if _is_plugin(one):
            names = plugins.setdefault(os.path.realpath(_location(one)), [])
            names.append(one.metadata["Name"])
    sources = _sources()
    return [
        Place(one, tuple(sorted(plugins[one])))
        if one in plugins
        else Place(one, problem=_problem(one) or sources.get(one, ""))
        for one in _directories()
    ]


def _sources() -> dict[str, str]:
    """Name the directories that are on the path for what was installed with `pip install -e`."""
    found = {}
    for one in _found():
        try:
            origin = msgspec.json.decode(one.read_text("direct_url.json") or "{}", type=_Origin)
        except msgspec.MsgspecError:
            continue
        if origin.dir_info.get("editable"):
            place = Path(unquote(urlsplit(origin.url).path))
            for directory in (place, place / "src"):
                found[os.path.realpath(directory)] = f"source of {one.metadata['Name']} (editable)"
    return found


def _problem(directory: str) -> str:
    if not Path(directory).is_dir():
        return "is not there"
    if not os.access(directory, os.R_OK | os.X_OK):
        return "cannot be read by this user"
    return ""
