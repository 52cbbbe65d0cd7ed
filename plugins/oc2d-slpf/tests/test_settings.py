"""`[actuators.slpf]`."""

from __future__ import annotations

from ipaddress import ip_network

import pytest

from oc2d.errors import ConfigError
from oc2d_slpf import Slpf


def problems(table):
    with pytest.raises(ConfigError) as caught:
        Slpf.parse_config(table)
    return {problem.path: problem.message for problem in caught.value.problems}


def test_an_empty_table_is_nftables_that_stays():
    settings = Slpf.parse_config({})
    assert (settings.backend, settings.at_stop) == ("nftables", "keep")


def test_networks_are_collapsed():
    settings = Slpf.parse_config({"never_block": ["192.0.2.0/25", "192.0.2.128/25", "::1"]})
    assert settings.never_block == (ip_network("192.0.2.0/24"), ip_network("::1/128"))


def test_every_mistake_is_named_with_its_path():
    found = problems(
        {
            "backnd": "nftables",
            "backend": "nftable",
            "asset_id": 30,
            "named_groups": "perimeter",
            "hostnames": ["ok", 7],
            "asset_tuple": ["x"] * 11,
            "never_block": ["192.0.2.1/24", "fe80::1%eth0"],
            "update_directories": ["updates", "/", "/etc/../etc", "/etc/a\0", "/etc/updates"],
            "at_stop": "flush",
        }
    )
    assert set(found) == {
        "backnd",
        "backend",
        "asset_id",
        "named_groups",
        "hostnames[1]",
        "asset_tuple",
        "never_block[0]",
        "never_block[1]",
        "update_directories[0]",
        "update_directories[1]",
        "update_directories[2]",
        "update_directories[3]",
        "at_stop",
    }
    assert "did you mean 'backend'?" in found["backnd"]
    assert "did you mean 'nftables'?" in found["backend"]
    assert "absolute path" in found["update_directories[0]"]
