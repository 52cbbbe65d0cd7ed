"""The table is held against others, with the owner flag and without, and made good at start."""

from __future__ import annotations

import queue
import threading
from contextlib import suppress
from itertools import takewhile

import pytest

from oc2d_slpf.__main__ import main
from oc2d_slpf.nftables import Nftables

pytestmark = [pytest.mark.root, pytest.mark.req("SLPF-38")]

THEIRS = "table ip theirs {\n\tchain c {\n\t\tip saddr 10.0.0.1 drop\n\t}\n}\n"
ATTACKS = (
    "flush ruleset\n",
    "delete table inet oc2d\n",
    "flush table inet oc2d\n",
    "flush chain inet oc2d egress\n",
    "delete element inet oc2d t1_both_ip4_n16 { 10.1.0.0 }\n",
    "insert rule inet oc2d prerouting accept\n",
)
ANEW = "delete table inet oc2d\nadd table inet oc2d\n"


@pytest.fixture
def held(namespace, bench, command):
    """An actuator with one rule in a namespace; `owner` False: on a kernel that has no owners."""

    def start(*, owner=True):
        slpf = namespace.run(bench.start, Nftables(owner=owner))
        namespace.run(slpf.execute, command("deny", "10.1.0.0/16"))
        return slpf

    yield start
    namespace.run(bench.stop)


def _list(namespace):
    return namespace.nft("list", "table", "inet", "oc2d")


def _attack(namespace, text):
    """Run nft as anybody with the capability might; return whether it was let."""
    try:
        namespace.nft(text=text)
    except AssertionError:
        return False
    return True


@pytest.mark.parametrize("attack", ATTACKS)
def test_nobody_else_can_change_a_table_with_an_owner(namespace, held, attack):
    held()
    namespace.nft(text=THEIRS)
    before = _list(namespace)
    assert "flags owner" in before or "owner" in before
    done = _attack(namespace, attack)
    assert done == (attack == "flush ruleset\n")  # which passes over what it may not touch
    assert _list(namespace) == before


@pytest.mark.parametrize("attack", ATTACKS)
def test_without_owner_the_table_is_repaired_within_a_second(namespace, held, bench, attack):
    held(owner=False)
    before = _list(namespace)
    assert _attack(namespace, attack)
    namespace.nft(text=THEIRS)
    namespace.run(bench.calls.get, True, 1.0)()
    with suppress(queue.Empty):  # the kernel may tell of one attack in two parts
        bench.calls.get(timeout=0.1)()
    assert _list(namespace) == before
    assert namespace.nft("list", "table", "ip", "theirs") == THEIRS
    # our own repair, and what others do to their own tables, are no reason to repair
    namespace.nft(text="delete table ip theirs\n")
    with pytest.raises(queue.Empty):
        bench.calls.get(timeout=0.1)


def test_the_watch_sleeps_through_our_own_commands_and_ends_with_us(namespace, held, command):
    slpf = held(owner=False)
    (thread,) = (t for t in threading.enumerate() if t.name == "oc2d-slpf-watch")
    status = f"/proc/self/task/{thread.native_id}/status"

    def switches():
        with open(status) as lines:  # noqa: PTH123 - a line of procfs
            return [line for line in lines if "ctxt_switches" in line]

    before = switches()
    for index in range(100):
        namespace.run(slpf.execute, command("deny", f"10.2.{index}.0/24"))
    assert switches() == before
    namespace.run(slpf.stop)
    assert not thread.is_alive()


def test_with_an_owner_nothing_listens(held):
    held()
    assert not [t for t in threading.enumerate() if t.name == "oc2d-slpf-watch"]


@pytest.mark.parametrize("owner", [True, False])
@pytest.mark.parametrize("attack", ATTACKS)
def test_what_others_did_while_the_daemon_was_down_is_made_good_at_start(
    namespace, held, bench, attack, owner
):
    held(owner=owner)
    before = _list(namespace)
    namespace.run(bench.kill)
    assert _attack(namespace, attack)
    namespace.run(bench.start, Nftables(owner=owner))
    assert _list(namespace) == before


@pytest.mark.parametrize(
    "change",
    [
        "add chain inet oc2d leftover { type filter hook input priority 5; policy drop; }",
        "add map inet oc2d m { type ipv4_addr : verdict; elements = { 10.1.1.1 : jump refuse } }",
        "add chain inet oc2d prerouting { policy drop; }",
        "delete chain inet oc2d output",
        "add table inet oc2d { flags dormant; }",
        ANEW,
        f"{ANEW}add chain inet oc2d prerouting {{ type filter hook input priority 0; }}",
    ],
)
def test_whatever_the_orphan_has_become_it_is_ours_again(namespace, held, bench, change):
    held()
    before = _list(namespace)
    namespace.run(bench.kill)
    if change.startswith("delete chain"):
        namespace.nft(text="flush chain inet oc2d output\n")
    _attack(namespace, change + "\n")
    namespace.run(bench.start)
    assert _list(namespace) == before


def test_the_way_from_one_mechanism_to_the_other_is_open(namespace, held, bench):
    held(owner=False)
    without = _list(namespace)
    namespace.run(bench.kill)
    namespace.run(bench.start)
    assert "owner" in _list(namespace)
    namespace.run(bench.kill)
    namespace.run(bench.start, Nftables(owner=False))
    assert _list(namespace) == without
    namespace.run(bench.stop)


def test_at_stop_remove_leaves_nothing_and_keep_leaves_the_rules(namespace, bench, command):
    for keep in (True, False):
        slpf = namespace.run(bench.start, at_stop="keep" if keep else "remove")
        namespace.run(slpf.execute, command("deny", "10.1.0.0/16"))
        namespace.run(bench.stop)
        assert ("t1_both_ip4_n16" in namespace.nft("list", "ruleset")) == keep


def test_what_a_stopped_daemon_left_is_removed_by_hand(namespace, bench, command, capsys):
    slpf = namespace.run(bench.start)
    namespace.run(slpf.execute, command("deny", "10.1.0.0/16"))
    namespace.run(bench.stop)
    namespace.nft(text=THEIRS)
    assert namespace.run(main, ["remove"]) == 0
    assert namespace.nft("list", "ruleset") == THEIRS
    assert namespace.run(main, ["remove"]) == 0  # nothing there is as well
    assert namespace.run(main, []) == 2
    assert "usage" in capsys.readouterr().err


UNPRIVILEGED = """
import os, sys, time
from ipaddress import ip_network
from itertools import takewhile
from pathlib import Path
from oc2d.actuator import Command, Context, Endpoint
from oc2d.language.values import IPv4Net
from oc2d.language.vocabulary import Action, L4Protocol
from oc2d.language.targets import IPv4Connection
from oc2d_slpf import Slpf
from oc2d_slpf.language import Args, DropProcess
from oc2d_slpf.rules import Direction, Rule, Verdict, alike
from oc2d_slpf.nftables import Nftables
from oc2d_slpf.rules import Match, encode
from tests.unprivileged import become_nobody
become_nobody(sys.argv[1:3])
slpf = Slpf(Slpf.parse_config({}))
if sys.argv[3] == "watch":
    slpf._rules.firewall._backend = Nftables(owner=False)
waiting = []
slpf.start(Context("fw", Path(sys.argv[1]), Path(sys.argv[2]), "b", lambda: 0, waiting.append))
slpf.restore(())
slpf.link_changing([Endpoint("192.0.2.1", 8883)])
def do(name, target, **args):
    answer = slpf.execute(
        Command(name, None, Action.DENY, name.partition(" ")[0], target, Args(**args))
    )
    assert answer.status == 200
do("ipv4_net", IPv4Net(ip_network("10.1.0.0/16")))
do("ipv4_net 2", IPv4Net(ip_network("10.2.0.0/16")), drop_process=DropProcess.REJECT)
do("ipv4_connection", IPv4Connection(protocol=L4Protocol.TCP, dst_port=22),
   drop_process=DropProcess.FALSE_ACK, direction=Direction.INGRESS)
# a transaction of 3.8 MB
shape = encode(Match(6, either=ip_network("2001:db8::1")), Direction.BOTH)[0]
many = [Rule(10 + n, Verdict.DROP, shape, n.to_bytes(16, "big")) for n in range(1, 120_000)]
slpf._rules.firewall.load(alike(many), ())
slpf._rules.firewall.load(slpf._rules.store.rules(), slpf._guard.endpoints)
print(open("/proc/self/status").read().partition("CapEff:")[2].split()[0], os.getuid())
print("ready", flush=True)
sys.stdin.readline()
deadline = time.monotonic() + 5
while sys.argv[3] == "watch" and not waiting and time.monotonic() < deadline:
    time.sleep(0.01)
for function in waiting:
    function()
slpf.stop()
"""


@pytest.mark.parametrize("mechanism", ["owner", "watch"])
def test_all_of_it_works_for_an_unprivileged_user_with_only_cap_net_admin(
    namespace, nobody, mechanism
):
    with nobody(UNPRIVILEGED, mechanism) as child:
        said = [line.split() for line in takewhile(lambda line: line != "ready\n", child.stdout)]
        assert said[-1] == ["0000000000001000", "65534"]
        before = _list(namespace)
        for name in ("_both_ip4_n16", "10.1.0.0", "synproxy", "192.0.2.1", "refuse"):
            assert name in before
        namespace.nft(text="flush ruleset\n")
        child.stdin.write("\n")
        child.stdin.close()
        assert child.wait(10) == 0
    # as it was, but for the owner that it has lost
    assert (
        _list(namespace).partition("set management4")[2] == before.partition("set management4")[2]
    )
