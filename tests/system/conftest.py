from __future__ import annotations

import pytest

from tests.consumer import hosts

DRY = {"backend": "dry-run"}


@pytest.fixture(scope="module")
def make_broker_host(tmp_path_factory):
    """A function that makes a Host with a running broker."""
    yield from hosts(tmp_path_factory)


@pytest.fixture(scope="module")
def host(make_broker_host):
    """A Host in the network of this machine."""
    return make_broker_host(isolated=False)


@pytest.fixture(scope="module")
def zulu(host):
    """A Consumer with two actuators, and a log that says everything."""
    return host.consumer(actuators_slpf=DRY, **{"actuators_x-log": {}}).start()


@pytest.fixture
def soc(host, zulu):
    del zulu
    made = host.producer()
    yield made
    made.close()
