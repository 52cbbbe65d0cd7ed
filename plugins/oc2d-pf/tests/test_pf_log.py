"""Logged rules: what the kernel hands to a reader of nflog, and that it is all there is."""

from __future__ import annotations

import select
import socket
import struct
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from oc2d.errors import ConfigError, NotSupported
from oc2d_pf import Pf
from oc2d_slpf import nftables
from oc2d_slpf.netlink import attribute, attributes

pytestmark = pytest.mark.root
GROUP = 7
PORT, OTHER = 7000, 7001
QUIET = 0.1  # seconds in which a packet on a veth pair would have come

NETLINK_NETFILTER, NFNL_SUBSYS_ULOG = 12, 4
NFULNL_MSG_PACKET, NFULNL_MSG_CONFIG = 0, 1
NFULA_CFG_CMD, NFULA_CFG_MODE, NFULNL_CFG_CMD_BIND, NFULNL_COPY_PACKET = 1, 2, 1, 2
NFULA_PAYLOAD, NFULA_PREFIX = 9, 10


class Reader:
    """Reads a group of nfnetlink_log: prefix, destination port and length of each packet."""

    def __init__(self, space, group):
        kind = socket.SOCK_RAW
        self._socket = space.run(socket.socket, socket.AF_NETLINK, kind, NETLINK_NETFILTER)
        self._socket.bind((0, 0))
        bind = attribute(NFULA_CFG_CMD, bytes([NFULNL_CFG_CMD_BIND]))
        mode = attribute(NFULA_CFG_MODE, struct.pack(">IBx", 0xFFFF, NFULNL_COPY_PACKET))
        for body in (bind, mode):
            head = struct.pack(">BBH", socket.AF_UNSPEC, 0, group) + body
            kind = NFNL_SUBSYS_ULOG << 8 | NFULNL_MSG_CONFIG
            self._socket.send(struct.pack("=IHHII", 16 + len(head), kind, 5, 1, 0) + head)
            (error,) = struct.unpack_from("=i", self._socket.recv(1000), 16)
            assert error == 0

    def close(self):
        self._socket.close()

    def read(self, patience=QUIET):
        """All that was logged by now."""
        found = []
        while select.select([self._socket], [], [], patience)[0]:
            data, at = self._socket.recv(1 << 16), 0
            while at + 16 <= len(data):
                size, kind = struct.unpack_from("=IH", data, at)
                if kind == NFNL_SUBSYS_ULOG << 8 | NFULNL_MSG_PACKET:
                    told = dict(attributes(data[at + 20 : at + size]))
                    packet = told[NFULA_PAYLOAD]
                    (port,) = struct.unpack_from(">H", packet, 22 if packet[0] >> 4 == 4 else 42)
                    prefix = told[NFULA_PREFIX].rstrip(b"\0").decode()
                    found.append((prefix, port, len(packet)))
                at += size + 3 & ~3
        return found

    def prefixes(self):
        return [prefix for prefix, _, _ in self.read()]


@pytest.fixture
def heard(land):
    """pf that logs to a group, and its reader."""
    land.start(log_group=GROUP)
    reader = Reader(land.host, GROUP)
    yield reader
    reader.close()


@contextmanager
def listening(land, port=PORT, version=4, host="host"):
    family = socket.AF_INET if version == 4 else socket.AF_INET6
    with getattr(land, host).run(socket.socket, family, socket.SOCK_DGRAM) as made:
        made.bind((land.ADDRESSES[host][version], port))
        made.settimeout(QUIET)
        yield made


def send(land, port=PORT, *, version=4, count=1, size=5, to="host", by="far"):
    family = socket.AF_INET if version == 4 else socket.AF_INET6
    with getattr(land, by).run(socket.socket, family, socket.SOCK_DGRAM) as made:
        for _ in range(count):
            with suppress(PermissionError, ConnectionRefusedError):
                made.sendto(bytes(size), (land.ADDRESSES[to][version], port))


def arrives(sock):
    try:
        sock.recv(2000)
    except TimeoutError:
        return False
    return True


@pytest.mark.req("PF-31", "PF-45")
@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize(
    ("action", "args", "word", "passes"),
    [
        ("deny", {}, "drop", False),
        ("deny", {"drop_process": "reject"}, "reject", False),
        ("allow", {}, "allow", True),
        ("allow", {"stateful": True}, "allow", True),
    ],
)
def test_the_packets_of_a_rule_and_no_others_are_logged_with_its_number(
    land, heard, version, action, args, word, passes
):
    number = land.number(action, {"dst_port": PORT, "protocol": "udp"}, logged=True, **args)
    with listening(land, version=version) as met, listening(land, OTHER, version) as unmet:
        send(land, version=version, count=3)
        send(land, OTHER, version=version, count=3)
        assert (
            heard.read() == [(f"oc2d rule {number} {word}: ", PORT, 33 + 20 * (version == 6))] * 3
        )
        assert (arrives(met), arrives(unmet)) == (passes, True)
        land.do("delete", number)
        send(land, version=version, count=3)
        assert heard.read() == []


@pytest.mark.req("PF-31", "PF-32")
def test_what_is_logged_is_the_rule_that_a_packet_meets_first(land, heard):
    far = land.ADDRESSES["far"][4]
    wide = land.number("deny", "10.82.0.0/16", logged=True, priority=20)
    send(land)
    assert heard.prefixes() == [f"oc2d rule {wide} drop: "]
    # the same verdict, not logged; the same, logged; another one: each ahead of all others
    quiet = land.number("deny", far, priority=15)
    send(land)
    assert heard.prefixes() == []
    loud = land.number("deny", "10.82.1.0/24", logged=True, priority=10)
    send(land)
    assert heard.prefixes() == [f"oc2d rule {loud} drop: "]
    open_ = land.number("allow", {"dst_port": PORT, "protocol": "udp"}, logged=True, priority=5)
    with listening(land) as met:
        send(land)
        send(land, OTHER)
        assert heard.prefixes() == [f"oc2d rule {open_} allow: ", f"oc2d rule {loud} drop: "]
        assert arrives(met)
    for gone, left in ((open_, loud), (loud, None), (quiet, wide)):
        land.do("delete", gone)
        send(land)
        assert heard.prefixes() == ([f"oc2d rule {left} drop: "] if left else [])


@pytest.mark.req("PF-31", "PF-29")
def test_a_rule_is_logged_after_a_restart_and_a_death_of_the_daemon(land, heard):
    rule = land.number("deny", {"dst_port": PORT}, logged=True, stateful=True)
    plain = land.number("deny", {"dst_port": OTHER}, logged=True)
    for end in (land.stop, land.kill):
        end()
        for begin in (lambda: None, lambda: land.start(log_group=GROUP)):
            begin()
            for port in (PORT, OTHER):
                send(land, port)
            assert heard.prefixes() == [f"oc2d rule {one} drop: " for one in (rule, plain)]
    told = land.do("query", rule).results.args["pf"]
    assert (told["logged"], told["stateful"]) == (True, True)
    for one in (rule, plain):
        land.do("delete", one)
    assert "_log" not in land.host.nft("list", "table", "inet", "oc2d")


@pytest.mark.req("PF-45")
def test_a_flood_logs_no_more_than_a_few_packets_of_each_rule_and_only_their_heads(land, heard):
    rule = land.number("deny", {"dst_port": PORT, "protocol": "udp"}, logged=True)
    other = land.number("deny", {"dst_port": OTHER, "protocol": "udp"}, logged=True)
    with listening(land) as met:
        send(land, count=2000, size=1200)
        found = heard.read()
        assert {prefix for prefix, _, _ in found} == {f"oc2d rule {rule} drop: "}
        assert 20 <= len(found) <= 23
        assert {size for _, _, size in found} == {128}
        assert not arrives(met)
        # the limit is each rule's own
        send(land, OTHER)
        assert heard.prefixes() == [f"oc2d rule {other} drop: "]


@pytest.mark.req("PF-31")
def test_what_is_refused_is_logged_and_the_refusal_is_not(land, heard):
    far = land.ADDRESSES["far"][4]
    land.do("deny", far, direction="both", drop_process="reject", logged=True, priority=1)
    with land.far.run(socket.socket, socket.AF_INET, socket.SOCK_STREAM) as trying:
        trying.settimeout(1)
        with pytest.raises(ConnectionRefusedError):
            trying.connect((land.ADDRESSES["host"][4], PORT))
    assert [port for _, port, _ in heard.read()] == [PORT]


@pytest.mark.req("PF-31", "PF-13")
def test_where_nothing_would_be_logged_a_logged_rule_is_refused(land):
    """The log of the kernel is silent about namespaces: that is no 200."""
    land.start()
    with pytest.raises(NotSupported, match=r"Argument not supported: logged; .*log_group"):
        land.do("deny", {"dst_port": PORT}, logged=True)
    with listening(land) as met:
        send(land)
        assert arrives(met)
    for wrong in (-1, 65536, "7", True):
        with pytest.raises(ConfigError, match="0 to 65535"):
            Pf.parse_config({"log_group": wrong})


@pytest.mark.req("PF-31")
def test_without_a_group_it_is_the_log_of_the_kernel(land, monkeypatch):
    # as in the first namespace, whose rules are none of the tests' business
    monkeypatch.setattr(nftables, "_KERNEL_LOG", Path("/"))
    land.start()
    rule = land.number("deny", {"dst_port": PORT}, logged=True)
    listed = land.host.nft("list", "table", "inet", "oc2d")
    assert f'log prefix "oc2d rule {rule} drop: " level info' in listed
    assert "limit rate 1/second burst 20 packets log" in listed
