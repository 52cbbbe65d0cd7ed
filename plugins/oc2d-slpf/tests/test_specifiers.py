"""Which commands are for this host: the specifiers of slpf."""

from __future__ import annotations

import socket
import struct
import threading
from ipaddress import ip_network
from pathlib import Path

import msgspec
import pytest

from oc2d.actuator import Endpoint
from oc2d.language.values import IPv4Net
from oc2d_slpf import Slpf
from oc2d_slpf.language import match_of
from oc2d_slpf.netlink import IFA_LOCAL, RTM_NEWADDR, attribute
from oc2d_slpf.specifiers import Here, Specifiers
from tests.namespace import tool


@pytest.fixture
def slpf(bench, paper):
    return bench.start(paper)


HERE = Here(frozenset({"fw7", "fw7.example.com"}), frozenset({"192.0.2.7", "2001:db8::7"}))
TABLE = {
    "asset_id": "30",
    "named_groups": ["perimeter", "west"],
    "hostnames": ["Gate.example.com"],
    "asset_tuple": ["a", "b"],
}


@pytest.mark.req("SLPF-53", "SLPF-54", "SLPF-55", "SLPF-56", "SLPF-57", "SLPF-58")
@pytest.mark.parametrize(
    ("specifiers", "ours"),
    [
        ({}, True),
        ({"hostname": "FW7"}, True),
        ({"hostname": "fw7.Example.com."}, True),
        ({"hostname": "gate.example.com"}, True),
        ({"hostname": "192.0.2.7"}, True),
        ({"hostname": "2001:DB8:0::7"}, True),
        ({"hostname": "fw8"}, False),
        ({"hostname": "192.0.2.8"}, False),
        ({"named_group": "perimeter"}, True),
        ({"named_group": "network"}, False),
        ({"asset_id": "30"}, True),
        ({"asset_id": "31"}, False),
        ({"asset_tuple": ["a", "b"]}, True),
        ({"asset_tuple": ["b", "a"]}, False),
        ({"asset_tuple": ["a"]}, False),
        ({"asset_id": "30", "named_group": "network"}, False),
        ({"asset_id": "30", "named_group": "west"}, True),
    ],
)
def test_all_specifiers_that_are_given_must_match(specifiers, ours):
    slpf = Slpf(Slpf.parse_config(TABLE))
    slpf._here = HERE
    assert slpf.matches(msgspec.convert(specifiers, Specifiers)) is ours


@pytest.mark.req("SLPF-57", "SLPF-58", "LANG-81")
@pytest.mark.parametrize(
    "wrong",
    [
        {"asset_tuple": ["x"] * 11},
        {"asset_tuple": []},
        {"asset_tuple": "x"},
        {"asset": "30"},
        {"asset_id": 30},
    ],
)
def test_specifiers_of_a_wrong_form_are_refused_by_type(wrong):
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(wrong, Specifiers)


@pytest.mark.req("SLPF-54")
def test_the_hosts_own_names_and_addresses_are_found():
    here = Here.look()
    assert "127.0.0.1" in here.addresses
    assert all(name == name.lower() for name in here.names)


@pytest.mark.root
@pytest.mark.req("SLPF-54")
def test_on_a_router_the_addresses_of_the_host_are_found_without_a_look_at_all_routes(namespace):
    namespace.ip("link", "add", "one", "type", "veth", "peer", "name", "two")
    for address in ("10.1.1.1/24", "10.1.1.2/24", "10.1.2.1 peer 10.1.2.9/32", "fd77::1/64"):
        namespace.ip("addr", "add", *address.split(), "dev", "one")
    for device in ("one", "two"):
        namespace.ip("link", "set", device, "up")
    routes = (f"route add 20.0.{n // 64}.{n % 64 * 4}/30 dev one" for n in range(2000))
    namespace.run(tool, "ip", "-batch", "-", text="\n".join(routes))

    def look():
        before = _bytes_read()
        return Here.look().addresses, _bytes_read() - before

    addresses, size = namespace.run(look)
    there = {"127.0.0.1", "::1", "10.1.1.1", "10.1.1.2", "10.1.2.1", "fd77::1"}
    assert {address for address in addresses if not address.startswith("fe80:")} == there
    assert any(address.startswith("fe80:") for address in addresses)
    assert size < 50_000  # a million routes took two minutes


@pytest.mark.req("SLPF-54")
def test_addresses_of_other_kinds_are_passed_over(monkeypatch):
    """The kernel tells those of all families: of MCTP, which servers speak inside, one byte."""

    def told(family, *payloads):
        body = bytes([family, 0, 0, 0, 0, 0, 0, 0]) + b"".join(
            attribute(IFA_LOCAL, one) for one in payloads
        )
        return struct.pack("=IHHII", 16 + len(body), RTM_NEWADDR, 0, 1, 0) + body

    ours, kernel = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with kernel:
        for family, *payloads in (
            (socket.AF_INET, bytes([192, 0, 2, 7])),
            (45, b"\x08"),
            (35,),
            (socket.AF_INET6, bytes.fromhex("20010db8") + bytes(11) + b"\x07"),
        ):
            kernel.send(told(family, *payloads))
        kernel.send(struct.pack("=IHHIIi", 20, 3, 0, 1, 0, 0))  # NLMSG_DONE
        monkeypatch.setattr(socket, "getfqdn", lambda name: name)
        monkeypatch.setattr(socket, "socket", lambda *_: ours)
        assert Here.look().addresses == {"192.0.2.7", "2001:db8::7"}


def _bytes_read():
    (line, *_) = Path("/proc/thread-self/io").read_text().splitlines()
    return int(line.removeprefix("rchar: "))


@pytest.mark.req("SLPF-54")
def test_a_resolver_that_does_not_answer_holds_nothing_up(monkeypatch):
    answer = threading.Event()

    def slow(name):
        answer.wait(60)
        return f"{name}.example.com"

    monkeypatch.setattr("oc2d_slpf.specifiers._PATIENCE", 0.05)
    monkeypatch.setattr(socket, "gethostname", lambda: "FW7")
    monkeypatch.setattr(socket, "getfqdn", slow)
    assert Here.look().names == {"fw7"}
    answer.set()
    monkeypatch.setattr("oc2d_slpf.specifiers._PATIENCE", 10)
    assert Here.look().names == {"fw7", "fw7.example.com"}

    def none(_):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", none)
    assert Here.look().names == {"fw7"}


@pytest.mark.req("SLPF-54")
def test_names_and_addresses_that_came_with_the_network_count_from_the_first_link_on(
    slpf, monkeypatch
):
    wanted = Specifiers(hostname="192.0.2.7")
    monkeypatch.setattr(Here, "look", lambda: HERE)
    assert not slpf.matches(wanted)
    slpf.link_changed([Endpoint("192.0.2.1", 8883)])
    assert slpf.matches(wanted)
    assert "loopback" in slpf._guard.stays_open(match_of(IPv4Net(ip_network("192.0.2.7/32"))))
