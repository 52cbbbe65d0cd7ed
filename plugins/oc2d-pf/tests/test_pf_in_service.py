"""pf in a daemon, in the kernel, with a name server: packets, broker and names are real."""

from __future__ import annotations

import socket
from contextlib import ExitStack
from types import SimpleNamespace

import pytest

from tests.consumer import Host, command
from tests.namespace import Namespace
from tests.waiting import wait_until

pytestmark = [pytest.mark.root]
HERE = "10.81.1.1"
THERE = ("10.81.1.2", "10.81.1.3", "10.81.1.4")
NAME = "www.example.com"
TOPIC = "oc2/cmd/device/zulu"


@pytest.fixture
def field(tmp_path, make_zone):
    """A host with pf, and the far end: a broker, servers at three addresses, a name server."""
    with ExitStack() as stack:
        host = Host(tmp_path)
        stack.callback(host.close)
        far = Namespace()
        stack.callback(far.close)
        host.space.ip("link", "add", "out", "type", "veth", "peer", "name", "in", "netns", far.name)
        host.space.ip("addr", "add", f"{HERE}/24", "dev", "out")
        for address in THERE:
            far.ip("addr", "add", f"{address}/24", "dev", "in")
        host.space.ip("link", "set", "out", "up")
        far.ip("link", "set", "in", "up")
        host.start_broker()
        listening = far.run(socket.socket, socket.AF_INET, socket.SOCK_DGRAM)
        listening.bind((THERE[2], 53))
        zone = make_zone(listening)
        resolv = tmp_path / "resolv.conf"
        resolv.write_text(f"nameserver {THERE[2]}\n")
        servers = []
        for address in THERE[:2]:
            server = far.run(socket.create_server, (address, 80))
            stack.callback(server.close)
            servers.append(server)
        zulu = host.consumer("zulu", actuators_pf={})
        mount = 'mount --bind "$0" "$(readlink -f /etc/resolv.conf)" && exec "$@"'
        zulu.wrapped_in = ("unshare", "--mount", "sh", "-c", mount, str(resolv))
        zulu.start()
        yield SimpleNamespace(host=host, zone=zone, zulu=zulu, soc=host.producer())


def reaches(field, address):
    """Tell whether a TCP connection from the host to a server stands."""
    with field.host.run(socket.socket, socket.AF_INET, socket.SOCK_STREAM) as made:
        made.settimeout(0.3)
        try:
            made.connect((address, 80))
        except OSError:
            return False
        return True


def pf(action, target, **args):
    return command(action, target, **({"pf": args} if args else {}))


def number(reply):
    assert reply.status == 200, reply.response
    return reply.response["results"]["pf"]["rule_number"]


@pytest.mark.req("PF-1", "PF-21", "PF-22", "PF-4", "PF-12")
def test_a_name_is_denied_wherever_it_moves_and_deleted_for_good(field):
    soc, zone, zulu = field.soc, field.zone, field.zulu
    assert [reaches(field, one) for one in THERE[:2]] == [True, True]
    zone.records[NAME] = (1, (THERE[0],))
    reply = soc.ask(pf("deny", {"domain_name": NAME}, description="moving"))
    rule = number(reply)
    assert reply.text.startswith(f"stands for {THERE[0]}")
    assert [reaches(field, one) for one in THERE[:2]] == [False, True]
    zone.records[NAME] = (1, (THERE[1],))
    wait_until(lambda: [reaches(field, one) for one in THERE[:2]] == [True, False], 15)
    zulu.kill()
    assert [reaches(field, one) for one in THERE[:2]] == [True, False]
    zone.mute = True
    zulu.start()
    assert [reaches(field, one) for one in THERE[:2]] == [True, False]
    told = soc.ask({"action": "query", "target": {"pf": {"rule_number": rule}}}).response
    assert told["results"]["pf"] == {
        "rule_number": rule,
        "action": "deny",
        "domain_name": NAME,
        "args": {"pf": {"description": "moving"}},
    }
    assert told["status_text"] == f"stands for {THERE[1]}"
    (shown,) = zulu.told()["actuators"]["pf"]["rules"]
    assert (shown["number"], shown["addresses"]) == (rule, [THERE[1]])
    zone.mute = False
    assert soc.ask({"action": "delete", "target": {"pf:rule_number": rule}}).status == 200
    assert [reaches(field, one) for one in THERE[:2]] == [True, True]


@pytest.mark.req("PF-13", "PF-14", "PF-8", "PF-9", "PF-23", "PF-32", "PF-37")
def test_what_is_answered_200_is_in_the_kernel_and_what_is_not_is_not(field):
    soc, before = field.soc, field.host.elements()
    net = {"ipv4_net": f"{THERE[0]}/32"}
    for command_, status, phrase in (
        # this is a network namespace: the log of the kernel says nothing of it
        (pf("deny", net, logged=True), 501, "Argument not supported: logged"),
        (pf("deny", net, stateful=True, priority=-1), 501, "Argument not supported"),
        (pf("deny", net, colour="red"), 501, "Argument not supported"),
        (pf("deny", {"pf:advanced_connection": {"application": "x"}}), 501, "Rule not implemented"),
        (pf("deny", {"domain_name": "nobody.example.com"}), 500, "Rule not implemented"),
        (command("delete", {"pf:rule_number": 9}, start_time=1), 501, "Argument not supported"),
        (command("delete", {"pf:rule_number": 9}), 500, "Firewall rule not removed or updated"),
        (command("query", {"pf:rule_number": 9}), 404, "there is no rule 9"),
        (command("update", {"file": {"name": "x"}}), 501, "Command not supported"),
    ):
        reply = soc.ask(command_)
        assert (reply.status, reply.text.startswith(phrase)) == (status, True), reply.response
    assert field.host.elements() == before
    denied = number(soc.ask(pf("deny", net, priority=20, direction="both")))
    assert not reaches(field, THERE[0])
    number(soc.ask(pf("allow", net, priority=21, direction="both")))
    assert not reaches(field, THERE[0])
    number(soc.ask(pf("allow", net, priority=19, direction="both")))
    assert reaches(field, THERE[0])
    everything = {"ipv4_net": "0.0.0.0/0"}
    number(soc.ask(pf("deny", everything, direction="both", priority=18)))
    assert not reaches(field, THERE[0])
    number(soc.ask(pf("allow", net, stateful=True, direction="egress", priority=17)))
    assert reaches(field, THERE[0])
    assert 1_320_000 <= denied < 1_336_000


@pytest.mark.req("PF-40")
def test_slpf_and_pf_do_not_run_beside_each_other(field):
    field.zulu.stop()
    field.zulu.tables["actuators.slpf"] = {}
    field.zulu.launch()
    assert field.zulu.wait() == 1
    assert "not permitted" in field.zulu.log.read_text()
