"""What a change of the rule list costs in operations, and how few tiers a list needs."""

from __future__ import annotations

from ipaddress import ip_network

import pytest

from oc2d_slpf.operations import AddKeys, AddRanks, Change, DropKeys, Order, rank
from oc2d_slpf.rules import Direction, Logged, Match, Rule, Verdict, encode, judgement
from oc2d_slpf.tiers import Tiers


@pytest.mark.parametrize("verdict", [*Verdict, Logged(Verdict.DROP, 7)])
def test_a_verdict_is_read_back_as_it_was_stored(verdict):
    assert judgement(verdict.value) == verdict
    for wrong in ("", "drop#", "drop#x", "dropped", "drop#7#8"):
        with pytest.raises(ValueError, match=r"not a valid|invalid literal"):
            judgement(wrong)


def _rule(number, verdict=Verdict.DROP, text=None):
    match = Match(4, either=ip_network(text or f"10.0.{number % 256}.0/24"))
    return Rule(number, verdict, *encode(match, Direction.BOTH))


def _after(tiers, edit):
    change = Change()
    edit(change)
    return change.operations(tiers)


def test_a_rule_of_a_known_shape_is_one_element():
    tiers = Tiers(_rule(number) for number in range(1, 200))
    (added,) = _after(tiers, lambda change: tiers.add(_rule(1000), change))
    assert isinstance(added, AddKeys)
    assert len(added.keys) == 1
    (dropped,) = _after(tiers, lambda change: tiers.remove(_rule(1000), change))
    assert isinstance(dropped, DropKeys)
    assert len(dropped.keys) == 1


def test_two_rules_of_one_match_share_an_element():
    tiers = Tiers([_rule(1, text="10.9.0.0/24"), _rule(2)])
    assert _after(tiers, lambda change: tiers.add(_rule(3, text="10.9.0.0/24"), change)) == []
    first = _rule(1, text="10.9.0.0/24")
    assert _after(tiers, lambda change: tiers.remove(first, change)) == []


def test_what_comes_and_goes_in_one_change_costs_nothing_but_the_order():
    tiers = Tiers(_rule(number) for number in range(1, 10))

    def edit(change):
        tiers.add(_rule(5000, Verdict.ALLOW), change)
        tiers.remove(_rule(5000, Verdict.ALLOW), change)

    (only,) = _after(tiers, edit)
    assert isinstance(only, Order)


def test_a_split_moves_the_smaller_half_and_is_healed():
    tiers = Tiers(_rule(number) for number in range(10, 200, 2))
    operations = _after(tiers, lambda change: tiers.add(_rule(15, Verdict.ALLOW), change))
    moved = sum(len(step.keys) for step in operations if isinstance(step, DropKeys))
    assert moved == 3
    assert len(tiers.order().tiers) == 3
    _after(tiers, lambda change: tiers.remove(_rule(15, Verdict.ALLOW), change))
    assert len(tiers.order().tiers) == 1


def test_rules_that_come_and_go_do_not_grind_the_list_to_ever_more_tiers():
    tiers = Tiers(_rule(number) for number in range(2, 1000, 2))
    for number in range(101, 901, 20):
        _after(tiers, lambda change, n=number: tiers.add(_rule(n, Verdict.ALLOW), change))
        _after(tiers, lambda change, n=number: tiers.remove(_rule(n, Verdict.ALLOW), change))
    assert len(tiers.order().tiers) == 1


def _connection(number, verdict, **fields):
    match = Match(4, **fields)
    return Rule(number, verdict, *encode(match, Direction.BOTH))


def _alternating(count, **fixed):
    verdicts = (Verdict.ALLOW, Verdict.DROP)
    return [
        _connection(10 * n, verdicts[n % 2], source=ip_network((n << 8, 32)), **fixed)
        for n in range(1, count + 1)
    ]


@pytest.mark.parametrize("order", ["newest ahead", "newest behind", "anywhere", "at once"])
def test_alternating_verdicts_of_disjoint_sources_need_two_tiers(order):
    rules = _alternating(400)
    tiers = Tiers(rules if order == "at once" else ())
    if order != "at once":
        keys = {"newest ahead": lambda r: -r.number, "newest behind": lambda r: r.number}
        scattered = sorted(rules, key=lambda r: r.number * 7919 % 10007)
        for one in sorted(rules, key=keys[order]) if order in keys else scattered:
            _after(tiers, lambda change, r=one: tiers.add(r, change))
    assert len(tiers.order().tiers) == 2


def test_rules_of_different_families_or_lists_do_not_make_tiers_for_each_other():
    matches = {4: Match(4), 6: Match(6)}
    rules = []
    for number in range(1, 200, 4):
        for step, (direction, version) in enumerate(
            (d, v) for d in (Direction.INGRESS, Direction.EGRESS) for v in (4, 6)
        ):
            verdict = (Verdict.ALLOW, Verdict.DROP)[step % 2]
            rules.append(Rule(number + step, verdict, *encode(matches[version], direction)))
    assert len(Tiers(rules).order().tiers) == 2


def test_a_rule_across_a_run_moves_only_what_is_in_its_way():
    rules = _alternating(2000)
    tiers = Tiers(rules)
    wide = _connection(10_001, Verdict.DROP, source=ip_network("0.3.224.0/20"))  # 992 to 1007
    operations = _after(tiers, lambda change: tiers.add(wide, change))
    moved = sum(len(step.keys) for step in operations if isinstance(step, DropKeys))
    assert 0 < moved <= 8
    assert len(tiers.order().tiers) <= 4
    _after(tiers, lambda change: tiers.remove(wide, change))
    for one in rules[:59]:
        _after(tiers, lambda change, r=one: tiers.remove(r, change))
    assert len(tiers.order().tiers) == 2


def test_allows_above_a_deny_of_everything_stay_one_tier_whichever_came_first():
    everything = _connection(1_000_000, Verdict.DROP)
    allows = [
        _connection(n, Verdict.ALLOW, source=ip_network((n, 32)), destination_port=n % 9)
        for n in range(1, 300)
    ]
    for rules in ([everything, *allows], [*allows, everything]):
        tiers = Tiers()
        for one in rules:
            operations = _after(tiers, lambda change, t=tiers, r=one: t.add(r, change))
            assert not any(isinstance(step, DropKeys) for step in operations)
        assert len(tiers.order().tiers) == 2


def _nets(count, prefixes=(32,)):
    """Disjoint nets, alternately allowed and denied."""
    verdicts = (Verdict.ALLOW, Verdict.DROP)
    for n in range(1, count + 1):
        net = ip_network((n << 12, prefixes[n % len(prefixes)]))
        match = Match(4, either=net)
        yield Rule(10 * n, verdicts[n % 2], *encode(match, Direction.BOTH))


@pytest.mark.parametrize("prefixes", [(32,), tuple(range(20, 33))])
@pytest.mark.parametrize("order", ["newest ahead", "newest behind", "anywhere", "at once"])
def test_alternating_verdicts_of_nets_on_either_side_need_at_most_four_tiers(order, prefixes):
    rules = list(_nets(400, prefixes))
    tiers = Tiers(rules if order == "at once" else (), ranked=True)
    keys = {"newest ahead": lambda r: -r.number, "newest behind": lambda r: r.number}
    scattered = sorted(rules, key=lambda r: r.number * 7919 % 10007)
    for one in sorted(rules, key=keys[order]) if order in keys else scattered:
        if order != "at once":
            _after(tiers, lambda change, r=one: tiers.add(r, change))
    assert len(tiers) == 400
    assert len(tiers.order().tiers) <= 4


def test_nets_of_one_verdict_need_no_ranks():
    tiers = Tiers(_nets(1), ranked=True)
    for one in list(_nets(40))[2::2]:
        operations = _after(tiers, lambda change, r=one: tiers.add(r, change))
        assert all(isinstance(step, AddKeys) for step in operations)


def test_an_opposite_net_in_the_middle_of_many_ranks_them_once_and_then_is_one_element():
    denies = [r._replace(verdict=Verdict.DROP) for r in _nets(1000)]
    tiers = Tiers(denies, ranked=True)
    allow = Rule(
        5001, Verdict.ALLOW, *encode(Match(4, either=ip_network("0.9.0.1")), Direction.BOTH)
    )
    _after(tiers, lambda change: tiers.add(allow, change))
    assert len(tiers.order().tiers) == 1
    again = Rule(
        7001, Verdict.ALLOW, *encode(Match(4, either=ip_network("0.9.0.2")), Direction.BOTH)
    )
    (added,) = _after(tiers, lambda change: tiers.add(again, change))
    assert isinstance(added, AddRanks)
    assert added.ranks == (rank(7001, Verdict.ALLOW),)


def test_a_wider_net_takes_over_the_narrower_ones_that_it_is_ahead_of():
    texts = {30: "10.0.0.1/32", 10: "10.0.0.2/32", 40: "10.9.0.1/32"}
    rules = [
        Rule(number, Verdict.DROP, *encode(Match(4, either=ip_network(text)), Direction.BOTH))
        for number, text in texts.items()
    ]
    tiers = Tiers([*rules, *list(_nets(2))], ranked=True)
    wide = Rule(
        22, Verdict.ALLOW, *encode(Match(4, either=ip_network("10.0.0.0/24")), Direction.BOTH)
    )
    operations = _after(tiers, lambda change: tiers.add(wide, change))
    ranks = [step for step in operations if isinstance(step, AddRanks)]
    assert {step.id.shape.either: step.ranks for step in ranks} == {
        24: (rank(22, Verdict.ALLOW),),
        32: (rank(22, Verdict.ALLOW),),  # of 10.0.0.1 only
    }
    operations = _after(tiers, lambda change: tiers.remove(wide, change))
    (back,) = (step for step in operations if isinstance(step, AddRanks))
    assert back.ranks == (rank(30, Verdict.DROP),)
