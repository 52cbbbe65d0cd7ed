"""Who else changes the rules of iptables: theirs stay, and ours come back."""

from __future__ import annotations

import errno
import queue
import subprocess
import threading
from contextlib import suppress

import pytest

from oc2d.actuator import Endpoint
from oc2d_slpf.backend import BackendError
from oc2d_slpf.iptables import Iptables
from oc2d_slpf.watch import Watch

from .conftest import NETS, normal, path_of, saved, tool_in

pytestmark = pytest.mark.root

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


@pytest.mark.req("SLPF-38")
def test_rules_of_others_stay_as_they_are_over_a_life(namespace, bench, command):
    for version, name in ((4, "iptables-restore"), (6, "ip6tables-restore")):
        tool_in(namespace, name, text=FOREIGN.format(NETS[version]))
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
    tool_in(namespace, "iptables", "-N", "oc2d-a-t99-in")
    namespace.run(bench.start, backend="iptables")
    assert normal(saved(namespace, ours=True)) == normal(kept)


def test_jumps_to_the_chains_of_both_letters_are_replaced_by_one_that_is_first(
    namespace, bench, command
):
    slpf = namespace.run(bench.start, backend="iptables")
    namespace.run(slpf.execute, command("deny", "10.1.0.0/16"))
    kept = tool_in(namespace, "iptables-save", "-t", "filter").splitlines()
    namespace.run(slpf._rules.firewall.repair)
    tool_in(namespace, "iptables", "-I", "INPUT", "-j", "ACCEPT")
    # rules kept from before are put back beside those that are there
    tool_in(namespace, "iptables-restore", "--noflush", text="\n".join([*kept, ""]))
    namespace.run(slpf._rules.firewall.repair)
    assert " -j oc2d-" in tool_in(namespace, "iptables", "-S", "INPUT", "1")
    jumps = tool_in(namespace, "iptables", "-S", "INPUT").count("-j oc2d-")
    assert jumps == 1


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
    tool_in(namespace, *attack.split())
    namespace.run(bench.calls.get(timeout=2.0))
    with suppress(queue.Empty):  # the kernel may tell of one attack in two parts
        while True:
            namespace.run(bench.calls.get(timeout=0.2))
    assert normal(saved(namespace, ours=True)) == normal(before)
    for hook in ("INPUT", "FORWARD", "OUTPUT"):
        for tool in ("iptables", "ip6tables"):
            assert " -j oc2d-" in tool_in(namespace, tool, "-S", hook, "1")


LATIN = b"caf\xe9"


def test_a_rule_of_others_that_is_no_text_stops_nothing(namespace, bench, command):
    def theirs():
        rule = ("-I", "INPUT", "-m", "comment", "--comment", LATIN, "-j", "ACCEPT")
        tool_in(namespace, "iptables", *rule)

    theirs()
    slpf = namespace.run(bench.start, backend="iptables", at_stop="remove")
    namespace.run(slpf.execute, command("deny", "10.1.0.0/16"))
    theirs()
    namespace.run(bench.calls.get(timeout=2.0))
    assert " -j oc2d-" in tool_in(namespace, "iptables", "-S", "INPUT", "1")
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
    tool_in(namespace, "iptables", "-F", "INPUT")
    assert told.get(timeout=2.0) == 1
    assert told.get(timeout=2.0) == 2  # what it could not read is still there


def test_a_watch_that_can_never_read_takes_its_time_and_ends(namespace, filter_, monkeypatch):
    reads = []
    monkeypatch.setattr(Watch, "_read", lambda self: reads.append(self) or 1 / 0)
    namespace.run(filter_.replace, ())
    told = threading.Event()
    namespace.run(filter_.watch, told.set)
    tool_in(namespace, "iptables", "-F", "INPUT")
    assert told.wait(2.0)
    tool_in(namespace, "iptables", "-F", "INPUT")
    assert len(reads) == 1
    filter_.close()
    assert not [t for t in threading.enumerate() if t.name == "oc2d-slpf-watch"]


def test_what_others_do_elsewhere_and_what_we_do_is_no_reason_to_repair(namespace, bench, command):
    slpf = namespace.run(bench.start, backend="iptables")
    for index in range(3):
        namespace.run(slpf.execute, command("deny", f"10.{index}.0.0/16"))
        namespace.run(slpf.execute, command("allow", f"10.{index}.1.0/24"))
    namespace.run(slpf._rules.firewall.repair)
    tool_in(namespace, "iptables", "-A", "INPUT", "-s", "192.0.2.1", "-j", "DROP")
    tool_in(namespace, "iptables", "-t", "nat", "-A", "OUTPUT", "-j", "ACCEPT")
    namespace.nft(text="add table inet filter\nadd chain inet filter INPUT\n")
    with pytest.raises(queue.Empty):
        bench.calls.get(timeout=0.3)
    namespace.run(bench.stop)
    assert not [t for t in threading.enumerate() if t.name == "oc2d-slpf-watch"]


def test_others_who_change_rules_at_the_same_time_do_not_disturb(namespace, bench, command):
    tool_in(namespace, "iptables", "-N", "theirs")
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
    once = f"rm {tmp_path}/once 2>&- && {path_of('iptables')} -F INPUT"
    tools("iptables-restore", f'[ "$*" = --noflush ] && {once}')
    slpf = namespace.run(bench.start, Iptables(path=str(tools.place)), backend="iptables")
    namespace.run(slpf.execute, command("deny", "10.1.0.0/16"))
    (tmp_path / "once").touch()
    with pytest.raises(BackendError, match="rules before are in force"):
        namespace.run(slpf._rules.firewall.repair)
    assert " -j oc2d-" not in tool_in(namespace, "iptables", "-S", "INPUT")
    namespace.run(bench.calls.get(timeout=2.0))
    assert " -j oc2d-" in tool_in(namespace, "iptables", "-S", "INPUT", "1")
