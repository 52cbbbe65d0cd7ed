"""The rules of the house: who may import whom, how long a module may be, what a commit may hold."""

from __future__ import annotations

import ast
import importlib
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
LONGEST = 420
SOURCES = sorted([*ROOT.glob("oc2d/**/*.py"), *ROOT.glob("plugins/*/oc2d_*/**/*.py")])
TESTS = sorted([*ROOT.glob("tests/**/*.py"), *ROOT.glob("plugins/*/tests/**/*.py")])
PLUGINS = {path.parent.name for path in ROOT.glob("plugins/*/oc2d_*/__init__.py")}
PUBLIC = {"oc2d.actuator", "oc2d.hookspecs", "oc2d.errors", "oc2d.language"}

# room → what of ours it may import beside itself (DESIGN 3); who is not named here is free
DOORS = {
    "oc2d.errors": set(),
    "oc2d.language": {"oc2d.errors"},
    "oc2d.tables": {"oc2d.errors"},
    "oc2d.actuator": {"oc2d.errors", "oc2d.language", "oc2d.tables"},
    "oc2d.hookspecs": {"oc2d.errors", "oc2d.language", "oc2d.actuator"},
    "oc2d.engine": PUBLIC | {"oc2d.config", "oc2d.logs"},
    "oc2d.mqtt": {"oc2d.errors", "oc2d.language", "oc2d.config", "oc2d.logs", "oc2d.engine.ports"},
    "oc2d.producer": {
        "oc2d.errors",
        "oc2d.language",
        "oc2d.config",
        "oc2d.config_file",
        "oc2d.config_keys",
        "oc2d.config_kinds",
        "oc2d.logs",
        "oc2d.mqtt",
        "oc2d.terminal",
        "oc2d.engine.ports",
    },
    **dict.fromkeys(PLUGINS, PUBLIC),
    "oc2d_pf": PUBLIC | {"oc2d_slpf"},  # two languages, one engine
}


def module_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    if parts[0] == "plugins":
        parts = parts[2:]
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_of(path): path for path in SOURCES}


def imported(module: str) -> Iterator[str]:
    """Name every module that a module imports, at its head or later."""
    path = MODULES[module]
    package = module.split(".")[: None if path.name == "__init__.py" else -1]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            source = ".".join([*base, *filter(None, [node.module])])
            for alias in node.names:
                full = f"{source}.{alias.name}"
                yield full if full in MODULES else source


def inside(module: str, rooms: Iterable[str]) -> bool:
    return any(module == room or module.startswith(room + ".") for room in rooms)


def room_of(module: str) -> str | None:
    return next((room for room in DOORS if inside(module, [room])), None)


def test_each_room_imports_only_what_its_doors_allow():
    wrong = [
        f"{module} imports {name}"
        for module in MODULES
        if (room := room_of(module)) is not None
        for name in imported(module)
        if name != "oc2d"  # the version, for anybody
        and inside(name, ["oc2d", *PLUGINS])
        and not inside(name, {room, *DOORS[room]})
    ]
    assert wrong == []


def test_only_the_transfer_speaks_with_paho():
    speakers = {module for module in MODULES if any(inside(n, ["paho"]) for n in imported(module))}
    assert {module for module in speakers if not inside(module, ["oc2d.mqtt"])} == set()


def test_nobody_imports_a_plugin_by_name():
    """They come in by their entry points, as anybody's do."""
    for module in MODULES:
        if room_of(module) not in PLUGINS:  # but pf, which says so in DOORS
            assert not any(inside(name, PLUGINS) for name in imported(module)), module


def test_only_the_daemon_knows_both_engine_and_transfer():
    def knows(module: str, room: str) -> bool:
        return any(inside(name, [room]) for name in imported(module) if name != "oc2d.engine.ports")

    both = {m for m in MODULES if knows(m, "oc2d.engine") and knows(m, "oc2d.mqtt")}
    assert both <= {"oc2d.daemon", "oc2d.testing.host"}


def test_nothing_that_runs_imports_what_is_for_tests():
    for module in MODULES:
        if not inside(module, ["oc2d.testing"]):
            assert not any(inside(n, ["oc2d.testing"]) for n in imported(module)), module


def test_no_module_is_longer_than_one_can_keep_in_mind():
    lengths = {path: len(path.read_text().splitlines()) for path in [*SOURCES, *TESTS]}
    assert {path: length for path, length in lengths.items() if length > LONGEST} == {}


@pytest.mark.parametrize("module", MODULES)
def test_every_name_a_module_exports_exists(module):
    loaded = importlib.import_module(module)
    missing = [name for name in getattr(loaded, "__all__", []) if not hasattr(loaded, name)]
    assert missing == []


def test_importing_every_module_starts_nothing():
    program = (
        "import importlib, sys, threading\n"
        "for name in sys.argv[1:]: importlib.import_module(name)\n"
        "print(threading.active_count())"
    )
    modules = [name for name in MODULES if not name.endswith("__main__")]
    done = subprocess.run(
        [sys.executable, "-c", program, *modules], capture_output=True, text=True, check=False
    )
    assert (done.stdout, done.stderr) == ("1\n", "")


def test_no_file_holds_a_path_or_a_host_of_one_machine():
    home = r"/(?:root|home)/[.\w]"
    mounts = r"(?<![\w.])/(?:wor[k]|opt/pyp[i])\b"
    registry = r"https?://[\w.-]*(?:pyp[i]|artifactor[y]|nexu[s]|prox[y])[\w.-]*"
    pattern = re.compile(f"{home}|{mounts}|{registry}")
    found = []
    for path in committed():
        if b"\0" not in (data := path.read_bytes()):
            matches = pattern.finditer(data.decode(errors="replace"))
            found += [f"{path.relative_to(ROOT)}: {match.group()}" for match in matches]
    assert found == []


def test_nothing_but_samples_for_tests_is_no_text():
    binary = {path.relative_to(ROOT) for path in committed() if b"\0" in path.read_bytes()}
    assert {path for path in binary if "tests" not in path.parts} == set()


def committed() -> Iterator[Path]:
    """Find what may be committed, also where there is no git repository (a source archive)."""
    for top in ROOT.iterdir():
        if top.name == ".ci" or not top.name.startswith((".", "build", "dist", "htmlcov")):
            tree = top.rglob("*") if top.is_dir() else [top]
            yield from (p for p in tree if p.is_file() and "__pycache__" not in p.parts)
