"""The iptables back end on a real kernel: what packets do is in test_packets, test_guard, proof."""

from __future__ import annotations

import errno
import queue
import random
import shutil
import subprocess
import sys
import threading
from contextlib import suppress
from ipaddress import ip_network
from itertools import groupby
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from oc2d.actuator import Endpoint
from oc2d.errors import ConfigError, Failed, NotSupported, StateError
from oc2d_slpf import Slpf
from oc2d_slpf.backend import BackendError, Permit
from oc2d_slpf.iptables import Iptables
from oc2d_slpf.iptables_tools import families
from oc2d_slpf.operations import Change
from oc2d_slpf.rules import Direction, Match, Rule, Verdict, encode
from oc2d_slpf.tiers import Tiers
from oc2d_slpf.watch import Watch
from tests.unprivileged import environment
from tests.waiting import wait_until

pytestmark = pytest.mark.root

TOOLS = ("iptables", "iptables-save", "iptables-restore")
TOOLS += tuple(name.replace("ip", "ip6", 1) for name in TOOLS)
FILTERS = ("iptables-save", "ip6tables-save")
FOREIGN = """*filter
:INPUT ACCEPT [0:0]
:FORWARD DROP [0:0]
:theirs - [0:0]
-A INPUT -p tcp -m tcp --dport 22 -j theirs
-A OUTPUT -d {0} -j REJECT
-A theirs -s {0} -m comment --comment "oc2d-a-input is not ours" -j DROP
COMMIT
*nat
-A POSTROUTING -s {0} -j MASQUERADE
COMMIT
"""
NETS = {4: "198.51.100.0/24", 6: "2001:db8:5::/48"}


def _path(name):
    return shutil.which(name, path="/usr/sbin:/sbin:/usr/bin")


def _tool(namespace, *command, text=None):
    done = namespace.run(
        lambda: subprocess.run(
            [_path(command[0]), *command[1:]],
            input=text,
            capture_output=True,
            text=True,
            errors="backslashreplace",
            check=False,
        )
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def saved(namespace, *, ours=None):
    """All rules of both families; `ours` True or False: only those of oc2d, or only of others."""
    found = []
    for name in FILTERS:
        lines = [line for line in _tool(namespace, name).splitlines() if line[0] != "#"]
        mine = [line.startswith((":oc2d-", "-A oc2d-")) or " -j oc2d-" in line for line in lines]
        found += [
            f"{name[:-5]} {line}"
            for line, one in zip(lines, mine, strict=True)
            if ours is None or one == ours
        ]
    return found


@pytest.fixture
def bench(namespace, bench):
    """What runs in the namespace is stopped there."""
    yield bench
    namespace.run(bench.stop)


@pytest.fixture
def filter_(namespace):
    made = Iptables()
    namespace.run(made.check)
    yield made
    made.close()


@pytest.fixture
def tools(tmp_path):
    """A directory with the programs, of which some can be replaced by others or by scripts."""
    place = tmp_path / "bin"
    place.mkdir()
    for name in TOOLS:
        (place / name).symlink_to(_path(name))

    def put(name, script):
        (place / name).unlink()
        (place / name).write_text(f'#!/bin/sh\n{script}\nexec {_path(name)} "$@"\n')
        (place / name).chmod(0o755)

    def link(name, to):
        (place / name).unlink()
        (place / name).symlink_to(_path(to))

    put.place, put.link = place, link
    return put


# -- what is written


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


def _normal(lines):
    """Leave out what may differ: the letter, and the order where it means nothing."""
    found = {}
    for line in lines:
        words = line.replace("oc2d-b-", "oc2d-a-").replace(" :", " : ").split(maxsplit=3)
        family, verb, chain, rest = (*words, "")[:4]
        found.setdefault((family, chain), []).append((verb, rest))
    return {
        name: [(end, sorted(run)) for end, run in groupby(rules, lambda r: r[1].split(" -")[-1])]
        for name, rules in found.items()
    }


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
    assert _normal(by_steps) == _normal(at_once)


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


# -- others


@pytest.mark.req("SLPF-38")
def test_rules_of_others_stay_as_they_are_over_a_life(namespace, bench, command):
    for version, name in ((4, "iptables-restore"), (6, "ip6tables-restore")):
        _tool(namespace, name, text=FOREIGN.format(NETS[version]))
    before = saved(namespace)
    slpf = namespace.run(bench.start, backend="iptables", never_block=["10.9.0.0/16"])
    namespace.run(slpf.link_changing, [Endpoint("192.0.2.1", 8883)])
    numbers = [
        namespace.run(
            slpf.execute, command(("allow", "deny")[index % 3 > 0], net)
        ).results.rule_number
        for index, net in enumerate(["10.1.0.0/16", "10.1.1.1", "fd01::/16", "0.0.0.0/0", "::/0"])
    ]
    namespace.run(slpf.execute, command("delete", numbers[1]))
    assert saved(namespace, ours=False) == before
    namespace.run(bench.kill)
    namespace.run(bench.start, backend="iptables", at_stop="remove")
    assert saved(namespace, ours=False) == before
    namespace.run(bench.stop)
    assert saved(namespace) == before


def test_at_stop_keep_leaves_the_rules_and_the_next_start_replaces_them(namespace, bench, command):
    slpf = namespace.run(bench.start, backend="iptables")
    namespace.run(slpf.execute, command("deny", "10.1.0.0/16"))
    namespace.run(bench.stop)
    kept = saved(namespace, ours=True)
    assert sum("10.1.0.0" in line for line in kept) == 4
    _tool(namespace, "iptables", "-N", "oc2d-a-t99-in")
    namespace.run(bench.start, backend="iptables")
    assert _normal(saved(namespace, ours=True)) == _normal(kept)


def test_jumps_to_the_chains_of_both_letters_are_replaced_by_one_that_is_first(
    namespace, bench, command
):
    slpf = namespace.run(bench.start, backend="iptables")
    namespace.run(slpf.execute, command("deny", "10.1.0.0/16"))
    kept = _tool(namespace, "iptables-save", "-t", "filter").splitlines()
    namespace.run(slpf._rules.firewall.repair)
    _tool(namespace, "iptables", "-I", "INPUT", "-j", "ACCEPT")
    # rules kept from before are put back beside those that are there
    _tool(namespace, "iptables-restore", "--noflush", text="\n".join([*kept, ""]))
    namespace.run(slpf._rules.firewall.repair)
    assert " -j oc2d-" in _tool(namespace, "iptables", "-S", "INPUT", "1")
    jumps = _tool(namespace, "iptables", "-S", "INPUT").count("-j oc2d-")
    assert jumps == 1


@pytest.mark.req("SLPF-38")
@pytest.mark.parametrize("first", ["IPv4 has both", "each family has another"])
def test_there_is_a_way_back_whatever_letters_are_in_use(namespace, tools, tmp_path, first):
    tools("ip6tables-restore", f'[ -e {tmp_path}/fail ] && [ "$*" = --noflush ] && exit 7')
    filter_ = Iptables(path=str(tools.place))
    namespace.run(filter_.check)
    programs = ("iptables", "ip6tables") if first == "IPv4 has both" else ("ip6tables",)
    try:
        namespace.run(filter_.replace, Tiers(_denied("10.1.0.0/16")).operations())
        kept = {name: _tool(namespace, f"{name}-save", "-t", "filter") for name in programs}
        namespace.run(filter_.replace, Tiers(_denied("10.2.0.0/16")).operations())
        for name, text in kept.items():
            if first != "IPv4 has both":  # another letter in each family
                for hook in ("INPUT", "FORWARD", "OUTPUT"):
                    _tool(namespace, name, "-D", hook, "1")
            _tool(namespace, f"{name}-restore", "--noflush", text=text)
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


ATTACKS = (
    "iptables -F",
    "iptables -F INPUT",
    "ip6tables -F",
    "iptables -I FORWARD -j ACCEPT",
    "ip6tables -I OUTPUT -s fd01::1 -j ACCEPT",
    "iptables -D INPUT 1",
    "iptables -F oc2d-a-ingress",
    "iptables -A oc2d-a-t1-in -j ACCEPT",
    "nft flush ruleset",
    "nft delete table ip6 filter",
)


@pytest.mark.req("SLPF-38")
@pytest.mark.parametrize("attack", ATTACKS)
def test_what_others_do_to_our_rules_is_undone(namespace, bench, command, attack):
    slpf = namespace.run(bench.start, backend="iptables")
    namespace.run(slpf.execute, command("deny", "10.1.0.0/16"))
    before = saved(namespace, ours=True)
    _tool(namespace, *attack.split())
    namespace.run(bench.calls.get(timeout=2.0))
    with suppress(queue.Empty):  # the kernel may tell of one attack in two parts
        while True:
            namespace.run(bench.calls.get(timeout=0.2))
    assert _normal(saved(namespace, ours=True)) == _normal(before)
    for hook in ("INPUT", "FORWARD", "OUTPUT"):
        for tool in ("iptables", "ip6tables"):
            assert " -j oc2d-" in _tool(namespace, tool, "-S", hook, "1")


LATIN = b"caf\xe9"


def test_a_rule_of_others_that_is_no_text_stops_nothing(namespace, bench, command):
    def theirs():
        rule = ("-I", "INPUT", "-m", "comment", "--comment", LATIN, "-j", "ACCEPT")
        _tool(namespace, "iptables", *rule)

    theirs()
    slpf = namespace.run(bench.start, backend="iptables", at_stop="remove")
    namespace.run(slpf.execute, command("deny", "10.1.0.0/16"))
    theirs()
    namespace.run(bench.calls.get(timeout=2.0))
    assert " -j oc2d-" in _tool(namespace, "iptables", "-S", "INPUT", "1")
    namespace.run(bench.stop)
    assert saved(namespace, ours=True) == []


@pytest.mark.parametrize("error", [OSError(errno.EIO, "x"), ValueError("x")])
def test_a_watch_that_cannot_read_goes_on_and_has_all_looked_at(
    namespace, filter_, monkeypatch, error
):
    told = queue.SimpleQueue()
    read = Watch._read
    reads = []

    def fails(self):
        reads.append(self)
        if len(reads) < 2:
            raise error
        return read(self)

    monkeypatch.setattr(Watch, "_read", fails)
    monkeypatch.setattr("oc2d_slpf.watch._PAUSE", 50)
    namespace.run(filter_.replace, ())
    namespace.run(filter_.watch, lambda: told.put(len(reads)))
    _tool(namespace, "iptables", "-F", "INPUT")
    assert told.get(timeout=2.0) == 1
    assert told.get(timeout=2.0) == 2  # what it could not read is still there


def test_a_watch_that_can_never_read_takes_its_time_and_ends(namespace, filter_, monkeypatch):
    reads = []
    monkeypatch.setattr(Watch, "_read", lambda self: reads.append(self) or 1 / 0)
    namespace.run(filter_.replace, ())
    told = threading.Event()
    namespace.run(filter_.watch, told.set)
    _tool(namespace, "iptables", "-F", "INPUT")
    assert told.wait(2.0)
    _tool(namespace, "iptables", "-F", "INPUT")
    assert len(reads) == 1
    filter_.close()
    assert not [t for t in threading.enumerate() if t.name == "oc2d-slpf-watch"]


def test_what_others_do_elsewhere_and_what_we_do_is_no_reason_to_repair(namespace, bench, command):
    slpf = namespace.run(bench.start, backend="iptables")
    for index in range(3):
        namespace.run(slpf.execute, command("deny", f"10.{index}.0.0/16"))
        namespace.run(slpf.execute, command("allow", f"10.{index}.1.0/24"))
    namespace.run(slpf._rules.firewall.repair)
    _tool(namespace, "iptables", "-A", "INPUT", "-s", "192.0.2.1", "-j", "DROP")
    _tool(namespace, "iptables", "-t", "nat", "-A", "OUTPUT", "-j", "ACCEPT")
    namespace.nft(text="add table inet filter\nadd chain inet filter INPUT\n")
    with pytest.raises(queue.Empty):
        bench.calls.get(timeout=0.3)
    namespace.run(bench.stop)
    assert not [t for t in threading.enumerate() if t.name == "oc2d-slpf-watch"]


def test_others_who_change_rules_at_the_same_time_do_not_disturb(namespace, bench, command):
    _tool(namespace, "iptables", "-N", "theirs")
    slpf = namespace.run(bench.start, backend="iptables")
    script = (
        "for n in $(seq 15); do iptables -A theirs -s 10.9.0.$n -j DROP"
        " && iptables -D theirs -s 10.9.0.$n -j DROP || exit 1; done"
    )
    other = namespace.run(subprocess.Popen, ["sh", "-c", script])
    done = 0
    while other.poll() is None or done < 5:
        namespace.run(slpf.execute, command("deny", f"10.1.{done}.0/24"))
        done += 1
    assert other.wait() == 0
    with suppress(queue.Empty):
        while True:
            namespace.run(bench.calls.get(timeout=0.2))
    assert sum("-s 10.1." in line for line in saved(namespace, ours=True)) == 2 * done


def test_what_others_do_in_the_midst_of_a_repair_is_undone(
    namespace, bench, command, tools, tmp_path
):
    """Between reading and writing they take the jump away that the call is to exchange."""
    once = f"rm {tmp_path}/once 2>&- && {_path('iptables')} -F INPUT"
    tools("iptables-restore", f'[ "$*" = --noflush ] && {once}')
    slpf = namespace.run(bench.start, Iptables(path=str(tools.place)), backend="iptables")
    namespace.run(slpf.execute, command("deny", "10.1.0.0/16"))
    (tmp_path / "once").touch()
    with pytest.raises(BackendError, match="rules before are in force"):
        namespace.run(slpf._rules.firewall.repair)
    assert " -j oc2d-" not in _tool(namespace, "iptables", "-S", "INPUT")
    namespace.run(bench.calls.get(timeout=2.0))
    assert " -j oc2d-" in _tool(namespace, "iptables", "-S", "INPUT", "1")


# -- what fails


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


def test_all_of_it_works_for_an_unprivileged_user_with_only_cap_net_admin(namespace):
    # not tmp_path: nobody else may pass its parents
    with TemporaryDirectory() as path:
        Path(path).chmod(0o755)
        child = namespace.run(
            lambda: subprocess.Popen(
                [sys.executable, "-c", UNPRIVILEGED, f"{path}/s", f"{path}/r"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                env=environment(),
            )
        )
        with child:
            said = [child.stdout.readline() for _ in range(2)]
            assert said[-1].split() == ["0000000000001000", "65534"]
            before = saved(namespace, ours=True)
            assert any("-s 10.2.0.0/16 -g" in line for line in before)
            assert any("192.0.2.1" in line for line in before)
            namespace.nft(text="flush ruleset\n")
            child.stdin.write("\n")
            child.stdin.flush()
            assert "repaired\n" in iter(child.stdout.readline, "")
            wait_until(lambda: _normal(saved(namespace, ours=True)) == _normal(before))
            child.stdin.close()
            assert child.wait(10) == 0
        assert saved(namespace, ours=True) == []
