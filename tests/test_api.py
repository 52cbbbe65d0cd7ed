"""The interface of plugins stays as it is, or its version changes: tests/api.txt is its record.

After a change on purpose: `python tests/test_api.py`, and the rules in docs/plugins.md.
"""

from __future__ import annotations

import enum
import importlib
import inspect
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from oc2d.actuator import API_VERSION, Actuator
from oc2d.hookspecs import Hooks

HERE = Path(__file__).parent
RECORD = HERE / "api.txt"
GUIDE = HERE.parent / "docs/plugins.md"
PUBLIC = (
    "oc2d.actuator",
    "oc2d.errors",
    "oc2d.hookspecs",
    "oc2d.language.ids",
    "oc2d.language.targets",
    "oc2d.language.values",
    "oc2d.language.vocabulary",
    "oc2d.testing",
)


def told() -> str:
    lines = [f"interface {'.'.join(map(str, API_VERSION))}"]
    for name in PUBLIC:
        module = importlib.import_module(name)
        lines += ["", name]
        for public in sorted(module.__all__):
            lines += [f"  {line}" for line in described(public, getattr(module, public))]
    return "\n".join(lines) + "\n"


def described(name: str, thing: object) -> Iterator[str]:
    if isinstance(thing, type):
        bases = ", ".join(base.__name__ for base in thing.__bases__)
        yield f"class {name}({bases})"
        yield from (f"  {line}" for line in members(thing))
    elif inspect.isfunction(thing):
        yield f"{name}{inspect.signature(thing)}"
    else:
        yield f"{name}: {type(thing).__name__}"


def members(kind: type) -> Iterator[str]:
    if issubclass(kind, enum.Enum):
        yield from (f"{member.name} = {member.value!r}" for member in kind)
        return
    public = [name for name in [*vars(kind), *annotations(kind)] if not name.startswith("_")]
    if "__init__" in vars(kind) and "__dataclass_fields__" not in vars(kind):
        public.append("__init__")
    for name in sorted(set(public)):
        raw = vars(kind).get(name)
        inner = getattr(raw, "__func__", raw)
        if inspect.isfunction(inner):
            mark = f"{type(raw).__name__} " if inner is not raw else ""
            yield f"{mark}{name}{inspect.signature(inner)}"
        elif isinstance(raw, property):
            yield f"{name} -> {annotations(raw.fget).get('return')}"
        elif name in annotations(kind):
            yield f"{name}: {annotations(kind)[name]}"
        else:
            yield name


def annotations(thing: object) -> dict[str, object]:
    return dict(getattr(thing, "__dict__", {}).get("__annotations__", {})) or dict(
        getattr(thing, "__annotations__", {}) if inspect.isfunction(thing) else {}
    )


def test_the_interface_is_what_the_record_says():
    assert told() == RECORD.read_text(), "run `python tests/test_api.py` if that is on purpose"


def test_the_guide_names_the_interface_and_its_version():
    page = GUIDE.read_text().partition("## The interface and its versions")[2]
    listed = re.findall(r"^\| (`oc2d.*?) \|", page, re.MULTILINE)
    named = []
    for cell in listed:
        first, *more = re.findall(r"`([\w.]+)`", cell)
        named += [first, *(first.rpartition(".")[0] + one for one in more)]
    assert sorted(named) == sorted(PUBLIC)
    assert f"now {'.'.join(map(str, API_VERSION))}" in page


def test_the_guide_says_of_each_method_and_hook_when_it_is_called_and_what_if_it_raises():
    rows = re.findall(r"^\| (`.*?) \| .+ \| .+ \|$", GUIDE.read_text(), re.MULTILINE)
    shown = {name for row in rows for name in re.findall(r"`(\w+)[(`]", row)}
    methods = {name for name in vars(Actuator) if not name.startswith("_")}
    hooks = {name for name in vars(Hooks) if name.startswith("oc2d_")}
    assert (methods | hooks) - shown == set()


@pytest.mark.parametrize("name", PUBLIC)
def test_everything_public_is_documented(name):
    module = importlib.import_module(name)
    things = [getattr(module, public) for public in module.__all__]
    lacking = [t for t in things if inspect.isfunction(t) or isinstance(t, type) if not t.__doc__]
    assert lacking == []


def test_a_plugin_that_is_typed_right_passes_mypy_and_one_that_is_not_is_told_where():
    """`# E: code` at a line of bad.py is what mypy must say there, and nothing else."""
    place = HERE / "typing"
    good, bad = place / "good.py", place / "bad.py"
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--no-error-summary", "--show-error-codes", good, bad],
        cwd=HERE.parent,
        capture_output=True,
        text=True,
        check=False,
    )
    said = re.findall(r"(\w+)\.py:(\d+): error: .*\[([\w-]+)\]$", done.stdout, re.MULTILINE)
    wanted = [
        ("bad", str(number), code)
        for number, line in enumerate(bad.read_text().splitlines(), 1)
        for code in re.findall(r"# E: ([\w-]+)", line)
    ]
    assert said == wanted, done.stdout + done.stderr


if __name__ == "__main__":
    RECORD.write_text(told())
