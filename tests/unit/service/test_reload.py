from __future__ import annotations

import pytest
from msgspec.structs import fields

from oc2d.config import Config
from oc2d.config_file import load
from oc2d.config_keys import KEYS
from oc2d.reload import applied, changed

OLD = """
device_id = "fw-7"
[broker]
host = "a"
[actuators.slpf]
asset_id = "1"
[actuators.x-log]
"""
NEW = """
device_id = "fw-8"
namespace = "vpf"
[broker]
host = "b"
response_topic = "both"
[state]
directory = "/srv/oc2d"
[limits]
queue = 5
[policy]
order = ["slpf"]
[compat]
bare_command = true
[actuators.slpf]
timeout = 3
asset_id = "2"
never_block = ["192.0.2.0/24"]
[actuators.x-door]
"""


@pytest.fixture
def both(write):
    return load(write(OLD)), load(write(NEW))


def test_what_can_count_at_once_does_and_the_rest_waits(both):
    old, new = both
    now = applied(old, new)
    assert changed(old, now) == (
        "broker.host",
        "broker.response_topic",
        "limits.queue",
        "policy.order",
        "compat.bare_command",
        "actuators.slpf.timeout",
    )
    assert changed(now, new) == (
        "device_id",
        "namespace",
        "from",
        "state.directory",
        "actuators.slpf.asset_id",
        "actuators.slpf.never_block",
        "actuators.x-log",
        "actuators.x-door",
    )


def test_the_same_again_changes_nothing(both):
    old, new = both
    assert changed(new, new) == ()
    assert applied(old, old) == old
    assert changed(applied(old, new), applied(applied(old, new), new)) == ()


def test_every_section_is_compared():
    sections = {key.section for key in KEYS} - {"", "actuators.<nsid>"}
    plain = {key.field for key in KEYS if not key.section}
    assert {field.name for field in fields(Config)} == sections | plain | {"actuators", "plugins"}


def test_the_table_of_a_plugin_counts_at_once_but_not_whether_it_is_there(write):
    def config(text):
        return load(write('device_id = "fw-7"\n[broker]\nhost = "a"\n' + text))

    old = config("[plugins.one]\nfile = 'a'\n[plugins.two]\n")
    new = config("[plugins.one]\nfile = 'b'\n[plugins.three]\n")
    now = applied(old, new)
    assert changed(old, now) == ("plugins.one",)
    assert changed(now, new) == ("plugins.two", "plugins.three")
    kept = applied(old, new, refused=("one",))
    assert changed(old, kept) == ()
    assert changed(kept, new) == ("plugins.one", "plugins.two", "plugins.three")
