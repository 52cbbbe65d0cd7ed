"""docs/logging.md names every event, and no event that does not exist."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LEVELS = {"debug", "info", "warning", "error", "exception"}


def constants(tree: ast.Module) -> dict[str, str]:
    found = {}
    for node in tree.body:
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        value = getattr(node, "value", None)
        if isinstance(value, ast.Constant) and isinstance(value.value, str):
            found |= {t.id: value.value for t in targets if isinstance(t, ast.Name)}
    return found


def events_logged() -> Iterator[str]:
    """Read what loggers are called with, and every use of an `events` module."""
    paths = [*ROOT.glob("oc2d/**/*.py"), *ROOT.glob("plugins/*/oc2d_*/*.py")]
    trees = {path: ast.parse(path.read_text()) for path in paths}
    shared = {p.parent: constants(t) for p, t in trees.items() if p.name == "events.py"}
    for path, tree in trees.items():
        own = constants(tree)
        yield from (value for value in own.values() if value.startswith("x_log_"))
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "events":
                yield shared[path.parent][node.attr]
            elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                logger = ast.unparse(node.func.value)
                if node.func.attr in LEVELS and logger.endswith(("_log", "get_logger()")):
                    name = node.args[0]
                    if isinstance(name, ast.Constant):
                        yield name.value
                    elif isinstance(name, ast.Name) and name.id in own:
                        yield own[name.id]


def test_the_log_reference_names_every_event_and_no_other():
    table = (ROOT / "docs/logging.md").read_text().split("## Events")[1]
    first_cells = re.findall(r"^\| (.+?) \|", table, re.MULTILINE)
    named = {event for cell in first_cells for event in re.findall(r"`([^`]+)`", cell)}
    assert named - {"library_message"} == set(events_logged()) - {"library_message"}
