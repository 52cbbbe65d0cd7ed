"""pf does what every profile must: without a packet filter and a name server, all else is real."""

from __future__ import annotations

from ipaddress import ip_address

import pytest

from oc2d.testing import Sample, Subject, checks
from oc2d_pf import Pf
from oc2d_pf.names import Answer


def look_up(_name):
    """Every name has two addresses."""
    return Answer((ip_address("192.0.2.8"), ip_address("2001:db8::8")), 3600.0)


class Named(Pf):
    """pf with a name server of its own."""

    def __init__(self, config):
        super().__init__(config, look_up)


def in_force(pf):
    """The rules without their numbers, in order, and what the engine has of them."""
    rules = [
        {**rule, "number": 0, "stop_time": 0, "args": {**rule.get("args", {}), "insert_rule": 0}}
        for rule in pf.status()["rules"]
    ]
    engine = pf._engine.status()["rules"]
    return rules, [(one["verdict"], one["match"], one["direction"]) for one in engine]


def rule(action, target, **args):
    return {"action": action, "target": target, **({"args": {"pf": args}} if args else {})}


NET4, NET6 = {"ipv4_net": "203.0.113.0/24"}, {"ipv6_net": "2001:db8:1::/48"}
LINK4 = {"ipv4_connection": {"protocol": "tcp", "src_addr": "192.0.2.1/32", "dst_port": 22}}
LINK6 = {"ipv6_connection": {"protocol": "udp", "dst_addr": "2001:db8::2/128", "dst_port": 53}}
MORE = {"pf:advanced_connection": {"dst_port": 22, "protocol": "tcp"}}
NAME = {"domain_name": "www.example.com"}

NUMBER, OTHER = {"pf:rule_number": 999}, {"pf:rule_number": 1000}
PF = Subject(
    Named,
    config={"backend": "dry-run", "never_block": ["198.51.100.7"]},
    samples=[
        Sample(rule("deny", NET4)),
        Sample(rule("deny", NET6, drop_process="reject", direction="both")),
        Sample(rule("deny", LINK4, insert_rule=7, description="seven")),
        Sample(rule("deny", LINK6, priority=3)),
        Sample(rule("deny", MORE)),
        Sample(rule("deny", NAME)),
        Sample(rule("allow", NET4, direction="egress", logged=True)),
        Sample(rule("allow", NET6, stateful=True)),
        Sample(rule("allow", LINK4, persistent=False)),
        Sample(rule("allow", LINK6)),
        Sample(rule("allow", MORE)),
        Sample(rule("allow", NAME, priority=0)),
        Sample(rule("query", NUMBER), after=(rule("deny", NET4, insert_rule=999),)),
        Sample(rule("delete", OTHER), after=(rule("deny", NET4, insert_rule=1000),)),
    ],
    refused=[
        Sample(rule("allow", NET4, drop_process="none"), 501),
        Sample(rule("deny", LINK4, stateful=True, drop_process="false_ack"), 501),
        Sample(rule("deny", NET4, priority=1000), 501),
        Sample(rule("deny", NET4, priority=1, insert_rule=1), 501),
        Sample(rule("deny", {"ipv4_net": "198.51.100.7/32"}), 501),
        Sample(rule("deny", {"pf:advanced_connection": {"network": "dmz"}}), 501),
        Sample(rule("deny", {"pf:advanced_connection": {}}), 400),
        Sample(rule("deny", {"ipv4_connection": {"protocol": "icmp", "dst_port": 1}}), 400),
        Sample(rule("deny", NET4, insert_rule=0), 400),
        Sample(rule("deny", NET4, direction="up"), 400),
        Sample(rule("delete", {"pf:rule_number": "1000"}), 400),
    ],
    state=in_force,
)


@pytest.mark.parametrize("check", checks(PF), ids=str)
def test_pf_conforms(check, tmp_path):
    check.run(tmp_path)
