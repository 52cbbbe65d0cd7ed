"""`oc2d plugins` tells why a plugin does not appear, whatever the reason."""

from __future__ import annotations

import json
import sys

import pytest

from oc2d.actuator import API_VERSION
from oc2d.plugins import discover

CONFIG = 'device_id = "fw-7"\n[broker]\nhost = "h"\n'
DOOR = """
from oc2d.actuator import Actuator, Response, pair

class Plugin(Actuator):
    profile = "x-door"
    @pair("deny", "device")
    def lock(self, command): return Response()
"""


@pytest.fixture
def told(oc2d, write):
    """What `oc2d plugins` prints."""

    def told(*options, tables="", env=None):
        done = oc2d("plugins", *options, "--config", write(CONFIG + tables), env=env)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return told


def metadata(site, name, *lines, version="1.2", entries=""):
    info = site / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir(parents=True)
    text = [f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}", *lines]
    (info / "METADATA").write_text("\n".join(text) + "\n")
    (info / "entry_points.txt").write_text(entries)


@pytest.mark.parametrize(
    ("name", "lines"), [("oc2d-door", ()), ("acme", ("Requires-Dist: oc2d<0.2,>=0.1",))]
)
def test_a_distribution_without_an_entry_point_is_named(told, site, name, lines):
    metadata(site, name, *lines)
    assert (
        "-: failed (has no entry point: [project.entry-points.oc2d] is missing in its "
        f"pyproject.toml)\n  from {name} 1.2\n  in {site}"
    ) in told()


def test_what_is_not_meant_to_be_a_plugin_is_passed_over(told, site):
    metadata(site, "acme", "Requires-Dist: oc2d-tools", "Requires-Dist: oc2d.x")
    metadata(site, "other")
    (site / "acme.py").touch()
    assert "acme" not in told()


def test_entry_points_of_a_wrong_group_are_named(told, site):
    metadata(site, "oc2d-door", entries="[oc2d.plugins]\ndoor = oc2d_door:Door\n")
    (site / "oc2d_door.py").touch()
    text = told()
    assert "its entry points are of the group oc2d.plugins; it must be oc2d" in text
    assert "belongs to no distribution" not in text


def test_a_module_that_was_copied_is_named(told, site):
    (site / "oc2d_door.py").write_text(DOOR)
    (site / "oc2d_package").mkdir()
    text = told()
    for name in ("oc2d_door.py", "oc2d_package"):
        assert f"{site}/{name} belongs to no distribution: pip writes what" in text


def test_an_older_copy_behind_another_is_named(told, install, site, tmp_path):
    install("acme-door", DOOR)
    metadata(tmp_path / "old", "acme-door", version="1.1", entries="[oc2d]\na = acme_door:Plugin\n")
    text = told(env={"PYTHONPATH": f"{site}:{tmp_path / 'old'}"})
    assert f"-: off (hidden by acme-door in {site})\n  from acme-door 1.1" in text


def test_it_says_where_it_looked_with_which_python_and_what_was_there(
    told, install, site, tmp_path
):
    install("acme-door", DOOR)
    text = told(env={"PYTHONPATH": f"{site}:{tmp_path / 'gone'}"})
    assert sys.executable in text
    assert f"\n  {site}: acme-door\n" in text
    assert f"\n  {tmp_path / 'gone'}: is not there\n" in text


def test_the_source_of_an_editable_install_is_named(told, site, tmp_path):
    source = tmp_path / "my source"
    source.mkdir()
    metadata(site, "acme-door", entries="[oc2d]\na = acme_door:Plugin\n")
    origin = {"url": source.as_uri(), "dir_info": {"editable": True}}
    (site / "acme_door-1.2.dist-info/direct_url.json").write_text(json.dumps(origin))
    text = told(env={"PYTHONPATH": f"{site}:{source}"})
    assert f"\n  {source}: source of acme-door (editable)\n" in text


def test_an_import_that_fails_is_told_with_its_line_and_what_the_plugin_needs(told, install, site):
    install("acme-door", "\nimport no_such_library\n")
    text = told()
    assert "ModuleNotFoundError: No module named 'no_such_library'; install what" in text
    assert f"  at {site}/acme_door.py line 2\n" in text
    info = site / "acme_door-1.2.dist-info/METADATA"
    info.write_text(info.read_text() + "Requires-Dist: oc2d<0.9,>=0.8\n")
    assert f"  in {site}, which needs oc2d<0.9,>=0.8\n" in told()


@pytest.mark.parametrize("api", [(API_VERSION[0] + 1, 0), (API_VERSION[0], API_VERSION[1] + 1)])
def test_a_plugin_for_another_interface_is_not_loaded_and_says_so(install, api):
    install("acme-door", f"{DOOR}\n    api = {api}\n")
    install("acme-gate", f"{DOOR.replace('door', 'gate')}\n    api = {API_VERSION}\n")
    registry = discover()
    (reason,) = [one.reason for one in registry.failures]
    assert f"needs version {api[0]}.{api[1]} of the interface for plugins, this oc2d has" in reason
    assert "x-gate" in registry.found


def test_a_conflict_names_both_and_loads_neither(told, install):
    install("acme-door", DOOR)
    install("zeta-door", DOOR)
    rows = json.loads(told("--json", tables="[actuators.x-door]\nrequired = false\n"))
    claims = [row for row in rows if "is claimed by" in row["reason"]]
    named = {row["distribution"] for row in claims} - {None}
    assert named == {"acme-door", "zeta-door"}
    assert all(row["state"] == "failed" for row in claims)
    assert "uninstall all but one" in claims[0]["reason"]


def test_hooks_are_named_with_their_place_in_the_order(told, install):
    install(
        "acme-policy",
        "from oc2d.hookspecs import hookimpl\n"
        "@hookimpl\ndef oc2d_authorise(request): pass\n"
        "@hookimpl\ndef oc2d_request(request): pass\n",
        target=None,
    )
    text = told()
    assert (
        "-: on\n  from acme-policy 1.2 (plugin)\n"
        "  hooks, loaded as number 1: oc2d_authorise, oc2d_request\n"
    ) in text


def test_a_record_with_a_byte_that_is_no_utf_8_stops_nothing(told, install, site):
    install("acme-door", DOOR)
    install("acme-gate", DOOR.replace("door", "gate"))
    for name in ("acme_door-1.2", "other-1.0"):
        info = site / f"{name}.dist-info"
        info.mkdir(exist_ok=True)
        (info / "METADATA").write_bytes(b"Metadata-Version: 2.1\nName: x\nAuthor: J\xf6rg\n")
    text = told()
    assert "x-door: off" in text
    assert "x-gate: off" in text
