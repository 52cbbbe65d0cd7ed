"""The measurements can be repeated: those that take no time are run, the others only asked."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.root
def test_the_light_measurements_give_figures_with_baselines(tmp_path):
    file = tmp_path / "figures.json"
    for name, *more in (["packets", "--only", "5-tuples"], ["fleet"]):
        done = subprocess.run(
            [sys.executable, ROOT / f"bench/{name}.py", "--quick", *more],
            env={**os.environ, "OC2D_BENCH_JSON": str(file)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
    tables = [json.loads(line) for line in file.read_text().splitlines()]
    assert [table["title"].partition(":")[0] for table in tables] == [
        "packets, 0 rules",
        "packets, 1000 rules",
        "fleet",
        "fleet",
    ]
    for table in tables:
        assert table["limit"]
        assert all(figure["values"] for figure in table["figures"])
    assert any(figure["baseline"] for table in tables[1:] for figure in table["figures"])


def test_a_measurement_that_is_not_there_is_named():
    done = subprocess.run(
        [ROOT / "scripts/bench", "speed"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "there is no speed" in done.stderr


def test_the_help_names_every_measurement():
    done = subprocess.run(
        [ROOT / "scripts/bench", "--help"], capture_output=True, text=True, check=True
    )
    names = done.stdout.partition("one or more of: ")[2].partition(", or all")[0].split()
    assert len(names) > 5
    assert [name for name in names if not (ROOT / f"bench/{name}.py").exists()] == []
