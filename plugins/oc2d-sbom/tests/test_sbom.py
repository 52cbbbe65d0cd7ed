"""The profile sbom over records of software that tests write, and over those of this host."""

from __future__ import annotations

import json
import os
from pathlib import Path

import msgspec
import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from spdx_tools.spdx.parser.jsonlikedict.json_like_dict_parser import JsonLikeDictParser
from spdx_tools.spdx.validation.document_validator import validate_full_spdx_document

from oc2d.actuator import Command, Context, Reason
from oc2d.errors import BadRequest, ConfigError, Failed, NoMatch, NotSupported
from oc2d.language.codec import Encoding
from oc2d.language.command import decode_extension, extension_tree, parse_command
from oc2d.language.vocabulary import Action
from oc2d_sbom import Sbom
from oc2d_sbom.inventory import Sources, read
from oc2d_sbom.profile import Specifiers
from oc2d_sbom.settings import Settings

DPKG = """\
Package: libc6
Status: install ok installed
Maintainer: GNU Libc Maintainers <debian-glibc@lists.debian.org>
Architecture: amd64
Multi-Arch: same
Version: 2.36-9+deb12u10
Provides: libc
Description: GNU C Library: Shared libraries
 Contains the standard libraries.
 .
 More.
Homepage: https://www.gnu.org/software/libc/libc.html

Package: bash
Status: install ok installed
Maintainer: Matthias Klose <doko@debian.org>
Architecture: amd64
Version: 5.2.15-2+b7
Pre-Depends: libc6 (>= 2.36), libtinfo6 (>= 6)
Depends: absent-one | libc (>= 1:2), base-files:any
Description: GNU Bourne Again SHell
Homepage: <not a url>

Package: gone
Status: deinstall ok config-files
Version: 1.0
Architecture: all
Description: removed
"""


@pytest.fixture
def host(tmp_path):
    """A host with two packages of Debian and one of Python."""
    (tmp_path / "status").write_text(DPKG)
    info = tmp_path / "python" / "Foo_Bar-1.5.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: Foo_Bar\nVersion: 1.5\nSummary: Ä foo\nAuthor: Ann\n"
    )
    (tmp_path / "python" / "left-0.dist-info").mkdir()
    return tmp_path


@pytest.fixture
def start(host):
    def start(**table):
        config = {"dpkg_status": str(host / "status"), "python_directories": [str(host / "python")]}
        made = Sbom(Sbom.parse_config({**config, **table}))
        (host / "state").mkdir(exist_ok=True)
        made.start(Context("fw-7", host / "state", host / "state", "boot", lambda: 0))
        return made

    return start


@pytest.fixture
def sbom(start):
    return start()


def query(target):
    told = parse_command({"action": "query", "target": target}, Encoding.JSON).target
    own = Sbom.targets[told.name.removeprefix("sbom:")]
    typed = decode_extension(told.value, own, Encoding.JSON, path="$")
    return Command("key", "soc", Action.QUERY, told.name, typed, None, Specifiers())


def ask(sbom, target):
    command = query(target)
    sbom.check(command)
    return extension_tree(sbom.execute(command).results, Encoding.JSON)


LIST = {"sbom:sbom_list": {}}


def uuids(sbom):
    return [entry["id"][1] for entry in ask(sbom, LIST)["sbom_list"]]


# -- the profile


@pytest.mark.req("SBOM-1", "SBOM-2", "SBOM-3", "SBOM-15")
def test_pairs_are_queries_without_arguments(sbom):
    assert Sbom.profile == "sbom"
    pairs = sbom.supported_pairs()
    assert {pair.action for pair in pairs} == {Action.QUERY}
    assert {pair.target for pair in pairs} == {f"sbom:{name}" for name in Sbom.targets}
    assert all((pair.args, pair.times) == (frozenset(), frozenset()) for pair in pairs)


@pytest.mark.req("SBOM-4", "SBOM-5")
def test_the_list_has_an_entry_for_each_kind(start):
    (first, second) = ask(start(supplier="Example Ltd"), LIST)["sbom_list"]
    assert first == {
        "id": [os.uname().nodename, first["id"][1]],
        "location": "localhost",
        "version": "1",
        "format": ["cyclonedx", "1.6"],
        "serialization": "json",
        "supplier": ["Example Ltd"],
        "author": ["oc2d-sbom"],
        "timestamp": first["timestamp"],
    }
    assert second["format"] == ["spdx", "2.3"]
    assert first["timestamp"].endswith("Z")
    with pytest.raises(BadRequest):
        query({"sbom:sbom_list": {"info": ["summary"]}})


@pytest.mark.req("SBOM-6", "SBOM-11", "SBOM-13", "SBOM-14")
def test_an_sbom_is_had_by_its_uuid_until_the_software_changes(sbom, host):
    first = uuids(sbom)
    for uuid, entry in zip(first, ask(sbom, LIST)["sbom_list"], strict=True):
        told = ask(sbom, {"sbom": {"uuid": uuid.upper()}})["sbom"]
        assert {**told, "content": None} == {**entry, "content": None}
        content = told["content"]
        assert uuid in (content.get("serialNumber") or content["documentNamespace"])
    (host / "status").write_text(DPKG.replace("5.2.15-2", "5.2.16-1"))
    second = uuids(sbom)
    assert set(first).isdisjoint(second)
    with pytest.raises(NoMatch):
        ask(sbom, {"sbom": {"uuid": first[0]}})
    assert not list((host / "state/sbom").glob(f"*{first[0]}*"))
    with pytest.raises(BadRequest):
        ask(sbom, {"sbom": {"uuid": "58156134"}})


@pytest.mark.req("SBOM-7", "SBOM-8", "SBOM-9", "SBOM-10", "SBOM-12")
def test_the_first_type_that_can_be_had_is_returned(sbom):
    def kind(target):
        return ask(sbom, target)["sbom"]["format"][0]

    assert kind({"sbom": {"type": ["SWID", "SPDX", "CycloneDX"]}}) == "spdx"
    assert kind({"sbom": {"type": ["CycloneDX", "SPDX", "SWID"]}}) == "cyclonedx"
    assert kind({"sbom:sbom": {}}) == "cyclonedx"
    assert kind({"sbom:sbom": {"type": ["spdx3", "spdx2"], "format": ["xml", "json"]}}) == "spdx"
    summary = ask(sbom, {"sbom:sbom": {"info": ["summary"]}})["sbom"]
    assert "content" not in summary
    content = ask(sbom, {"sbom:sbom": {"info": ["content"]}})["sbom"]
    assert set(content) == {"content"}
    for target in (
        {"sbom": {"type": ["swid"]}},
        {"sbom:sbom": {"type": ["spdx3"]}},
        {"sbom:sbom": {"format": ["xml"]}},
        {"sbom:sbom": {"info": ["blob"]}},
    ):
        with pytest.raises(NotSupported, match="Option not supported"):
            ask(sbom, target)
    for target in (
        {"sbom": {"type": []}},
        {"sbom": {"type": "spdx"}},
        {"sbom:sbom": {"info": ["all"]}},
        {"sbom:sbom": {"colour": 1}},
        {"sbom:uuid": 7},
    ):
        with pytest.raises(BadRequest):
            ask(sbom, target)


@pytest.mark.req("SBOM-17")
def test_the_phrases_are_those_of_the_profile(sbom):
    assert sbom.refusal(Reason.PAIR, Action.QUERY, "file") == "Target not supported"
    assert sbom.refusal(Reason.PAIR, Action.DENY, "file") == "Command not supported"
    assert sbom.refusal(Reason.OPTION, Action.QUERY, "x") == "Option not supported"


@pytest.mark.req("SBOM-16")
def test_what_is_specified_must_fit(start):
    sbom = start(asset_id="30", named_groups=["web"], hostnames=["fw"], asset_tuple=["a", "b"])
    for fits, specifiers in (
        (True, {}),
        (True, {"hostname": "FW", "named_group": "web", "asset_id": "30"}),
        (True, {"hostname": os.uname().nodename, "asset_tuple": ["a", "b"]}),
        (False, {"hostname": "other"}),
        (False, {"named_group": "db"}),
        (False, {"asset_id": "31"}),
        (False, {"asset_tuple": ["b", "a"]}),
    ):
        assert sbom.matches(msgspec.convert(specifiers, Specifiers)) is fits
    assert sbom.matches(None)


def test_every_mistake_in_the_table_is_told():
    table = {"dpkg_status": "status", "python_directories": ["x"], "supplier": "", "colour": 1,
             "asset_tuple": "a"}  # fmt: skip
    with pytest.raises(ConfigError) as caught:
        Sbom.parse_config(table)
    assert {problem.path for problem in caught.value.problems} == set(table)


# -- the documents


@pytest.mark.req("SBOM-18", "SBOM-19")
def test_the_documents_hold_what_is_installed_and_on_what_it_depends(sbom):
    cyclonedx = ask(sbom, {"sbom:sbom": {}})["sbom"]["content"]
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(json.dumps(cyclonedx)) is None
    found = {one["name"]: one for one in cyclonedx["components"]}
    assert set(found) == {"libc6", "bash", "Foo_Bar"}
    assert found["bash"]["version"] == "5.2.15-2+b7"
    assert found["bash"]["purl"].startswith("pkg:deb/")
    assert found["libc6"]["supplier"]["name"].startswith("GNU Libc Maintainers")
    assert found["Foo_Bar"]["purl"] == "pkg:pypi/foo-bar@1.5"
    needs = {one["ref"]: one.get("dependsOn", []) for one in cyclonedx["dependencies"]}
    assert needs[found["bash"]["bom-ref"]] == [found["libc6"]["bom-ref"]]
    assert set(needs["system"]) == {one["bom-ref"] for one in found.values()}
    spdx = ask(sbom, {"sbom": {"type": ["spdx2"]}})["sbom"]["content"]
    document = JsonLikeDictParser().parse(spdx)
    assert validate_full_spdx_document(document) == []
    assert {one.name for one in document.packages} >= set(found)
    ids = {one["name"]: one["SPDXID"] for one in spdx["packages"]}
    depends = {
        (one["spdxElementId"], one["relatedSpdxElement"])
        for one in spdx["relationships"]
        if one["relationshipType"] == "DEPENDS_ON"
    }
    assert depends == {(ids["bash"], ids["libc6"])}
    references = [ref for one in spdx["packages"] for ref in one.get("externalRefs", ())]
    assert {one["referenceCategory"] for one in references} == {"PACKAGE-MANAGER"}


@pytest.mark.req("SBOM-18")
def test_the_documents_of_this_very_host_are_valid(host):
    """Of a hundred packages: the validator takes a tenth of a second for each."""
    stanzas = Path("/var/lib/dpkg/status").read_text().split("\n\n")
    (host / "status").write_text("\n\n".join(stanzas[:: max(1, len(stanzas) // 50)]))
    ours = Settings().directories()
    assert "oc2d" in {package.name for package in read(Sources(host / "none", ours)).packages}
    sbom = Sbom(Settings(dpkg_status=str(host / "status"), python_directories=()))
    (host / "state").mkdir()
    sbom.start(Context("fw-7", host / "state", host / "state", "boot", lambda: 0))
    content = ask(sbom, {"sbom:sbom": {}})["sbom"]["content"]
    assert len(content["components"]) > 20
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(json.dumps(content)) is None
    spdx = ask(sbom, {"sbom": {"type": ["spdx2"]}})["sbom"]["content"]
    assert validate_full_spdx_document(JsonLikeDictParser().parse(spdx)) == []
    assert len(spdx["packages"]) == len(content["components"]) + 1


def test_documents_are_made_once_and_kept_over_a_restart(sbom, start, host, monkeypatch):
    first = ask(sbom, {"sbom:sbom": {}})["sbom"]
    monkeypatch.setattr("oc2d_sbom.shelf.read", lambda _: pytest.fail("read again"))
    assert ask(sbom, {"sbom:sbom": {}})["sbom"] == first
    monkeypatch.undo()
    again = start()
    monkeypatch.setattr("oc2d_sbom.documents._cyclonedx", lambda *_: pytest.fail("made again"))
    assert ask(again, {"sbom:sbom": {}})["sbom"]["content"] == first["content"]
    monkeypatch.undo()
    (kept,) = (host / "state/sbom").glob("cyclonedx-*.json")
    kept.write_text("{")
    assert ask(again, {"sbom:sbom": {}})["sbom"]["content"]["components"]


def test_software_that_changes_while_it_is_asked_for_is_not_told_as_what_it_was(
    sbom, host, monkeypatch
):
    def read_and_change(sources):
        found = read(sources)
        (host / "status").write_text(DPKG.replace("5.2.15-2", "5.2.16-1"))
        return found

    monkeypatch.setattr("oc2d_sbom.shelf.read", read_and_change)
    with pytest.raises(Failed):
        ask(sbom, {"sbom:sbom": {}})
    told = ask(sbom, {"sbom:sbom": {}})["sbom"]
    assert "5.2.16-1+b7" in {one["version"] for one in told["content"]["components"]}


def test_records_that_are_not_there_hold_nothing_and_unreadable_ones_are_an_error(host, start):
    (host / "status").unlink()
    sbom = start()
    assert len(ask(sbom, {"sbom:sbom": {}})["sbom"]["content"]["components"]) == 1
    (host / "status").mkdir()
    with pytest.raises(Failed):
        ask(start(), LIST)


def test_software_that_changes_within_its_record_is_listed_anew(sbom, host):
    """A directory of Python distributions shows only which ones there are."""
    ask(sbom, {"sbom:sbom_list": {}})
    metadata = next((host / "python").glob("*/METADATA"))
    metadata.write_text(metadata.read_text().replace("Version: ", "Version: 77."))
    with pytest.raises(Failed):
        ask(sbom, {"sbom:sbom": {}})
    told = ask(sbom, {"sbom:sbom": {}})["sbom"]
    assert any(one["version"].startswith("77.") for one in told["content"]["components"])


@pytest.mark.parametrize(
    ("status", "there"),
    [
        ("hold ok installed", True),  # apt-mark hold
        ("deinstall ok installed", True),
        ("install ok triggers-pending", True),
        ("install ok unpacked", True),
        ("install reinstreq half-configured", True),
        ("deinstall ok config-files", False),
        ("purge ok not-installed", False),
        ("install reinstreq half-installed", False),
        ("", False),
    ],
)
def test_a_package_whose_files_are_there_is_told_whatever_is_wanted_of_it(
    host, start, status, there
):
    record = f"\nPackage: kept\nStatus: {status}\nVersion: 1\n"
    (host / "status").write_text(DPKG + record)
    content = ask(start(), {"sbom:sbom": {}})["sbom"]["content"]
    assert ("kept" in {one["name"] for one in content["components"]}) is there


def test_odd_records_are_read_as_far_as_they_go(host, start):
    odd = (
        DPKG.encode() + b"\nPackage: odd\nStatus: install ok installed\nVersion: \xff1\n\n  \n: x\n"
    )
    (host / "status").write_bytes(odd)
    content = ask(start(), {"sbom:sbom": {}})["sbom"]["content"]
    assert "odd" in {one["name"] for one in content["components"]}


def test_what_is_no_record_hides_no_other_and_no_record_poses_as_another(host, start):
    here = "Status: install ok installed\nVersion: 1\n"
    odd = ("Maintainer: x\n", "Package:\n", "Package: sly\nDescription: x\u2028Package: bash\n")
    (host / "status").write_text("\n".join([DPKG, *(f"{here}{one}" for one in odd)]))
    left = host / "python/left-1.dist-info"
    left.mkdir(parents=True)
    (left / "METADATA").write_bytes(b"Name: left\nVersion: 1\nAuthor: J\xf6rg\n")
    content = ask(start(), {"sbom:sbom": {}})["sbom"]["content"]
    versions = {one["name"]: one["version"] for one in content["components"]}
    assert versions == {
        "libc6": "2.36-9+deb12u10",
        "bash": "5.2.15-2+b7",
        "sly": "1",
        "left": "1",
        "Foo_Bar": "1.5",
    }
