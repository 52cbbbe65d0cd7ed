"""The back end that changes nothing says in a Producer's words what it would do."""

from __future__ import annotations

from ipaddress import ip_network

import structlog

from oc2d_slpf.backend import Permit, Unpermit
from oc2d_slpf.dry_run import DryRun
from oc2d_slpf.operations import AddKeys, DropKeys, DropSet, MakeTier, SetId
from oc2d_slpf.rules import Direction, Match, encode


def test_what_would_change_is_said_as_a_producer_would_say_it():
    shape, key = encode(Match(4, either=ip_network("203.0.113.0/24")), Direction.INGRESS)
    place, broker = SetId(1, shape), Permit("192.0.2.1", 6, 8883)
    with structlog.testing.capture_logs() as said:
        DryRun().apply(
            [
                MakeTier(1),
                AddKeys(place, (key,)),
                DropKeys(place, (key,)),
                DropSet(place),
                broker,
                Unpermit(broker),
            ]
        )
    assert [entry["step"] for entry in said if entry["log_level"] == "info"] == [
        "add ipv4_net 203.0.113.0/24 (ingress)",
        "remove ipv4_net 203.0.113.0/24 (ingress)",
        "remove all of ingress_ip4_n24 in tier 1",
        "keep open 192.0.2.1 tcp port 8883",
        "no longer keep open 192.0.2.1 tcp port 8883",
    ]
    assert sum(entry["log_level"] == "debug" for entry in said) == 6
