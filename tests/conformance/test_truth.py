"""What the daemon says of itself is what it does, and one Producer's doings are everybody's."""

from __future__ import annotations

import pytest

from oc2d.language.vocabulary import CORE_TARGETS, Action
from tests.consumer import allow, delete, deny, query

NET4, NET6 = {"src_addr": "192.0.2.1"}, {"src_addr": "2001:db8::1"}
#: A right value of every target.
VALUES = {
    **dict.fromkeys(CORE_TARGETS, "a"),
    "artifact": {"mime_type": "text/plain"},
    "device": {"device_id": "7"},
    "email_addr": "a@example.com",
    "idn_email_addr": "a@example.com",
    "features": ["versions"],
    "file": {"name": "a"},
    "ipv4_net": "192.0.2.1",
    "ipv6_net": "2001:db8::1",
    "ipv4_connection": NET4,
    "ipv6_connection": NET6,
    "mac_addr": "02:00:5e:10:00:00",
    "process": {"pid": 1},
    "properties": ["a"],
    "uri": "urn:a",
    "iri": "urn:a",
    "slpf:rule_number": 1,
}


@pytest.fixture(scope="module")
def host(make_broker_host):
    return make_broker_host(isolated=False)


@pytest.fixture(scope="module", params=[False, True], ids=["filter", "filter and files"])
def zulu(request, host, tmp_path_factory):
    files = tmp_path_factory.mktemp("files")
    more = {"update_directories": [str(files)]} if request.param else {}
    made = host.consumer(f"zulu{request.param}", actuators_slpf={"backend": "dry-run", **more})
    made.tables[""]["device_id"] = "zulu"
    yield made.start()
    made.stop()


@pytest.mark.req("SLPF-62", "SLPF-42", "SLPF-48", "LANG-43", "LANG-50", "LANG-13", "AMB-59")
def test_pairs_are_exactly_what_is_carried_out(host, zulu):
    del zulu
    soc = host.producer()
    pairs = soc.ask(query("pairs")).response["results"]["pairs"]
    told = {(action, target) for action, targets in pairs.items() for target in targets}
    tried = {
        (action.value, target): soc.send({"action": action.value, "target": {target: value}})
        for action in Action
        for target, value in VALUES.items()
    }
    statuses = {pair: soc.wait(request_id)[0].status for pair, request_id in tried.items()}
    assert {pair for pair, status in statuses.items() if status != 501} == told
    assert set(statuses.values()) <= {102, 200, 500, 501}


@pytest.mark.req("AMB-53", "SLPF-20", "SLPF-21", "SLPF-23")
def test_a_number_is_the_consumers_and_any_producer_may_delete_it(host, zulu):
    first, second = host.producer("first@example.com"), host.producer("second@example.com")
    number = first.ask(deny("192.0.2.7")).number
    assert second.ask(allow("192.0.2.8", insert_rule=number)).status == 501
    assert second.ask(allow("192.0.2.8")).number == number - 1
    assert zulu.rules()[number]["producer"] == "first@example.com"
    assert second.ask(delete(number)).status == 200
    assert first.ask(delete(number)).status == 500
    assert first.ask(delete(number - 1)).status == 200
