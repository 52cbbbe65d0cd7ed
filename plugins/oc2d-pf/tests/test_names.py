"""Names looked up at a real name server, and looked up again in time."""

from __future__ import annotations

import queue
import socket
import threading
from ipaddress import ip_address

import dns.resolver
import pytest

from oc2d_pf import names
from oc2d_pf.names import Answer, LookUpError, look_up
from oc2d_pf.refresh import Refresher
from tests.waiting import wait_until


@pytest.fixture
def zone(make_zone, monkeypatch):
    listening = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    listening.bind(("127.0.0.1", 0))
    made = make_zone(listening)

    class Resolver(dns.resolver.Resolver):
        def __init__(self):
            super().__init__(configure=False)
            self.nameservers, self.port = ["127.0.0.1"], listening.getsockname()[1]

    monkeypatch.setattr(dns.resolver, "Resolver", Resolver)
    return made


@pytest.mark.req("PF-22")
def test_both_families_are_looked_up_and_the_shortest_time_counts(zone):
    zone.records["www.example.com"] = (300, ("192.0.2.2", "192.0.2.1", "2001:db8::1"))
    answer = look_up("www.example.com")
    assert [str(one) for one in answer.addresses] == ["192.0.2.1", "192.0.2.2", "2001:db8::1"]
    assert 290 < answer.lifetime <= 300
    zone.aliases["alias.example.com"] = (30, "www.example.com")
    answer = look_up("alias.example.com.")
    assert len(answer.addresses) == 3
    assert 20 < answer.lifetime <= 30


@pytest.mark.req("PF-22")
@pytest.mark.parametrize("denied", [1, 28])
def test_a_server_that_knows_no_name_of_the_other_family_makes_none_vanish(zone, denied):
    address = "2001:db8::1" if denied == 1 else "192.0.2.1"
    zone.records["www.example.com"] = (300, (address,))
    zone.denied.add(("www.example.com", denied))
    answer = look_up("www.example.com")
    assert answer.addresses == (ip_address(address),)
    assert 290 < answer.lifetime <= 300


@pytest.mark.req("PF-22")
@pytest.mark.parametrize(("told", "believed"), [(0, 5), (604_800, 86_400)])
def test_times_to_live_have_bounds(zone, told, believed):
    zone.records["www.example.com"] = (told, ("192.0.2.1",))
    assert abs(look_up("www.example.com").lifetime - believed) < 1


@pytest.mark.req("PF-23", "PF-24")
def test_what_is_no_traffic_of_a_name_is_left_out(zone, monkeypatch):
    assert look_up("nobody.example.com") == Answer((), 60)
    odd = ("127.0.0.1", "0.0.0.0", "224.0.0.1", "169.254.1.1")  # noqa: S104 - an answer
    odd6 = ("::1", "::", "ff02::1", "fe80::1", "::ffff:10.0.0.1")
    zone.records["odd.example.com"] = (300, odd + odd6)
    assert look_up("odd.example.com") == Answer((), 60)
    zone.records["odd.example.com"] = (300, (*odd, *odd6, "10.0.0.1"))
    assert look_up("odd.example.com").addresses == (ip_address("10.0.0.1"),)
    monkeypatch.setattr(names, "_PATIENCE", 0.3)
    zone.mute = True
    with pytest.raises(LookUpError):
        look_up("odd.example.com")


@pytest.mark.req("PF-23")
@pytest.mark.parametrize(
    "text", [b"nameserver ns.example.com\n", b"# \xff\nnameserver 127.0.0.1\n"]
)
def test_name_servers_that_are_none_are_an_answer_that_nobody_gave(text, tmp_path, monkeypatch):
    file = tmp_path / "resolv.conf"
    file.write_bytes(text)
    resolver = dns.resolver.Resolver
    monkeypatch.setattr(dns.resolver, "Resolver", lambda: resolver(str(file)))
    with pytest.raises(LookUpError):
        look_up("www.example.com")


@pytest.mark.req("PF-23")
def test_a_name_that_failed_is_told_no_more_when_its_last_rule_is_gone():
    def ask(name):
        raise LookUpError(name)

    refresher = Refresher(ask, lambda *_: None)
    refresher.start()
    for number in (1, 2):
        refresher.watch(number, "one", 0)
    wait_until(lambda: len(refresher._due) == 2 and refresher.failing == {"one": "one"})
    refresher.forget(1)
    assert refresher.failing == {"one": "one"}
    refresher.forget(2)
    assert refresher.failing == {}
    refresher.stop()
    refresher._thread.join(5)


def test_a_rule_that_goes_while_its_look_up_fails_is_not_watched_for_good():
    def ask(name):
        raise LookUpError(name)

    refresher = Refresher(ask, lambda *_: None)
    watch, forgotten = refresher.watch, threading.Event()

    def forget():
        refresher.forget(1)
        forgotten.set()

    def late(*args):
        threading.Thread(target=forget).start()
        forgotten.wait(0.2)
        watch(*args)

    refresher.watch(1, "one", 0)
    refresher.watch = late
    refresher.start()
    assert forgotten.wait(5)
    refresher.stop()
    refresher._thread.join(5)
    assert refresher._wanted == refresher._names == refresher.failing == {}


def test_rules_that_are_gone_wait_for_no_look_up():
    """The times of names are up to a day: many rules come and go in one."""
    refresher = Refresher(lambda _: Answer((), 1.0), lambda *_: None)
    for number in range(5):
        refresher.watch(number, "stays", 50_000 + number)
    for number in range(5, 5000):
        refresher.watch(number, "goes", 86_400)
        refresher.forget(number)
        refresher.watch(4, "stays", 40_000)
    assert len(refresher._due) < 200
    live = [one for one in refresher._due if refresher._wanted.get(one[1]) == one[0]]
    assert sorted(number for _, number, _ in live) == [0, 1, 2, 3, 4]
    assert refresher._due[0][1] == 4


@pytest.mark.req("PF-22", "PF-23")
def test_a_name_is_looked_up_when_its_time_is_over_and_not_when_its_rule_is_gone():
    got, fail = queue.SimpleQueue(), set()

    def ask(name):
        if name in fail:
            raise LookUpError("no")
        return Answer((), 1.0)

    refresher = Refresher(ask, lambda number, name, answer: got.put((number, name, answer)))
    refresher.start()
    refresher.watch(1, "one", 3600)
    refresher.watch(2, "two", 0.1)
    refresher.forget(3)
    assert got.get(timeout=5)[0] == 2
    fail.add("one")
    refresher.watch(1, "one", 0)
    wait_until(lambda: refresher.failing == {"one": "no"})
    fail.clear()
    refresher.watch(3, "three", 0.2)
    refresher.forget(3)
    refresher.watch(1, "one", 0)
    assert got.get(timeout=5)[0] == 1
    wait_until(lambda: not refresher.failing)
    refresher.watch(4, "four", 0.3)
    assert got.get(timeout=5)[0] == 4
    refresher.stop()
    refresher._thread.join(5)
    assert not refresher._thread.is_alive()
