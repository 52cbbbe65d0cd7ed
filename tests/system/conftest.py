from __future__ import annotations

import pytest

DRY = {"backend": "dry-run"}


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
