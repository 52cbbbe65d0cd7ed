from __future__ import annotations

from types import SimpleNamespace

import paho.mqtt.client as paho
import pytest

from tests.brokers.daemons import ACCOUNTS, MAKES
from tests.consumer import Consumer
from tests.producer import Producer


@pytest.fixture(scope="module")
def broker_daemons(tmp_path_factory, certificates):
    """One broker of each installed make, all starting: RabbitMQ takes ten seconds for it."""
    directory = tmp_path_factory.mktemp("brokers")
    made = {}
    try:
        for make in MAKES:
            if make.installed():
                made[make] = make(directory / make.__name__, certificates)
                made[make].launch()
        yield made
    finally:
        for daemon in made.values():
            daemon.close()


@pytest.fixture(scope="module", params=MAKES, ids=lambda make: make.__name__)
def broker_daemon(request, broker_daemons):
    """A running broker of each make in turn."""
    if request.param not in broker_daemons:
        pytest.skip(f"{request.param.__name__} is not installed: no {request.param.program}")
    return broker_daemons[request.param].wait()


@pytest.fixture(scope="module")
def make_consumer(broker_daemon, tmp_path_factory):
    """A function that makes a Consumer with the account fw-7; `broker` overrides its table."""
    made = []

    def make(name="fw-7", password=ACCOUNTS["fw-7"], **tables):
        directory = tmp_path_factory.mktemp("consumer")
        (directory / "password").write_text(password)
        site = SimpleNamespace(
            broker=broker_daemon, directory=directory, run=lambda f, *a, **k: f(*a, **k)
        )
        link = {
            "tls": True,
            "ca_file": str(broker_daemon.ca),
            "username": "fw-7",
            "password_file": str(directory / "password"),
            "protocol": broker_daemon.protocol,
        }
        top = {"namespace": broker_daemon.namespace} if broker_daemon.namespace else {}
        tables = {"": top, "actuators.slpf": {"backend": "dry-run"}, "broker": link, **tables}
        made.append(Consumer(site, name, tables))
        return made[-1]

    yield make
    for consumer in made:
        consumer.close()


@pytest.fixture(scope="module")
def prefix(broker_daemon):
    """What stands before every topic."""
    return f"{broker_daemon.namespace}/" if broker_daemon.namespace else ""


@pytest.fixture(scope="module")
def fw7(make_consumer):
    """The Consumer; every test leaves it running, and may restart it."""
    return make_consumer().start()


@pytest.fixture
def soc(broker_daemon, prefix):
    def configure(client):
        client.tls_set(str(broker_daemon.ca))
        client.username_pw_set("soc", ACCOUNTS["soc"])

    made = Producer(
        broker_daemon.port,
        "soc",
        topic=f"{prefix}oc2/cmd/device/fw-7",
        filters=(f"{prefix}oc2/rsp", f"{prefix}oc2/rsp/soc"),
        protocol=paho.MQTTv5 if broker_daemon.protocol == "5" else paho.MQTTv311,
        configure=configure,
    )
    yield made
    made.close()
