"""A host that is cut off by command stays in reach of its Producer, and of nobody else."""

from __future__ import annotations

import socket
import struct
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from ipaddress import ip_address
from types import SimpleNamespace

import pytest

from tests.consumer import Host, delete, deny
from tests.namespace import Namespace
from tests.waiting import wait_until

pytestmark = [pytest.mark.root, pytest.mark.req("AMB-57")]

HERE = {4: "10.79.1.1", 6: "fd79::1"}
THERE = {4: ("10.79.1.2", "10.79.1.3"), 6: ("fd79::2", "fd79::3")}
EVERYTHING = {4: "0.0.0.0/0", 6: "::/0"}
FAMILY = {4: socket.AF_INET, 6: socket.AF_INET6}
PORT = 1883
NAME = "broker.example"


@pytest.fixture
def field(tmp_path):
    """A guarded host, and a machine with broker, Producer and name servers on the other end."""
    with ExitStack() as stack:
        listeners = [
            f"listener {PORT} {address}" for version in (4, 6) for address in THERE[version]
        ]
        (tmp_path / "far").mkdir()
        far = Host(tmp_path / "far", *listeners, persistent=True)
        stack.callback(far.close)
        near = Namespace()
        stack.callback(near.close)
        near.ip("link", "add", "out", "type", "veth", "peer", "name", "in", "netns", far.space.name)
        for space, device, addresses in (
            (near, "out", {version: (HERE[version],) for version in (4, 6)}),
            (far.space, "in", THERE),
        ):
            space.sysctl(f"ipv6/conf/{device}/accept_dad", 0)
            for version, length in ((4, 24), (6, 64)):
                for address in addresses[version]:
                    space.ip("addr", "add", f"{address}/{length}", "dev", device)
            space.ip("link", "set", device, "up")
        far.start_broker()
        zulu = far.consumer(broker={"port": PORT, "host": THERE[4][0]}, actuators_slpf={})
        zulu.host = SimpleNamespace(run=near.run)  # the daemon lives at the near end
        yield SimpleNamespace(far=far, near=near, zulu=zulu, soc=far.producer(), stack=stack)


def hears(field, version):
    """Tell whether a datagram from the far end arrives at the near one."""
    with field.near.run(socket.socket, FAMILY[version], socket.SOCK_DGRAM) as ear:
        ear.bind((HERE[version], 0))
        ear.settimeout(0.2)
        with field.far.run(socket.socket, FAMILY[version], socket.SOCK_DGRAM) as mouth:
            mouth.sendto(b"probe", ear.getsockname()[:2])
        try:
            return bool(ear.recv(10))
        except TimeoutError:
            return False


@pytest.mark.req("SLPF-29", "SLPF-37")
@pytest.mark.parametrize("version", [4, 6])
def test_a_host_that_is_denied_everything_is_isolated_and_the_delete_still_arrives(field, version):
    zulu = field.zulu
    zulu.tables["broker"]["host"] = THERE[version][0]
    zulu.start()
    assert [hears(field, 4), hears(field, 6)] == [True, True]
    denied = [field.soc.ask(deny(EVERYTHING[family])) for family in (4, 6)]
    assert [reply.status for reply in denied] == [200, 200]
    assert f"broker {THERE[version][0]} port {PORT}" in denied[0 if version == 4 else 1].text
    assert [hears(field, 4), hears(field, 6)] == [False, False]
    zulu.kill()
    zulu.start()
    assert [hears(field, 4), hears(field, 6)] == [False, False]
    for reply in denied:
        assert field.soc.ask(delete(reply.number)).status == 200
    assert [hears(field, 4), hears(field, 6)] == [True, True]


class NameServer:
    """Answers every question for an address record of `version` with `address`."""

    def __init__(self, space, at, stack):
        version = ip_address(at).version
        self.address = None
        self._socket = space.run(socket.socket, FAMILY[version], socket.SOCK_DGRAM)
        self._socket.bind((at, 53))
        pool = stack.enter_context(ThreadPoolExecutor(1))
        stack.callback(self._close)
        pool.submit(self._serve)

    def _close(self):
        with suppress(OSError):  # it is not connected, and yet this ends the wait in recvfrom
            self._socket.shutdown(socket.SHUT_RDWR)

    def _serve(self):
        while True:
            question, asker = self._socket.recvfrom(1000)
            if not question:
                self._socket.close()
                return
            end = question.index(b"\0", 12) + 5
            (kind,) = struct.unpack_from(">H", question, end - 4)
            value = ip_address(self.address)
            found = kind == (1 if value.version == 4 else 28)
            answer = question[:2] + struct.pack(">HHHHH", 0x8180, 1, int(found), 0, 0)
            answer += question[12:end]
            if found:
                record = struct.pack(">HHHIH", 0xC00C, kind, 1, 1, len(value.packed))
                answer += record + value.packed
            self._socket.sendto(answer, asker)


@pytest.mark.parametrize("version", [4, 6])
def test_an_isolated_host_follows_its_broker_and_its_name_servers(field, version, tmp_path):
    first, second = THERE[version]
    old, new = (NameServer(field.far.space, at, field.stack) for at in (first, second))
    old.address, new.address = first, second
    resolv = tmp_path / "resolv.conf"
    resolv.write_text(f"nameserver {first}\noptions timeout:1 attempts:1\n")
    field.zulu.wrapped_in = (
        *("unshare", "--mount", "sh", "-c"),
        'mount --bind "$0" "$(readlink -f /etc/resolv.conf)" && exec "$@"',
        str(resolv),
    )
    field.zulu.tables["broker"]["host"] = NAME
    field.zulu.start()
    denied = field.soc.ask(deny(EVERYTHING[version]))
    assert denied.status == 200
    # the host gets another name server, which knows another address of the broker
    resolv.write_text(f"nameserver {second}\noptions timeout:1 attempts:1\n")
    field.far.broker.kill()
    field.far.run(field.far.broker.start)
    wait_until(lambda: second in field.zulu.told()["link"]["broker"], 30)
    field.zulu.until_subscribed()
    assert not hears(field, version)
    assert field.soc.ask(delete(denied.number)).status == 200
    assert hears(field, version)
