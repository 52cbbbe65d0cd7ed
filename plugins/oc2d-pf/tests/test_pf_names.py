"""Rules about names: they follow the addresses, and cut nobody off who is protected."""

from __future__ import annotations

from ipaddress import ip_network

import pytest

from oc2d.errors import (
    Failed,
    NotSupported,
)
from oc2d_slpf.specifiers import Here

from .world import (
    NAME,
    NET,
    act,
    ask,
    delete,
    make,
    number_of,
    refused,
)


@pytest.mark.req("PF-22")
def test_a_name_is_one_rule_for_all_its_addresses_and_follows_them(world):
    answer = act(world, "deny", NAME)
    number = answer.results.rule_number
    assert answer.text.startswith("stands for 192.0.2.1, 2001:db8::1; stays open: ")
    assert world.matches() == ["ipv6_net 2001:db8::1/128", "ipv4_net 192.0.2.1/32"]
    world.names.addresses["www.example.com"] = ("192.0.2.9", "2001:db8::1", "192.0.2.8")
    world.renew(number)
    assert sorted(world.matches()) == [
        "ipv4_net 192.0.2.8/32",
        "ipv4_net 192.0.2.9/32",
        "ipv6_net 2001:db8::1/128",
    ]
    assert set(ask(world, number).text.split(": ")[-1].removeprefix("stands for ").split(", ")) == {
        "192.0.2.9", "192.0.2.8", "2001:db8::1"
    }  # fmt: skip
    world.names.addresses["www.example.com"] = ("192.0.2.1",)
    world.renew(number)
    assert world.matches() == ["ipv4_net 192.0.2.1/32"]
    delete(world, number)
    assert world.matches() == []
    world.running._renew(number, "www.example.com", world.names("www.example.com"))
    assert world.matches() == []


def test_a_late_answer_is_not_taken_for_another_rule_that_was_given_the_number(world):
    world.names.addresses["other.example.com"] = ("192.0.2.99",)
    answer = world.names("www.example.com")
    for target in ({"domain_name": "other.example.com"}, NET):
        number_of(world, "deny", NAME, insert_rule=7)
        delete(world, 7)
        number_of(world, "deny", target, insert_rule=7)
        before = world.rules()
        world.running._renew(7, "www.example.com", answer)
        assert world.rules() == before
        delete(world, 7)


def test_a_late_answer_puts_nothing_in_force_that_waits_for_its_time(world):
    number_of(world, "deny", NAME, insert_rule=7)
    delete(world, 7)
    world.running.reserve(make("deny", NAME, insert_rule=7))
    world.running._renew(7, "www.example.com", world.names("www.example.com"))
    assert world.rules() == []
    assert ask(world, 7).text == "not in force yet"


@pytest.mark.req("PF-23", "PF-14")
def test_a_name_without_addresses_is_refused_and_one_that_loses_them_comes_back(world):
    names = world.names.addresses
    for absent in ((), None):
        names["www.example.com"] = absent
        refused(world, Failed, "Rule not implemented", "deny", NAME)
    names["www.example.com"] = ("192.0.2.1",)
    number = number_of(world, "deny", NAME)
    names["www.example.com"] = ()
    world.renew(number)
    assert world.matches() == []
    assert ask(world, number).results.domain_name == "www.example.com"
    names["www.example.com"] = ("192.0.2.1",)
    world.renew(number)
    assert world.matches() == ["ipv4_net 192.0.2.1/32"]


@pytest.mark.req("PF-24")
def test_too_many_addresses_are_refused_and_protected_ones_left_out(world):
    many = tuple(str(address) for address in list(ip_network("198.18.0.0/16"))[:65])
    world.names.addresses["www.example.com"] = many
    refused(world, NotSupported, "Rule not implemented", "deny", NAME)
    world.names.addresses["www.example.com"] = many[:64]
    number = number_of(world, "deny", NAME)
    assert len(world.rules()) == 64
    world.names.addresses["www.example.com"] = many
    world.renew(number)
    assert len(world.rules()) == 64
    world.restart(never_block=["198.18.0.0/16"])
    world.names.addresses["www.example.com"] = ("198.18.0.7", "192.0.2.1")
    answer = act(world, "deny", NAME)
    assert "stays open: 198.18.0.7 (never_block)" in answer.text
    assert "stands for 192.0.2.1;" in answer.text
    world.names.addresses["www.example.com"] = ("198.18.0.7",)
    refused(world, NotSupported, "Rule not implemented", "deny", NAME)
    assert world.matches().count("ipv4_net 192.0.2.1/32") == 1


@pytest.mark.req("PF-24")
def test_whoever_owns_a_denied_name_cannot_cut_this_host_off_by_it(world):
    """Its own address is left out of a deny, of the first answer and of each later one."""
    names = world.names.addresses
    world.running._engine._here = Here(addresses=frozenset({"192.0.2.77", "2001:db8::77"}))
    names["www.example.com"] = ("192.0.2.77", "192.0.2.1")
    number = number_of(world, "deny", NAME)
    assert world.matches() == ["ipv4_net 192.0.2.1/32"]
    names["www.example.com"] = ("2001:db8::77", "192.0.2.2")
    world.renew(number)
    assert world.matches() == ["ipv4_net 192.0.2.2/32"]
    names["www.example.com"] = ("192.0.2.77",)
    refused(world, NotSupported, "Rule not implemented", "deny", NAME)
    world.renew(number)
    assert world.matches() == []
    number_of(world, "allow", NAME)
    assert world.matches() == ["ipv4_net 192.0.2.77/32"]


@pytest.mark.req("PF-22", "PF-29")
def test_names_are_looked_up_again_after_a_restart(world):
    number = number_of(world, "deny", NAME)
    number_of(world, "deny", {"domain_name": "www.example.com"}, persistent=False)
    assert len(world.rules()) == 4
    world.names.addresses["www.example.com"] = ("192.0.2.5",)
    world.boot()
    assert world.matches() == ["ipv6_net 2001:db8::1/128", "ipv4_net 192.0.2.1/32"]
    world.calls.get(timeout=10)()
    assert world.matches() == ["ipv4_net 192.0.2.5/32"]
    assert world.running._store.count() == 1
    assert world.running.status()["rules"][0]["number"] == number
