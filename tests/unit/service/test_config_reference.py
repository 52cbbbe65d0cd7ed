from __future__ import annotations

import re

import pytest

from oc2d.config_file import inspect, load
from oc2d.config_keys import KEYS, SECTIONS


@pytest.mark.parametrize("key", KEYS, ids=lambda key: key.path)
def test_the_reference_has_every_key_with_value_default_and_meaning(root, key):
    row = f"| `{key.name}` | {key.kind} | {key.default} | {key.meaning} |"
    assert row in (root / "docs/configuration.md").read_text().splitlines()


def test_the_reference_has_no_other_keys(root):
    core = (root / "docs/configuration.md").read_text().split("### `[actuators.slpf]`")[0]
    rows = re.findall(r"^\| `(\w+)` \|", core, re.MULTILINE)
    assert rows == [key.name for key in KEYS]


def test_every_field_of_the_configuration_has_a_key():
    fields = {
        (section, name) for section, type_ in SECTIONS.items() for name in type_.__struct_fields__
    }
    tables = {("", name) for name in (*SECTIONS, "actuators", "plugins")}
    tables |= {("actuators.<nsid>", "name"), ("actuators.<nsid>", "options")}
    assert {(key.section, key.field) for key in KEYS} == fields - tables


def test_the_installed_file_misses_only_what_a_user_must_say(root):
    findings = inspect(root / "etc/oc2d.toml")
    assert [problem.path for problem in findings.problems] == ["device_id", "broker.host"]


def test_the_installed_file_loads_when_the_host_and_the_device_are_named(root, write):
    text = (root / "etc/oc2d.toml").read_text()
    text = text.replace("# device_id", "device_id").replace("# host", "host")
    assert load(write(text)).device_id == "fw-7"


def test_the_installed_file_shows_every_key_with_a_legal_value(root, write):
    text = (root / "etc/oc2d.toml").read_text()
    shown = re.sub(r"^# (\w+ = |\[actuators|\[metrics|\[plugins)", r"\1", text, flags=re.MULTILINE)
    # The keys that go with each actuator stand above the first table of one.
    loose = re.findall(r"^(?:enabled|required|timeout) = .*\n", shown, re.MULTILINE)
    for line in loose:
        shown = shown.replace(line, "")
    shown = shown.replace("[actuators.slpf]", "[actuators.slpf]\n" + "".join(loose))
    config = load(write(shown))
    assert config.actuators["slpf"].options == {}
    assert set(config.actuators["x-log"].options) == {"profiles", "pairs"}
    for key in KEYS:
        assert re.search(rf"^# {key.name} = ", text, re.MULTILINE), key.path


@pytest.mark.parametrize("key", [k for k in KEYS if not k.required], ids=lambda key: key.path)
def test_the_defaults_in_the_installed_file_are_the_real_ones(root, key):
    line = re.search(rf"^# {key.name} = (\S+)", (root / "etc/oc2d.toml").read_text(), re.MULTILINE)
    if key.default in ("true", "false") or key.default.isdigit():
        assert line
        assert line[1] == key.default
