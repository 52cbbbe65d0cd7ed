"""sbom in a daemon, over a real broker: a document of the size that a real host has."""

from __future__ import annotations

import json

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from tests.consumer import command, query


@pytest.mark.req("SBOM-1", "SBOM-3", "SBOM-4", "SBOM-6", "SBOM-11", "SBOM-15", "LANG-40")
def test_the_software_of_a_host_is_listed_and_fetched(make_broker_host, tmp_path):
    stanza = "Package: p{0}\nStatus: install ok installed\nVersion: 1.{0}\nArchitecture: amd64\n"
    more = "Maintainer: Debian Developers <d@example.org>\nDescription: the package {0}\n"
    status = tmp_path / "status"
    status.write_text("\n".join((stanza + more).format(number) for number in range(100)))
    host = make_broker_host(isolated=False)
    table = {"dpkg_status": str(status), "python_directories": []}
    zulu = host.consumer("zulu", actuators_sbom=table).start()
    soc = host.producer()
    pairs = soc.ask(query("pairs")).response["results"]["pairs"]["query"]
    assert set(pairs) == {"features", *(f"sbom:{n}" for n in ("sbom_list", "sbom", "uuid", "type"))}
    told = soc.ask({"action": "query", "target": {"sbom": {"sbom_list": {}}}}).response
    first, _ = told["results"]["sbom"]["sbom_list"]
    one = soc.ask({"action": "query", "target": {"sbom": {"uuid": first["id"][1]}}})
    content = one.response["results"]["sbom"]["sbom"]["content"]
    assert len(content["components"]) == 100
    assert len(one.payload) > 20_000
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(json.dumps(content)) is None
    again = soc.ask({"action": "query", "target": {"sbom:sbom": {}}}, encoding="cbor")
    assert again.response["results"]["sbom"]["sbom"]["content"] == content
    timed = command("query", {"sbom:sbom": {}}, start_time=1)
    assert (soc.ask(timed).status, soc.ask(command("query", {"sbom:colour": 1})).status) == (
        501,
        400,
    )
    assert zulu.told()["actuators"]["sbom"]["sboms"][0] == first
