"""Configuration files and third-party plugins, made on disk as a user would have them."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

MINIMAL = 'device_id = "fw-7"\n[broker]\nhost = "mqtt.example.com"\n'


@pytest.fixture
def write(tmp_path):
    """Write a configuration file and return its path."""

    def write(text=MINIMAL, name="oc2d.toml"):
        path = tmp_path / name
        path.write_text(text)
        return path

    return write


@pytest.fixture
def site(tmp_path):
    path = tmp_path / "site"
    path.mkdir()
    return path


@pytest.fixture
def install(site, monkeypatch):
    """Install a distribution: a module and its dist-info, in a folder of the path."""
    monkeypatch.syspath_prepend(str(site))
    modules = []

    def install(distribution, code, entry="plugin", target="Plugin", version="1.2"):
        module = distribution.replace("-", "_")
        modules.append(module)
        (site / f"{module}.py").write_text(code)
        info = site / f"{module}-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n"
        )
        where = f"{module}:{target}" if target else module
        (info / "entry_points.txt").write_text(f"[oc2d]\n{entry} = {where}\n")
        importlib.invalidate_caches()

    yield install
    for module in modules:
        sys.modules.pop(module, None)


@pytest.fixture
def oc2d(tmp_path, site):
    """Run the command line in a process of its own."""

    def oc2d(*arguments, env=None, **kwargs):
        return subprocess.run(  # noqa: PLW1510 - the exit code is what tests look at
            [sys.executable, "-m", "oc2d", *map(str, arguments)],
            capture_output=True,
            text=True,
            timeout=60,
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(site), **(env or {})},
            **kwargs,
        )

    return oc2d


@pytest.fixture
def root() -> Path:
    """The checkout."""
    return Path(__file__).resolve().parents[3]
