"""The nftables back end on a real kernel: what packets do is in test_packets."""

from __future__ import annotations

import re
import threading
import time
from ipaddress import ip_network

import pytest

from oc2d.errors import StateError
from oc2d_slpf.backend import BackendError
from oc2d_slpf.netlink import Netlink
from oc2d_slpf.nftables import Nftables
from oc2d_slpf.operations import AddKeys, Change, SetId
from oc2d_slpf.rules import Direction, Match, Rule, Verdict, encode
from oc2d_slpf.tiers import Tiers

pytestmark = pytest.mark.root


def _key(index):
    return (0x0A000000 + index).to_bytes(4, "big")


def _rules(count):
    shape, _ = encode(Match(4, either=ip_network("10.0.0.1")), Direction.BOTH)
    return [Rule(index + 1, Verdict.DROP, shape, _key(index)) for index in range(count)]


@pytest.mark.req("SLPF-34")
def test_a_refused_change_leaves_nothing_of_it(namespace, filter_):
    tiers = Tiers(_rules(3))
    namespace.run(filter_.replace, tiers.operations())
    before = namespace.nft("list", "ruleset")
    change = Change()
    rule = _rules(4)[3]
    tiers.add(rule, change)
    unknown = AddKeys(SetId(99, rule.shape), (rule.key,))
    with pytest.raises(BackendError):
        namespace.run(filter_.apply, [*change.operations(tiers), unknown])
    assert namespace.nft("list", "ruleset") == before


def test_a_hundred_thousand_rules_are_loaded_in_seconds_and_the_next_is_as_quick(
    namespace, filter_
):
    rules = _rules(100_001)
    tiers = Tiers(rules[:-1])
    start = time.monotonic()
    namespace.run(filter_.replace, tiers.operations())
    loaded = time.monotonic() - start
    change = Change()
    tiers.add(rules[-1], change)
    start = time.monotonic()
    namespace.run(filter_.apply, change.operations(tiers))
    print(f"loaded {loaded:.2f} s, one more {(time.monotonic() - start) * 1000:.1f} ms")  # noqa: T201 - a figure
    assert loaded < 10


def test_the_table_stays_at_stop_and_is_replaced_at_start(namespace, bench, command):
    slpf = namespace.run(bench.start)
    namespace.run(slpf.execute, command("deny", "10.1.0.0/16"))
    namespace.run(bench.stop)
    assert "10.1.0.0" in namespace.nft("list", "table", "inet", "oc2d")
    namespace.nft(text="add chain inet oc2d leftover\n")
    namespace.run(bench.start)
    listed = namespace.nft("list", "table", "inet", "oc2d")
    assert "10.1.0.0" in listed
    assert "leftover" not in listed
    namespace.run(bench.stop)


@pytest.mark.req("SLPF-38")
def test_a_start_that_fails_leaves_nothing_behind(namespace, bench, filter_):
    """Another oc2d holds the table: it stays as it is, and so do the directories."""
    namespace.run(filter_.replace, Tiers(_rules(3)).operations())
    before = namespace.nft("list", "ruleset")
    threads = set(threading.enumerate())
    with pytest.raises(StateError, match=r"Operation not permitted.*no other oc2d"):
        namespace.run(bench.start)
    assert namespace.nft("list", "ruleset") == before
    assert not list((bench.path / "state").iterdir())
    assert set(threading.enumerate()) == threads


@pytest.mark.req("PF-40")
def test_without_owners_too_two_profiles_of_a_daemon_do_not_share_the_table(namespace):
    """Each would undo without end what the other does."""
    first, second = Nftables(owner=False), Nftables(owner=False)
    namespace.run(first.check)
    with pytest.raises(StateError, match=r"Operation not permitted.*no other oc2d"):
        namespace.run(second.check)
    namespace.run(first.close)
    namespace.run(second.check)
    namespace.run(second.close)


@pytest.mark.req("SLPF-34")
@pytest.mark.parametrize("mixed", [False, True])
def test_a_large_set_that_is_full_is_made_anew_with_more_room(
    namespace, bench, command, monkeypatch, capsys, mixed
):
    monkeypatch.setattr("oc2d_slpf.ruleset._MANY", 4)

    def rule(n):
        return command("allow" if mixed and n % 2 else "deny", f"10.0.0.{n}/32")

    def elements():
        listed = namespace.nft("list", "table", "inet", "oc2d")
        return len(re.findall(r"\b10\.0\.0\.\d+", listed)), re.findall(r"size (\d+)", listed)

    slpf = namespace.run(bench.start)
    answers = namespace.run(slpf.execute_many, [rule(n) for n in range(4)])
    namespace.run(bench.stop)
    slpf = namespace.run(bench.start)
    assert elements() == (4, ["8"])
    answers += [namespace.run(slpf.execute, rule(n)) for n in range(4, 10)]
    assert elements() == (10, ["18"])
    answers += namespace.run(slpf.execute_many, [rule(n) for n in range(10, 30)])
    assert elements() == (30, ["60"])
    assert capsys.readouterr().out.count("slpf_made_anew") == 2
    for answer in answers[:-1]:  # what becomes free is room again
        namespace.run(slpf.execute, command("delete", answer.results.rule_number))
    answers += namespace.run(slpf.execute_many, [rule(n) for n in range(59)])
    assert elements() == (59, ["60"])
    assert {answer.status for answer in answers} == {200}
    assert namespace.run(slpf.status)["kernel_refusals"] == 0
    assert "slpf_made_anew" not in capsys.readouterr().out
    namespace.run(bench.stop)


def test_without_the_capability_start_says_what_is_needed(told_nobody):
    told = told_nobody(Nftables)
    assert told.startswith("cannot use nf_tables: ")
    assert "give CAP_NET_ADMIN" in told


@pytest.mark.req("SLPF-10", "SLPF-34")
def test_what_the_kernel_can_it_is_asked_once(namespace, filter_, monkeypatch):
    """It takes 30 ms to undo a trial: for a long update file of false_ack that were hours."""
    namespace.run(filter_.replace, ())
    tried = []
    transact = Netlink.transact

    def spy(self, messages, *, try_only=False):
        tried.append(try_only)
        transact(self, messages, try_only=try_only)

    monkeypatch.setattr(Netlink, "transact", spy)
    assert all(namespace.run(filter_.can, Verdict.FALSE_ACK) for _ in range(9))
    assert tried == [True]
