"""slpf does what every profile must: all of it on paper, some of it in the kernel.

`OC2D_LONG=1` puts all of it to the kernel, on both back ends.
"""

from __future__ import annotations

import json
import os
from dataclasses import replace

import pytest

from oc2d.testing import Sample, Subject, checks
from oc2d_slpf import Slpf


def in_force(slpf):
    """The rules without their numbers, in order."""
    rules = slpf.status()["rules"]
    return [{k: v for k, v in rule.items() if k not in {"number", "key", "stop"}} for rule in rules]


def updates(directory):
    """A configuration with a directory of update files, and one file in it."""
    (directory / "rules.json").write_text(json.dumps([rule("deny", NET4), rule("allow", NET6)]))
    return {
        "backend": "dry-run",
        "never_block": ["198.51.100.7"],
        "update_directories": [str(directory)],
    }


def rule(action, target, **args):
    return {"action": action, "target": target, **({"args": {"slpf": args}} if args else {})}


NET4, NET6 = {"ipv4_net": "203.0.113.0/24"}, {"ipv6_net": "2001:db8:1::/48"}
LINK4 = {"ipv4_connection": {"protocol": "tcp", "src_addr": "192.0.2.1/32", "dst_port": 22}}
LINK6 = {"ipv6_connection": {"protocol": "udp", "dst_addr": "2001:db8::2/128", "dst_port": 53}}
NUMBER = {"slpf:rule_number": 1000}
SLPF = Subject(
    Slpf,
    config=updates,
    samples=[
        Sample(rule("deny", NET4)),
        Sample(rule("deny", NET6, drop_process="reject", direction="ingress")),
        Sample(rule("deny", LINK4, insert_rule=7)),
        Sample(rule("deny", LINK6)),
        Sample(rule("allow", NET4, direction="egress")),
        Sample(rule("allow", NET6)),
        Sample(rule("allow", LINK4, persistent=False)),
        Sample(rule("allow", LINK6)),
        Sample(rule("update", {"file": {"name": "rules.json"}})),
        Sample(rule("delete", NUMBER), after=(rule("deny", NET4, insert_rule=1000),)),
    ],
    refused=[
        Sample(rule("update", {"file": {"path": "/etc", "name": "rules.json"}}), 403),
        Sample(rule("update", {"file": {"name": "../rules.json"}}), 403),
        Sample(rule("allow", NET4, drop_process="none"), 501),
        Sample(rule("deny", {"ipv4_net": "198.51.100.7/32"}), 501),
        Sample(rule("deny", {"ipv4_connection": {"protocol": "icmp", "dst_port": 1}}), 400),
        Sample(rule("deny", NET4, insert_rule=0), 400),
        Sample(rule("deny", NET4, insert_rule=True), 400),
        Sample(rule("deny", NET4, direction="up"), 400),
        Sample(rule("delete", {"slpf:rule_number": "1000"}), 400),
    ],
    state=in_force,
)


LONG = bool(os.environ.get("OC2D_LONG"))
QUICK = {"a_window_ends_no_lasting_command", "many_at_once_are_one_after_the_other"}


def in_kernel(backend):
    return replace(SLPF, config=lambda directory: {**updates(directory), "backend": backend})


@pytest.mark.root
@pytest.mark.parametrize("backend", ["nftables", "iptables"] if LONG else ["nftables"])
@pytest.mark.parametrize("rule", [c.rule.name for c in checks(SLPF) if LONG or str(c) in QUICK])
def test_slpf_conforms_in_the_kernel(backend, rule, namespace, tmp_path):
    (check,) = (check for check in checks(in_kernel(backend)) if str(check) == rule)
    namespace.run(check.run, tmp_path, patience=110)


@pytest.mark.parametrize("check", checks(SLPF), ids=str)
def test_slpf_conforms(check, tmp_path):
    check.run(tmp_path)
