"""The short form of `scripts/faults`: a bad day in a minute."""

from __future__ import annotations

import os
import random

import pytest

from tests.faults.__main__ import SCENARIOS
from tests.faults.scenario import Run

pytestmark = [pytest.mark.root, pytest.mark.timeout(300)]


@pytest.mark.req("MQTT-50", "MQTT-54", "MQTT-55", "MQTT-56", "AMB-21", "LANG-23", "LANG-44")
@pytest.mark.parametrize("name", SCENARIOS)
def test_a_bad_day_loses_nothing_does_nothing_twice_and_stops_nothing(name, tmp_path):
    seed = int(os.environ.get("OC2D_SEED", random.randrange(1 << 31)))
    print(f"OC2D_SEED={seed}")  # noqa: T201 - to repeat a failure
    run = Run(tmp_path, seed, "short")
    try:
        SCENARIOS[name](run)
    finally:
        run.close()
