"""Which actuator carries a command out, and the queries that need none."""

from __future__ import annotations

import pytest

from oc2d.config import Limits
from oc2d.engine.ports import Channel
from tests.unit.engine.bench import deny, features
from tests.unit.engine.plugins import Window


@pytest.mark.req("LANG-35", "AMB-27", "LANG-34")
def test_the_actuator_is_chosen_in_order(build, door):
    window = Window()
    bench = build(door, window, order=["x-window"])
    chosen = [
        (dict(deny(), actuator={"x-door": {}}), {"profile": "x-window"}, door),
        (deny(), {"profile": "x-door"}, door),
        ({"action": "deny", "target": {"x-door:lock": 1}}, {}, door),
        ({"action": "deny", "target": {"x-window:pane": 1}}, {}, window),
        (deny(**{"x-door": {}}), {}, door),
        ({"action": "allow", "target": {"ipv4_net": "1.2.3.4"}}, {}, door),
        ({"action": "scan", "target": {"ipv4_net": "1.2.3.4"}}, {}, window),
        (deny(), {}, window),
    ]
    for number, (command, options, actuator) in enumerate(chosen):
        channel = Channel.PROFILE if options else Channel.ALL
        before = len(actuator.executed)
        reply = bench.answered(command, request_id=str(number), channel=channel, **options)
        assert reply.status == 200
        assert len(actuator.executed) == before + 1, number
    both = deny(**{"x-door": {}, "x-window": {}})
    assert bench.answered(both, request_id="both").status == 501


@pytest.mark.req("LANG-35")
def test_without_an_order_the_first_configured_actuator_is_chosen(build, door):
    bench = build(door, Window())
    bench.answered(deny())
    assert len(door.executed) == 1


@pytest.mark.req("LANG-53", "LANG-54", "AMB-20")
@pytest.mark.parametrize(
    ("args", "status"),
    [
        ({"response_requested": "complete"}, 200),
        ({"response_requested": "ack"}, 400),
        ({"response_requested": "status"}, 400),
        ({"start_time": 5}, 400),
        ({"x-door": {}}, 400),
        ({"foo bar": 1}, 400),
    ],
)
def test_query_features_takes_no_other_argument(bench, args, status):
    assert bench.answered(features("versions", **args)).status == status


@pytest.mark.req(
    "LANG-46", "LANG-47", "LANG-48", "LANG-49", "LANG-50", "LANG-52", "LANG-61", "LANG-90"
)
def test_query_features_tells_of_the_whole_consumer(build, door):
    bench = build(door, Window())
    assert bench.answered(features()).response == {"status": 200}
    only = bench.answered({**features("versions"), "actuator": {"x-door": {}}}, request_id="2")
    assert only.response == {"status": 200, "results": {"versions": ["1.0"]}}
    asked = features("profiles", "pairs", "rate_limit", "pairs")
    results = bench.answered(asked, request_id="3", profile="x-door", channel=Channel.PROFILE)
    assert results.response["results"] == {
        "profiles": ["x-door", "x-window"],
        "pairs": {
            "query": ["features"],
            "deny": ["x-door:lock", "ipv4_net", "x-window:pane"],
            "allow": ["ipv4_net"],
            "scan": ["ipv4_net"],
        },
    }


@pytest.mark.req("LANG-46", "LANG-49", "LANG-51")
def test_query_features_needs_no_actuator(build):
    bench = build(limits=Limits(rate_per_minute=30))
    reply = bench.answered(features("profiles", "rate_limit"))
    assert reply.response["results"] == {"profiles": [], "rate_limit": 30}
    assert bench.answered(deny(), request_id="2").status == 501
