"""Stateful rules: real connections, both ways, through a real kernel."""

from __future__ import annotations

import contextlib
import select
import socket
import struct
import threading
import time
from pathlib import Path

import pytest

from oc2d.errors import NotSupported
from oc2d_slpf.__main__ import main
from oc2d_slpf.nftables import Nftables
from tests.waiting import wait_until

pytestmark = pytest.mark.root
FAMILY = {4: socket.AF_INET, 6: socket.AF_INET6}
KIND = {"tcp": socket.SOCK_STREAM, "udp": socket.SOCK_DGRAM}
WEB, OTHER = 7000, 7001
QUIET = 0.1  # seconds in which a packet on a veth pair would have come
TRACKED = "netfilter/nf_conntrack_count"


@pytest.fixture
def talk(land):
    """A function that tries to have two hosts talk: a pair of sockets, or None."""
    with contextlib.ExitStack() as stack:

        def opened(host, version, protocol, port):
            made = getattr(land, host).run(socket.socket, FAMILY[version], KIND[protocol])
            stack.callback(made.close)
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            made.bind((land.ADDRESSES[host][version], port))
            made.settimeout(QUIET)
            return made

        def begin(opener, server, *, version=4, protocol="tcp", port=WEB, own=0, to=None):
            there = opened(server, version, protocol, port)
            here = opened(opener, version, protocol, own)
            goal = (land.ADDRESSES[server][version], to or port)
            if protocol == "tcp":
                there.listen()
                try:
                    here.connect(goal)
                    there, listening = there.accept()[0], there
                except TimeoutError:
                    there.close()
                    here.close()
                    return None
                stack.callback(there.close)
                there.settimeout(QUIET)
                listening.close()
            else:
                here.connect(goal)
                try:
                    here.send(b"hello")
                    _, asker = there.recvfrom(100)
                except (TimeoutError, PermissionError):
                    there.close()
                    here.close()
                    return None
                there.connect(asker)
            return here, there

        yield begin


def says(speaker, listener):
    """Tell whether what one says reaches the other; a local drop of a datagram is an error."""
    mark = b"%d" % time.monotonic_ns()
    try:
        speaker.send(mark)
        return mark in listener.recv(1000)
    except (TimeoutError, PermissionError):
        return False


def ways(pair):
    """What opener and server say that arrives."""
    return pair is not None and (says(*pair), says(*pair[::-1]))


def web(protocol="tcp", **members):
    return {"dst_port": WEB, "protocol": protocol, **members}


@pytest.mark.req("PF-30", "PF-41", "PF-7")
@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("protocol", ["tcp", "udp"])
def test_the_answers_of_an_allowed_connection_pass_and_nothing_else(land, talk, version, protocol):
    land.start()
    land.shut()
    assert talk("far", "host", version=version, protocol=protocol) is None
    plain = land.number("allow", web(protocol))
    pair = talk("far", "host", version=version, protocol=protocol)
    # without state the question arrives and the answer does not
    assert ways(pair) == (False if protocol == "tcp" else (True, False))
    land.do("delete", plain)
    rule = land.number("allow", web(protocol), stateful=True)
    assert ways(talk("far", "host", version=version, protocol=protocol)) == (True, True)
    # what the answers may do nobody else may: not to begin from that port, not the way back
    asked = {"version": version, "protocol": protocol}
    assert talk("far", "host", port=OTHER, **asked) is None
    assert talk("host", "far", **asked) is None
    assert talk("host", "far", own=WEB, port=OTHER, **asked) is None
    assert talk("far", "host", own=WEB, port=OTHER, **asked) is None
    land.do("delete", rule)
    out = land.number("allow", web(protocol), stateful=True, direction="egress")
    assert ways(talk("host", "far", **asked)) == (True, True)
    assert talk("far", "host", **asked) is None
    land.do("delete", out)
    assert talk("host", "far", **asked) is None


@pytest.mark.req("PF-30", "PF-42")
@pytest.mark.parametrize("protocol", ["tcp", "udp"])
def test_a_later_deny_cuts_a_connection_at_once_and_so_does_the_delete(land, talk, protocol):
    land.start()
    land.shut()
    far = land.ADDRESSES["far"][4]
    rule = land.number("allow", web(protocol), stateful=True)
    pair = talk("far", "host", protocol=protocol)
    assert ways(pair) == (True, True)
    for deny, left in (
        (("deny", web(protocol)), (False, True)),
        (("deny", {"src_port": WEB, "protocol": protocol}, {"direction": "egress"}), (True, False)),
        (("deny", far, {"direction": "both"}), (False, False)),
        (("deny", web(protocol), {"stateful": True}), (False, False)),
        (("deny", far, {"stateful": True}), (False, False)),
        (("deny", {"src_addr": far}, {"stateful": True, "direction": "both"}), (False, False)),
    ):
        action, target, *more = deny
        cut = land.number(action, target, **(more[0] if more else {}))
        assert ways(pair) == left, deny
        land.do("delete", cut)
        if protocol == "tcp":
            pair = talk("far", "host")
        assert ways(pair) == (True, True), deny
    # one that stands behind the allow changes nothing, one of a lower number does
    behind = land.number("deny", web(protocol), stateful=True, insert_rule=33_100_000)
    assert ways(pair) == (True, True)
    land.do("delete", behind)
    land.do("delete", rule)
    assert ways(pair) == (False, False)


@pytest.mark.req("PF-41")
def test_a_deny_of_connections_leaves_the_answers_to_our_own(land, talk):
    land.start()
    far = land.ADDRESSES["far"][4]
    rule = land.number("deny", far, stateful=True)
    for protocol in ("tcp", "udp"):
        assert talk("far", "host", protocol=protocol) is None
        assert ways(talk("host", "far", protocol=protocol)) == (True, True)
    land.do("delete", rule)
    land.do("deny", far)
    assert talk("host", "far") is None


@pytest.mark.req("PF-41")
@pytest.mark.parametrize("version", [4, 6])
def test_what_is_forwarded_passes_both_lists(land, talk, version):
    land.start()
    land.shut()
    one_way = land.number("allow", web(), stateful=True)
    assert talk("far", "behind", version=version) is None
    land.do("delete", one_way)
    land.do("allow", web(), stateful=True, direction="both")
    assert ways(talk("far", "behind", version=version)) == (True, True)
    assert ways(talk("behind", "far", version=version)) == (True, True)
    assert talk("far", "behind", version=version, port=OTHER) is None


@pytest.mark.req("PF-41")
def test_errors_about_a_connection_and_translated_ones_are_its_answers(land, talk):
    land.start()
    land.shut()
    land.do("allow", {"dst_port": WEB, "protocol": "udp"}, stateful=True, direction="egress")
    with land.host.run(socket.socket, socket.AF_INET, socket.SOCK_DGRAM) as asking:
        asking.settimeout(1)
        asking.connect((land.ADDRESSES["far"][4], WEB))
        asking.send(b"anybody?")
        with pytest.raises(ConnectionRefusedError):
            asking.recv(100)
    land.host.nft(
        "-f",
        "-",
        text="add table ip other\n"
        "add chain ip other c { type nat hook prerouting priority -100; }\n"
        f"add rule ip other c tcp dport {OTHER} redirect to :{WEB}\n",
    )
    land.do("allow", {"dst_port": OTHER, "protocol": "tcp"}, stateful=True)
    assert ways(talk("far", "host", to=OTHER)) == (True, True)
    assert talk("far", "host") is None


@pytest.mark.req("PF-30", "PF-42", "PF-29")
def test_a_connection_outlives_a_restart_and_a_death_of_the_daemon(land, talk):
    land.start()
    land.shut()
    rule = land.number("allow", web(), stateful=True)
    pair = talk("far", "host")
    assert ways(pair) == (True, True)
    for end in (land.stop, land.kill):
        end()
        assert ways(pair) == (True, True)
        assert talk("far", "host", port=OTHER) is None
        land.start()
        assert ways(pair) == (True, True)
        assert talk("far", "host", port=OTHER) is None
    land.do("delete", rule)
    assert ways(pair) == (False, False)


def test_what_a_dead_daemon_left_is_taken_away(land, talk):
    land.start(log_group=7)
    land.shut(logged=True)
    land.do("allow", web(), stateful=True)
    land.kill()
    assert talk("far", "host", port=OTHER) is None
    assert land.host.run(main, ["remove"]) == 0
    assert "oc2d" not in land.host.nft("list", "ruleset")
    assert ways(talk("far", "host", port=OTHER)) == (True, True)


@pytest.mark.req("PF-43")
def test_connections_are_tracked_only_while_a_rule_is_about_them(land, talk):
    def tracked():
        """How many connections are known that were not before this one began."""
        before = int(land.host.run(Path("/proc/sys/net", TRACKED).read_text))
        assert ways(talk("far", "host", port=OTHER)) == (True, True)
        return int(land.host.run(Path("/proc/sys/net", TRACKED).read_text)) - before

    land.start()
    land.do("deny", web(), direction="both", logged=False)
    assert tracked() == 0
    assert "tracked" not in land.host.nft("list", "table", "inet", "oc2d")
    first = land.do("allow", web(), stateful=True)
    assert "opened by whoever sends next" in first.text
    second = land.do("allow", web("udp"), stateful=True)
    assert "opened by whoever" not in (second.text or "")
    assert tracked() == 1
    for answer in (first, second):
        land.do("delete", answer.results.rule_number)
    # the kernel lets go of it a little later
    wait_until(lambda: tracked() == 0)
    land.stop()
    land.start()
    assert "tracked" not in land.host.nft("list", "table", "inet", "oc2d")
    assert talk("far", "host") is None


@pytest.mark.req("PF-43")
def test_no_packet_slips_through_while_the_lists_move_behind_the_tracking_and_back(land):
    """The lists change places at the first stateful rule, and when all is loaded without one."""
    land.start()
    far, host = land.ADDRESSES["far"][4], land.ADDRESSES["host"][4]
    land.do("deny", far, direction="both")
    stopping = threading.Event()

    def flood(sending):
        with sending:
            while not stopping.is_set():
                sending.sendto(b"x", (host, WEB))

    with land.host.run(socket.socket, socket.AF_INET, socket.SOCK_DGRAM) as listening:
        listening.bind((host, WEB))
        sending = land.far.run(socket.socket, socket.AF_INET, socket.SOCK_DGRAM)
        flooding = threading.Thread(target=flood, args=(sending,))
        flooding.start()
        try:
            for _ in range(15):
                rule = land.number("allow", {"dst_port": OTHER, "protocol": "tcp"}, stateful=True)
                land.do("delete", rule)
                land.host.run(land.pf._engine._rules.repair)
        finally:
            stopping.set()
            flooding.join()
        assert not select.select([listening], [], [], QUIET)[0]


@pytest.mark.req("PF-44")
def test_a_forged_answer_is_given_beside_stateful_rules_but_not_by_one(land, talk):
    land.start(log_group=7)
    land.do("allow", web("udp"), stateful=True)
    with pytest.raises(NotSupported, match="Argument not supported: drop_process false_ack"):
        land.do("deny", web(), stateful=True, drop_process="false_ack")
    land.do("deny", web(), drop_process="false_ack", logged=True)
    with land.far.run(socket.socket, socket.AF_INET, socket.SOCK_STREAM) as trying:
        trying.settimeout(2)
        trying.connect((land.ADDRESSES["host"][4], WEB))
    assert ways(talk("far", "host", protocol="udp")) == (True, True)


@pytest.mark.req("PF-43")
def test_a_host_without_connection_tracking_refuses_and_has_no_rule(land, talk, monkeypatch):
    land.start()
    # the kernel of this machine has it
    monkeypatch.setattr(Nftables, "_takes", lambda *_: False)
    with pytest.raises(NotSupported, match="Argument not supported: stateful; this host"):
        land.do("deny", web(), stateful=True)
    monkeypatch.undo()
    assert ways(talk("far", "host")) == (True, True)
    assert land.host.run(land.pf.status)["count"] == 0


@pytest.mark.req("PF-41")
@pytest.mark.parametrize("how", ["none", "reject"])
def test_a_ping_is_answered_as_a_connection_is(land, how):
    land.start()
    land.shut(drop_process=how)
    far, host = land.ADDRESSES["far"][4], land.ADDRESSES["host"][4]
    rule = land.number("allow", {"src_addr": far, "protocol": "icmp"}, stateful=True)
    with land.far.run(
        socket.socket, socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP
    ) as pinging:
        pinging.settimeout(QUIET)

        def answered():
            head = struct.pack(">BBHHH", 8, 0, 0, 7, 7)
            body = sum(struct.unpack(">4H", head))
            checksum = ~(body + (body >> 16)) & 0xFFFF
            pinging.sendto(struct.pack(">BBHHH", 8, 0, checksum, 7, 7), (host, 0))
            try:
                return any(pinging.recv(200)[20] == 0 for _ in range(2))
            except TimeoutError:
                return False

        assert answered()
        land.do("delete", rule)
        assert not answered()
