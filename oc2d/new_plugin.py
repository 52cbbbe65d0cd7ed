"""`oc2d new-plugin`: a package with an actuator profile that works, to be changed from there."""

from __future__ import annotations

import re
from importlib.resources import files
from keyword import iskeyword
from pathlib import Path

from oc2d import __version__
from oc2d.errors import Oc2dError, UsageError
from oc2d.language.vocabulary import nsid_problem

__all__ = ["make_plugin"]

# file of the package → file of oc2d/template
_FILES = {
    "pyproject.toml": "pyproject.txt",
    "README.md": "readme.txt",
    ".gitignore": "gitignore.txt",
    ".github/workflows/test.yml": "workflow.txt",
    "oc2d.toml": "toml.txt",
    "oc2d_template/__init__.py": "module.txt",
    "oc2d_template/py.typed": None,
    "tests/test_template.py": "tests.txt",
}
# names that the module of the template uses
_TAKEN = (
    "Actuator Any Args ClassVar Collection Command Config Context Mapping NoMatch Response Results"
)
_SHIPPED = frozenset({"audit", "pf", "log", "policy", "sbom", "slpf"})


def make_plugin(nsid: str, parent: Path) -> Path:
    """Make the package for a profile in a new directory below `parent`, and return that.

    Raises `UsageError` for a name that no profile may have, `Oc2dError` when it cannot be written.
    """
    if problem := nsid_problem(nsid):
        raise UsageError(problem)
    name = nsid.removeprefix("x-").lower().rstrip("-_")
    if name in _SHIPPED:
        raise UsageError(f"oc2d-{name} is a package of oc2d itself: take another name")
    words = _words(nsid, name)
    root = parent / f"oc2d-{name}"
    try:
        root.mkdir(parents=True)
        for path, source in _FILES.items():
            file = root / _filled(path, words)
            file.parent.mkdir(parents=True, exist_ok=True)
            template = "" if source is None else _read(source)
            file.write_text(_filled(template, words), "utf-8")
    except FileExistsError:
        raise Oc2dError(
            f"{root} is there already; names of packages do not tell x-Door from x-door, or av "
            "from x-av"
        ) from None
    except OSError as error:
        raise Oc2dError(f"cannot write {error.filename or root}: {error.strerror}") from error
    return root


def _read(name: str) -> str:
    return (files("oc2d") / "template" / name).read_text("utf-8")


def _words(nsid: str, name: str) -> dict[str, str]:
    """Say what stands for what; longer ones first, as they contain the shorter."""
    module = name.replace("-", "_")
    bare = "".join(part.capitalize() for part in re.split("[-_]", name))
    return {
        "oc2d_template": f"oc2d_{module}",
        "oc2d-template": f"oc2d-{name}",
        "x-template": nsid,
        "template = ": f"{name} = ",
        "test_template": f"test_{module}",
        "Template": _class_name(bare),
        "@RANGE@": _range(__version__),
    }


def _class_name(bare: str) -> str:
    """Return a name that Python takes, that is not the template's and no test class to pytest."""
    if not bare[0].isalpha() or bare.startswith("Test"):
        return f"Profile{bare}"
    return f"{bare}Profile" if bare in _TAKEN.split() or iskeyword(bare) else bare


def _filled(text: str, words: dict[str, str]) -> str:
    for word, replacement in words.items():
        text = text.replace(word, replacement)
    return text


def _range(version: str) -> str:
    """Return the versions of oc2d that keep the interface of this one (see docs/plugins.md)."""
    major, minor = (int(part) for part in version.split(".")[:2])
    after = f"{major + 1}" if major else f"0.{minor + 1}"
    return f">={major}.{minor},<{after}"
