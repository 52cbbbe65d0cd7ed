"""What must be true of the transfer's modules."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import oc2d.mqtt

MODULES = sorted(Path(oc2d.mqtt.__file__).parent.glob("*.py"))


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_modules_are_short_and_name_what_they_export(path):
    assert len(path.read_text().splitlines()) <= 400
    if path.stem != "__init__":
        module = importlib.import_module(f"oc2d.mqtt.{path.stem}")
        assert all(hasattr(module, name) for name in module.__all__)


def test_event_names_are_unique_and_documented_by_their_list():
    events = importlib.import_module("oc2d.mqtt.events")
    values = [getattr(events, name) for name in events.__all__]
    assert len(set(values)) == len(values)
    assert all(value.startswith("mqtt.") for value in values)
    text = "".join(path.read_text() for path in MODULES if path.stem != "events")
    assert [name for name in events.__all__ if f"events.{name}" not in text] == []


def test_importing_the_session_starts_nothing():
    code = "import threading, oc2d.mqtt.session as s;assert threading.active_count() == 1"
    subprocess.run([sys.executable, "-c", code], check=True)
