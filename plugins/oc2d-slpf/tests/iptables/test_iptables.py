"""What the iptables back end writes; what packets do is in `packets`, test_guard and `proof`."""

from __future__ import annotations

import random
from ipaddress import ip_network

import pytest

from oc2d.errors import NotSupported
from oc2d_slpf.backend import Permit
from oc2d_slpf.operations import Change
from oc2d_slpf.rules import Direction, Match, Rule, Verdict, encode
from oc2d_slpf.tiers import Tiers
from tests.waiting import wait_until

from .conftest import normal, saved

pytestmark = pytest.mark.root


@pytest.mark.req("SLPF-29", "SLPF-31", "AMB-55", "AMB-46")
def test_each_kind_of_rule_reads_in_iptables_as_it_should(namespace, bench, command):
    slpf = namespace.run(bench.start, backend="iptables")
    for action, target, args in (
        ("deny", "10.1.0.0/16", {"direction": "ingress"}),
        ("deny", "4 src_addr=10.2.0.0/16 dst_addr=10.3.0.1 protocol=tcp dst_port=22", {}),
        ("deny", "4 src_port=0 dst_port=53", {"direction": "egress", "drop_process": "reject"}),
        ("allow", "10.1.1.1", {"direction": "ingress"}),
        ("deny", "6 protocol=icmp", {"direction": "ingress"}),
        ("deny", "::/0", {"direction": "egress", "drop_process": "reject"}),
    ):
        namespace.run(slpf.execute, command(action, target, **args))
    lines = "\n".join(line.replace("oc2d-a-", "") for line in saved(namespace, ours=True))
    for wanted in (
        "iptables -A INPUT -j input\n",
        "iptables -A ingress -s 10.1.1.1/32 -j RETURN\n",
        "-s 10.1.0.0/16 -j DROP\n",
        "-d 10.1.0.0/16 -j DROP\n",
        "-s 10.2.0.0/16 -d 10.3.0.1/32 -p tcp -m tcp --dport 22 -j DROP\n",
        "-p udp -m udp --sport 0 --dport 53 -g refuse\n",
        "-p sctp -m sctp --sport 0 --dport 53 -g refuse\n",
        "-p ipv6-icmp -j DROP\n",
        "iptables -A answers -p tcp -m tcp --sport 0 --dport 53 -j RETURN\n",
        "ip6tables -A answers -j RETURN\n",
        "ip6tables -A refuse -j REJECT --reject-with icmp6-adm-prohibited",
    ):
        assert wanted in lines


@pytest.mark.parametrize("seed", range(2))
def test_many_small_changes_arrive_where_one_replacement_does(namespace, filter_, seed):
    dice = random.Random(seed)
    tiers, rules = Tiers(), {}
    permits = [Permit("192.0.2.1", 6, 8883), Permit("2001:db8::1", 17, 53)]
    namespace.run(filter_.replace, [*permits, *tiers.operations()])
    for _ in range(25):
        change = Change()
        for _ in range(dice.randint(1, 4)):
            if len(rules) > 25 or (rules and dice.random() < 0.3):
                tiers.remove(rules.pop(dice.choice(sorted(rules))), change)
            else:
                number = dice.choice(sorted(set(range(60)) - rules.keys()))
                version = dice.choice((4, 6))
                pool = {4: ["10.1.0.0/16", "10.1.1.0/24", "10.1.1.1"], 6: ["fd01::/16", "fd01::1"]}
                match = Match(
                    version,
                    source=ip_network(dice.choice(pool[version])),
                    destination_port=dice.choice((None, 53)),
                    protocol=dice.choice((None, 6, 17)),
                )
                verdict = dice.choice((Verdict.ALLOW, Verdict.DROP, Verdict.REJECT))
                direction = dice.choice(list(Direction))
                rules[number] = Rule(number, verdict, *encode(match, direction))
                tiers.add(rules[number], change)
        namespace.run(filter_.apply, change.operations(tiers))
    by_steps = saved(namespace, ours=True)
    namespace.run(filter_.replace, [*permits, *tiers.operations()])
    assert any("oc2d-a-t" in line for line in by_steps)
    at_once = saved(namespace, ours=True)
    assert not any("oc2d-a-" in line for line in at_once)
    assert normal(by_steps) == normal(at_once)


@pytest.mark.req("SLPF-25")
@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("field", ["either", "source", "destination"])
def test_a_rule_that_goes_leaves_those_of_other_prefix_lengths(namespace, filter_, version, field):
    nets = [f"10.0.0.0/{n}" if version == 4 else f"fd00::/{n}" for n in (24, 16, 8)]
    rules = [
        Rule(n, Verdict.DROP, *encode(Match(version, **{field: ip_network(net)}), Direction.BOTH))
        for n, net in enumerate(nets, 1)
    ]
    tiers = Tiers(rules)
    namespace.run(filter_.replace, tiers.operations())
    change = Change()
    tiers.remove(rules[1], change)
    namespace.run(filter_.apply, change.operations(tiers))
    lines = [line for line in saved(namespace, ours=True) if "-j DROP" in line]
    left = {word for line in lines for word in line.split() if word in nets}
    assert left == {nets[0], nets[2]}


def test_a_tier_that_grows_large_and_shrinks_has_each_of_its_rules_once(namespace, filter_):
    shape, _ = encode(Match(4, either=ip_network("10.0.0.1")), Direction.BOTH)
    rules = [Rule(n, Verdict.DROP, shape, (0x0A000000 + n).to_bytes(4, "big")) for n in range(400)]
    tiers = Tiers(rules[:200])
    namespace.run(filter_.replace, tiers.operations())

    def expect(numbers):
        # each as source and as destination, in both lists
        wanted = [f"{side} 10.0.{n // 256}.{n % 256}/32" for n in numbers for side in ("-s", "-d")]
        lines = [line.split() for line in saved(namespace) if "-j DROP" in line]
        assert sorted(" ".join(words[3:5]) for words in lines) == sorted(2 * wanted)

    def change(edit, rules):
        made = Change()
        for rule in rules:
            edit(rule, made)
        namespace.run(filter_.apply, made.operations(tiers))

    for edit, batch, left in (
        (tiers.add, rules[200:300], range(300)),
        (tiers.add, rules[300:], range(400)),
        (tiers.remove, rules[:1], range(1, 400)),
        (tiers.remove, rules[1:50], range(50, 400)),
        (tiers.remove, rules[50:300], range(300, 400)),
    ):
        change(edit, batch)
        expect(left)
        jumps = sum("-in-" in line and "-j oc2d" in line for line in saved(namespace))
        assert (jumps > 50) == (len(left) > 256)
    namespace.run(filter_.remove)
    assert saved(namespace, ours=True) == []


@pytest.mark.req("SLPF-10", "SLPF-11", "AMB-45")
def test_false_ack_is_refused_and_one_stored_before_is_dropped(namespace, bench, command):
    deceit = {"direction": "ingress", "drop_process": "false_ack"}
    slpf = namespace.run(bench.start)
    namespace.run(slpf.execute, command("deny", "4 protocol=tcp dst_port=22", **deceit))
    namespace.run(bench.stop)
    slpf = namespace.run(bench.start, backend="iptables")
    with pytest.raises(NotSupported, match="Option not supported"):
        namespace.run(slpf.execute, command("deny", "4 protocol=tcp dst_port=23", **deceit))
    lines = [line for line in saved(namespace, ours=True) if "--dport 22 " in line]
    assert [line.partition("--dport 22 ")[2] for line in lines] == ["-j DROP"]


@pytest.mark.req("SLPF-38", "SLPF-39")
def test_another_back_end_leaves_nothing_of_the_one_before(namespace, bench, command):
    slpf = namespace.run(bench.start)
    number = namespace.run(slpf.execute, command("deny", "10.0.0.0/8")).results.rule_number
    namespace.run(bench.stop)
    namespace.run(bench.start, backend="dry-run")  # a trial changes nothing
    namespace.run(bench.stop)
    assert "table inet oc2d" in namespace.nft("list", "tables")
    namespace.run(bench.start, backend="iptables")
    assert "table inet oc2d" not in namespace.nft("list", "tables")
    assert any("10.0.0.0/8" in line for line in saved(namespace, ours=True))
    namespace.run(bench.stop)
    slpf = namespace.run(bench.start)
    assert saved(namespace, ours=True) == []
    assert "10.0.0.0" in namespace.nft("list", "table", "inet", "oc2d")
    namespace.run(slpf.execute, command("delete", number))
    assert "10.0.0.0" not in namespace.nft("list", "table", "inet", "oc2d")


@pytest.mark.req("SLPF-38", "SLPF-39")
@pytest.mark.parametrize("then", ["nftables", "iptables"])
def test_what_another_back_end_left_is_removed_as_soon_as_that_can_be(
    namespace, bench, command, monkeypatch, then
):
    slpf = namespace.run(bench.start, backend="iptables")
    namespace.run(slpf.execute, command("deny", "10.0.0.0/8"))
    namespace.run(bench.stop)
    with monkeypatch.context() as missing:
        missing.setattr("shutil.which", lambda *_, **__: None)
        namespace.run(bench.start)
        namespace.run(bench.stop)
    assert any("10.0.0.0/8" in line for line in saved(namespace, ours=True))
    namespace.run(bench.start, backend=then)
    tables = namespace.nft("list", "tables")
    assert bool(saved(namespace, ours=True)) is (then == "iptables")
    assert ("table inet oc2d" in tables) is (then == "nftables")


UNPRIVILEGED = """
import os, sys
from ipaddress import ip_network
from pathlib import Path
from oc2d.actuator import Command, Context, Endpoint
from oc2d.language.values import IPv4Net
from oc2d.language.vocabulary import Action
from oc2d_slpf import Slpf, iptables
from oc2d_slpf.language import Args, DropProcess
from tests.unprivileged import become_nobody
become_nobody(sys.argv[1:3], ambient=True)
slpf = Slpf(Slpf.parse_config({"backend": "iptables", "at_stop": "remove"}))
waiting = []
slpf.start(Context("fw", Path(sys.argv[1]), Path(sys.argv[2]), "b", lambda: 0, waiting.append))
slpf.restore(())
slpf.link_changing([Endpoint("192.0.2.1", 8883)])
def deny(key, net, **args):
    target = IPv4Net(ip_network(net))
    command = Command(key, None, Action.DENY, "ipv4_net", target, Args(**args))
    assert slpf.execute(command).status == 200
deny("1", "10.1.0.0/16")
deny("2", "10.2.0.0/16", drop_process=DropProcess.REJECT)
print(open("/proc/self/status").read().partition("CapEff:")[2].split()[0], os.getuid(), flush=True)
sys.stdin.readline()
for function in waiting:
    function()
print("repaired", flush=True)
sys.stdin.readline()
slpf.stop()
"""


def test_all_of_it_works_for_an_unprivileged_user_with_only_cap_net_admin(namespace, nobody):
    with nobody(UNPRIVILEGED) as child:
        said = [child.stdout.readline() for _ in range(2)]
        assert said[-1].split() == ["0000000000001000", "65534"]
        before = saved(namespace, ours=True)
        assert any("-s 10.2.0.0/16 -g" in line for line in before)
        assert any("192.0.2.1" in line for line in before)
        namespace.nft(text="flush ruleset\n")
        child.stdin.write("\n")
        child.stdin.flush()
        assert "repaired\n" in iter(child.stdout.readline, "")
        wait_until(lambda: normal(saved(namespace, ours=True)) == normal(before))
        child.stdin.close()
        assert child.wait(10) == 0
    assert saved(namespace, ours=True) == []
