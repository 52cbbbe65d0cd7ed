"""What fails in the iptables back end, and the way back."""

from __future__ import annotations

import threading
from ipaddress import ip_network

import pytest

from oc2d.errors import ConfigError, Failed, StateError
from oc2d_slpf import Slpf
from oc2d_slpf.backend import BackendError
from oc2d_slpf.iptables import Iptables
from oc2d_slpf.iptables_tools import families
from oc2d_slpf.operations import Change
from oc2d_slpf.rules import Direction, Match, Rule, Verdict, encode
from oc2d_slpf.tiers import Tiers

from .conftest import NETS, saved, tool_in

pytestmark = pytest.mark.root


@pytest.mark.req("SLPF-38")
@pytest.mark.parametrize("first", ["IPv4 has both", "each family has another"])
def test_there_is_a_way_back_whatever_letters_are_in_use(namespace, tools, tmp_path, first):
    tools("ip6tables-restore", f'[ -e {tmp_path}/fail ] && [ "$*" = --noflush ] && exit 7')
    filter_ = Iptables(path=str(tools.place))
    namespace.run(filter_.check)
    programs = ("iptables", "ip6tables") if first == "IPv4 has both" else ("ip6tables",)
    try:
        namespace.run(filter_.replace, Tiers(_denied("10.1.0.0/16")).operations())
        kept = {name: tool_in(namespace, f"{name}-save", "-t", "filter") for name in programs}
        namespace.run(filter_.replace, Tiers(_denied("10.2.0.0/16")).operations())
        for name, text in kept.items():
            if first != "IPv4 has both":  # another letter in each family
                for hook in ("INPUT", "FORWARD", "OUTPUT"):
                    tool_in(namespace, name, "-D", hook, "1")
            tool_in(namespace, f"{name}-restore", "--noflush", text=text)
        before = saved(namespace, ours=True)
        assert {letter for letter in "ab" if f"-j oc2d-{letter}-input" in "".join(before)} == {
            *"ab"
        }
        (tmp_path / "fail").touch()
        with pytest.raises(BackendError, match=r"ended with 7.*\(the rules before are in force\)"):
            namespace.run(filter_.replace, Tiers(_denied("10.3.0.0/16")).operations())
        assert saved(namespace, ours=True) == before
        (tmp_path / "fail").unlink()
        namespace.run(filter_.replace, Tiers(_denied("10.3.0.0/16")).operations())
        after = saved(namespace, ours=True)
        assert sum("10.3.0.0" in line for line in after) == 4
        assert not [line for line in after if "10.1.0.0" in line or "10.2.0.0" in line]
        assert sum(" INPUT -j oc2d-" in line for line in after) == 2
    finally:
        filter_.close()


def _denied(net):
    match = Match(4, either=ip_network(net))
    return [Rule(1, Verdict.DROP, *encode(match, Direction.BOTH))]


def test_a_call_that_lacks_a_resource_is_made_again(namespace, tools, tmp_path):
    tools(
        "iptables-restore",
        f'[ "$*" = --noflush ] && cd {tmp_path} && echo x >> n && [ $(wc -l < n) -lt 4 ] && exit 4',
    )
    filter_ = Iptables(path=str(tools.place))
    namespace.run(filter_.check)
    namespace.run(filter_.replace, ())
    filter_.close()
    assert (tmp_path / "n").read_text() == 4 * "x\n"
    assert saved(namespace, ours=True)


@pytest.mark.req("SLPF-34", "SLPF-38")
def test_when_the_second_family_refuses_the_first_is_brought_back(namespace, tools, tmp_path):
    tools("ip6tables-restore", f'[ -e {tmp_path}/fail ] && [ "$*" = --noflush ] && exit 7')
    filter_ = Iptables(path=str(tools.place))
    namespace.run(filter_.check)
    try:
        rules = [
            Rule(n, Verdict.DROP, *encode(Match(version, source=ip_network(net)), Direction.BOTH))
            for n, (version, net) in enumerate(NETS.items())
        ]
        (tmp_path / "fail").touch()
        before = saved(namespace, ours=True)
        with pytest.raises(BackendError, match=r"ended with 7.*\(the rules before are in force\)"):
            namespace.run(filter_.replace, Tiers(rules).operations())
        assert saved(namespace, ours=True) == before == []
        (tmp_path / "fail").unlink()
        tiers = Tiers(rules[:0])
        namespace.run(filter_.replace, tiers.operations())
        before = saved(namespace)
        (tmp_path / "fail").touch()
        change = Change()
        for rule in rules:
            tiers.add(rule, change)
        with pytest.raises(BackendError, match="rules before are in force"):
            namespace.run(filter_.apply, change.operations(tiers))
        assert saved(namespace) == before
        with pytest.raises(BackendError, match="rules before are in force"):
            namespace.run(filter_.replace, tiers.operations())
        assert saved(namespace) == before
        (tmp_path / "fail").unlink()
        namespace.run(filter_.apply, change.operations(tiers))
        assert sum("-j DROP" in line for line in saved(namespace)) == 4
    finally:
        filter_.close()


def test_when_the_way_back_fails_too_it_is_said_what_is_in_force(namespace, tools, tmp_path):
    tools("ip6tables-restore", f'[ "$*" = --noflush ] && touch {tmp_path}/fail && exit 7')
    tools("iptables-restore", f"[ -e {tmp_path}/fail ] && exit 8")
    filter_ = Iptables(path=str(tools.place))
    namespace.run(filter_.check)
    try:
        with pytest.raises(BackendError, match=r"new rules for IPv4 and the old ones.*with 8"):
            namespace.run(filter_.replace, Tiers().operations())
    finally:
        filter_.close()


@pytest.mark.req("SLPF-34")
def test_a_change_that_the_kernel_refuses_leaves_nothing_of_it(namespace, bench, command, tools):
    slpf = namespace.run(bench.start, Iptables(path=str(tools.place)), backend="iptables")
    namespace.run(slpf.execute, command("deny", "10.1.0.0/16"))
    before = saved(namespace, ours=True)
    tools("iptables-restore", "exit 1")
    with pytest.raises(Failed, match="Rule not updated"):
        namespace.run(slpf.execute, command("deny", "10.2.0.0/16"))
    assert saved(namespace, ours=True) == before
    tools.link("iptables-restore", "iptables-restore")
    namespace.run(slpf.execute, command("deny", "10.3.0.0/16"))
    assert not any("10.2.0.0" in line for line in saved(namespace))
    assert sum("10.3.0.0" in line for line in saved(namespace)) == 4


def test_a_socket_that_fails_hides_no_other_failure_and_no_change(namespace, filter_):
    """The kernel may lack the memory to tell the generation."""
    told = threading.Event()
    namespace.run(filter_.watch, told.set)
    sock = filter_._connection.netlink._socket
    with pytest.raises(BackendError, match="theirs"), filter_._unwatched():  # noqa: PT012 - inside
        sock.close()
        raise BackendError("theirs")
    assert told.is_set()  # whether others changed something is not known
    with pytest.raises(BackendError, match="netlink"):
        namespace.run(filter_.replace, ())
    assert saved(namespace, ours=True) == []


def test_the_legacy_variant_is_refused(namespace, tools, monkeypatch):
    tools.link("ip6tables-restore", "ip6tables-legacy-restore")
    with pytest.raises(StateError, match=r"legacy variant.*install or select the nf_tables"):
        namespace.run(Iptables(path=str(tools.place)).check)
    monkeypatch.setenv("PATH", str(tools.place))
    with pytest.raises(ConfigError, match="legacy variant") as caught:
        Slpf.parse_config({"backend": "iptables"})
    assert [problem.path for problem in caught.value.problems] == ["backend"]


def test_no_test_changes_the_rules_of_this_machine():
    with pytest.raises(AssertionError, match="outside a namespace"):
        families()[0].change([":oc2d-a-never - [0:0]"])


def test_missing_programs_are_named(tools):
    (tools.place / "ip6tables-save").unlink()
    with pytest.raises(StateError, match="not installed here: there is no ip6tables-save"):
        families(str(tools.place))


def test_a_start_without_rights_says_what_is_needed_and_leaves_nothing(namespace, told_nobody):
    told = told_nobody(Iptables)
    assert told.startswith("cannot use iptables: ")
    assert "give CAP_NET_ADMIN as an ambient capability" in told
    assert namespace.nft("list", "ruleset") == ""
