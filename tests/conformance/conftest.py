from __future__ import annotations

import pytest

from tests.consumer import hosts


@pytest.fixture(scope="module")
def make_broker_host(tmp_path_factory):
    """A function that makes a Host with a running broker."""
    yield from hosts(tmp_path_factory)
