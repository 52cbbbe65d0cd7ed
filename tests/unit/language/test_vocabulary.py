"""The word lists are those of the tables, and the modules keep their promises."""

from __future__ import annotations

import ast
import importlib
import pkgutil
from pathlib import Path

import pytest

import oc2d.language
from oc2d.language.targets import TARGET_TYPES
from oc2d.language.vocabulary import (
    CORE_TARGETS,
    LANGUAGE_VERSIONS,
    REGISTERED_NSIDS,
    Action,
    Feature,
    L4Protocol,
    ResponseType,
    StatusCode,
    nsid_problem,
)

ACTIONS = [
    "scan",
    "locate",
    "query",
    "deny",
    "contain",
    "allow",
    "start",
    "stop",
    "restart",
    "cancel",
    "set",
    "update",
    "redirect",
    "create",
    "delete",
    "detonate",
    "restore",
    "copy",
    "investigate",
    "remediate",
]
TARGETS = {
    "artifact": 1,
    "command": 2,
    "device": 3,
    "domain_name": 7,
    "email_addr": 8,
    "features": 9,
    "file": 10,
    "idn_domain_name": 11,
    "idn_email_addr": 12,
    "ipv4_net": 13,
    "ipv6_net": 14,
    "ipv4_connection": 15,
    "ipv6_connection": 16,
    "mac_addr": 17,
    "process": 18,
    "uri": 19,
    "iri": 20,
    "properties": 25,
}


@pytest.mark.req("LANG-12", "LANG-13")
def test_there_are_exactly_the_twenty_actions():
    assert [action.value for action in Action] == ACTIONS


@pytest.mark.req("LANG-14")
def test_there_are_exactly_the_targets_of_the_table_and_each_has_a_type():
    assert dict(CORE_TARGETS) == TARGETS
    assert set(TARGET_TYPES) == set(TARGETS)


@pytest.mark.req("LANG-33", "LANG-60", "LANG-38", "LANG-48")
def test_the_small_enumerations_are_those_of_the_tables():
    assert [kind.value for kind in ResponseType] == ["none", "ack", "status", "complete"]
    assert [name.value for name in Feature] == ["versions", "profiles", "pairs", "rate_limit"]
    assert [int(code) for code in StatusCode] == [102, 200, 400, 401, 403, 404, 500, 501, 503]
    assert LANGUAGE_VERSIONS == ("1.0",)


@pytest.mark.req("LANG-68", "AMB-33")
def test_protocols_know_their_iana_numbers():
    numbers = {protocol.value: protocol.number for protocol in L4Protocol}
    assert numbers == {"icmp": 1, "tcp": 6, "udp": 17, "sctp": 132}


@pytest.mark.req("LANG-72", "LANG-83")
@pytest.mark.parametrize(
    "nsid", [*sorted(REGISTERED_NSIDS), "x-a", "x-395", "x-log", "x-a_b-C", "x-" + "a" * 14]
)
def test_registered_and_private_nsids_are_legal(nsid):
    assert nsid_problem(nsid) is None


@pytest.mark.req("LANG-72", "LANG-83", "MQTT-25")
@pytest.mark.parametrize(
    "nsid",
    [
        "",
        "acme",
        "SLPF",
        "X-a",
        "x-",
        "x-_a",
        "x--",
        "x-" + "a" * 15,
        "x-a/b",
        "x-+",
        "x-#",
        "x-\0",
        "x-a b",
        "x-a:b",
        "x-ä",
        "x-a.b",
        "x-a\n",
        "iot-front-door-lock",
    ],
)
def test_other_nsids_are_refused_with_a_reason(nsid):
    assert nsid_problem(nsid)


def modules():
    return [
        importlib.import_module(f"oc2d.language.{found.name}")
        for found in pkgutil.iter_modules(oc2d.language.__path__)
    ]


@pytest.mark.parametrize("module", modules(), ids=lambda module: module.__name__)
def test_all_is_sorted_and_true(module):
    assert sorted(module.__all__, key=_ruff_order) == module.__all__
    assert all(hasattr(module, name) for name in module.__all__)


def _ruff_order(name: str) -> tuple[int, str]:
    return (0 if name.isupper() else 1 if name[0].isupper() else 2, name)


@pytest.mark.parametrize("module", modules(), ids=lambda module: module.__name__)
def test_the_language_imports_nothing_of_ours_but_errors(module):
    for node in ast.walk(ast.parse(Path(module.__file__).read_text())):
        if isinstance(node, ast.ImportFrom) and node.module.startswith("oc2d"):
            assert node.module == "oc2d.errors" or node.module.startswith("oc2d.language")
        if isinstance(node, ast.Import):
            assert not {alias.name for alias in node.names} & {"time", "socket", "logging", "os"}
