"""The order of rules whose numbers are used up, as the kernel has it: with real packets."""

from __future__ import annotations

import socket
import time

import pytest

from oc2d_slpf.nftables import Nftables

pytestmark = pytest.mark.root
PORT = 7000
QUIET = 0.1  # seconds in which a packet on a veth pair would have come


@pytest.fixture
def arrives(land):
    """A function that tells whether a datagram from far reaches the host."""
    land.start()
    receiving = land.host.run(socket.socket, socket.AF_INET, socket.SOCK_DGRAM)
    sending = land.far.run(socket.socket, socket.AF_INET, socket.SOCK_DGRAM)
    with receiving, sending:
        receiving.bind((land.ADDRESSES["host"][4], PORT))
        receiving.settimeout(QUIET)

        def told():
            mark = b"%d" % time.monotonic_ns()
            sending.sendto(mark, (land.ADDRESSES["host"][4], PORT))
            try:
                return mark in receiving.recv(100)
            except TimeoutError:
                return False

        yield told


def hurry(land, rounds, **args):
    """Rules come and the ones before them go, until those that stay have moved, more than once."""
    before = None
    for n in range(rounds):
        action = ("deny", "allow")[n % 2]
        made = land.number(action, f"198.51.{n}.0/24", priority=1, **args)
        if before is not None:
            land.do("delete", before)
        before = made
    land.do("delete", before)


@pytest.mark.req("PF-32", "PF-18")
@pytest.mark.usefixtures("narrow")
@pytest.mark.parametrize("stateful", [False, True])
def test_the_first_rule_decides_wherever_it_was_moved(land, arrives, monkeypatch, stateful):
    made = []
    replace = Nftables.replace
    monkeypatch.setattr(Nftables, "replace", lambda *args: made.append(1) or replace(*args))
    args = {"priority": 1, "stateful": stateful}
    far = land.ADDRESSES["far"][4]
    land.do("deny", "10.82.0.0/16", priority=2)
    assert not arrives()
    kept = [land.number("allow", "10.82.1.0/24", **args)]
    hurry(land, 10, stateful=stateful)
    assert arrives()
    kept.append(land.number("deny", far, **args))
    hurry(land, 10, stateful=stateful)
    assert not arrives()
    kept.append(land.number("allow", {"dst_port": PORT, "protocol": "udp"}, **args))
    assert arrives()
    hurry(land, 30, stateful=stateful)
    assert arrives()
    assert len(made) > 3
    for end in (land.stop, land.kill):
        end()
        assert arrives()
        land.start()
        assert arrives()
    assert kept == [1_000_015, 2_147_483_644, 2_147_483_633]
    for number, left in zip(kept[::-1], (False, True, False), strict=True):
        land.do("delete", number)
        assert arrives() is left


@pytest.mark.req("PF-32")
@pytest.mark.usefixtures("narrow")
def test_no_packet_meets_rules_that_are_on_their_way(land, arrives, monkeypatch):
    """The deny holds after each transaction, those that move it too."""
    far = land.ADDRESSES["far"][4]
    land.do("allow", "10.82.0.0/16", priority=2)
    hurry(land, 3)
    deny = land.number("deny", "10.82.1.0/24", priority=1)
    seen = []
    transact = land.pf._engine._rules.firewall._backend._socket.transact

    def watched(*args, **more):
        answer = transact(*args, **more)
        seen.append(arrives())
        return answer

    monkeypatch.setattr(land.pf._engine._rules.firewall._backend._socket, "transact", watched)
    hurry(land, 8)
    assert land.host.run(land.pf._store.place, deny) != deny
    assert seen
    assert not any(seen)
    land.do("allow", far, priority=1)
    assert arrives()


@pytest.mark.req("PF-18", "PF-32")
@pytest.mark.usefixtures("narrow")
@pytest.mark.parametrize("after", [False, True])
def test_a_kill_between_kernel_and_store_lets_no_packet_through(land, arrives, monkeypatch, after):
    """The kernel has the rules at their new places, or not yet; no file says so."""
    far = land.ADDRESSES["far"][4]
    land.do("allow", "10.82.0.0/16", priority=1)
    hurry(land, 5)
    deny = land.number("deny", "10.82.1.0/24", priority=1)
    land.do("allow", "10.83.0.0/16", priority=1)
    assert not arrives()
    firewall = land.pf._engine._rules.firewall
    commit = firewall.commit

    def die(change):
        if after:
            commit(change)
        raise KeyboardInterrupt

    monkeypatch.setattr(firewall, "commit", die)
    with pytest.raises(KeyboardInterrupt):
        land.do("allow", far, priority=1)
    land.kill()
    assert not arrives()
    land.start()
    assert not arrives()
    assert land.host.run(land.pf._store.place, deny) != deny
    assert land.number("allow", far, priority=1) == 2_147_483_646
    assert arrives()
