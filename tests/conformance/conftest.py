from __future__ import annotations

import pytest

from tests.consumer import hosts
from tests.recorder import Recorder


@pytest.fixture(scope="module")
def make_broker_host(tmp_path_factory):
    """A function that makes a Host with a running broker."""
    yield from hosts(tmp_path_factory)


@pytest.fixture
def record():
    """A function that puts a Recorder in front of a broker; arguments as the class has them."""
    made = []

    def start(*arguments):
        made.append(Recorder(*arguments))
        return made[-1]

    yield start
    for recorder in made:
        recorder.close()
