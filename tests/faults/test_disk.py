"""The stores on a disk that loses what was not synced, step by step (docs/faults.md)."""

from __future__ import annotations

import os
import random
import subprocess
import sys

import pytest

from tests.faults.disk import Disk, build_recorder

_SEED = 3  # with which nothing that was not synced stays
_JOURNAL = """
import os, sys
from pathlib import Path
from oc2d.engine.journal import Journal
journal = Journal(Path(sys.argv[1]) / "journal.db")
if sys.argv[2] == "write":
    journal.begin(durable=True)
    journal.add_answered(b"k" * 16, 1 << 40, b"{}")
    journal.commit()
print(journal.known(b"k" * 16)[0] is not None)
sys.stdout.flush()
os._exit(0)
"""
_STORE = """
import os, sys
from pathlib import Path
from oc2d_slpf.store import Outcome, Store
store = Store(Path(sys.argv[1]), Path(sys.argv[1]).parent, "boot")
if sys.argv[2] == "write":
    with store.transaction():
        store.remember("key", Outcome(200))
print("key" in store.outcomes(["key"]))
sys.stdout.flush()
os._exit(0)
"""


@pytest.fixture(params=[_JOURNAL, _STORE], ids=["journal", "store"])
def machine(request, tmp_path):
    """A disk, and a function that runs the script on it: `life("write"|"read", death=0)`."""
    state = tmp_path / "state"
    state.mkdir()
    disk = Disk(state, tmp_path / "log")
    recorder = build_recorder(tmp_path)

    def life(what, death=0):
        done = subprocess.run(
            [sys.executable, "-c", request.param, str(state), what],
            env={**os.environ, **disk.environment(recorder), "OC2D_DISK_DEATH": str(death)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == (-9 if death else 0), done.stderr
        return done.stdout.strip()

    def lose_power():
        rnd = random.Random(_SEED)
        assert rnd.choice([0, 0, 1, 1, 1]) == 0
        disk.lose_power(random.Random(_SEED))

    return disk, life, lose_power


@pytest.mark.req("MQTT-54", "AMB-21")
def test_what_was_committed_is_there_after_a_power_loss(machine):
    _, life, lose_power = machine
    assert life("write") == "True"
    lose_power()
    assert life("read") == "True"


@pytest.mark.req("MQTT-54", "AMB-21")
def test_what_a_process_finds_at_its_start_is_there_after_a_power_loss(machine):
    """An earlier one was killed in its last sync: found, it may be on no disk yet."""
    disk, life, lose_power = machine
    assert life("read") == "False"
    lose_power()
    before = disk.syncs
    assert life("read") == "False"
    lose_power()
    at_start = disk.syncs - before
    life("write", death=at_start + 1)
    found = life("read")
    assert found == "True"
    lose_power()
    assert life("read") == "True"
