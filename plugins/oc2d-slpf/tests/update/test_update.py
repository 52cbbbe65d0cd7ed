"""update file: what takes effect, and that all of a file counts or nothing."""

from __future__ import annotations

import tracemalloc

import pytest

from oc2d.errors import Failed
from oc2d.language.vocabulary import Action
from oc2d_slpf.rules import FIRST_AUTOMATIC

from .conftest import entry, listed, refused, update

# -- the pair


@pytest.mark.req("SLPF-48", "SLPF-62", "SLPF-45", "AMB-37")
def test_the_pair_is_there_when_a_directory_is_configured_and_takes_start_time_only(
    slpf, bench, paper
):
    (pair,) = [pair for pair in slpf.supported_pairs() if pair.action is Action.UPDATE]
    assert (pair.target, pair.args, pair.times) == ("file", set(), {"start_time"})
    assert pair.interim
    bench.stop()
    without = bench.start(paper)
    assert all(pair.action is not Action.UPDATE for pair in without.supported_pairs())


# -- what takes effect


@pytest.mark.req("SLPF-44", "SLPF-51", "SLPF-20", "SLPF-21")
def test_all_rules_are_replaced_at_once_under_new_numbers(slpf, paper, command, write):
    slpf.execute(command("deny", "10.0.0.0/8"))
    slpf.execute(command("deny", "10.1.0.0/16", persistent=False, insert_rule=7))
    write(
        entry("allow", "192.0.2.1"), entry("deny", "192.0.2.0/24"), entry("deny", "2001:db8::/32")
    )
    calls = len(paper.calls)
    response = slpf.execute(update())
    assert (response.status, response.results) == (200, None)
    assert response.text.startswith("3 rules in force; stays open: ")
    assert len(paper.calls) == calls + 1
    # the first in the file is the first in order
    assert listed(slpf) == [
        (FIRST_AUTOMATIC - 3, "allow", "ipv4_net 192.0.2.1/32"),
        (FIRST_AUTOMATIC - 2, "deny", "ipv4_net 192.0.2.0/24"),
        (FIRST_AUTOMATIC - 1, "deny", "ipv6_net 2001:db8::/32"),
    ]
    assert paper.elements() == 3
    assert {rule["producer"] for rule in slpf.status()["rules"]} == {"soc@example.com"}
    # later commands come ahead of the file, and its rules can be deleted
    after = slpf.execute(command("deny", "10.2.0.0/16")).results.rule_number
    assert after == FIRST_AUTOMATIC - 4
    assert slpf.execute(command("delete", FIRST_AUTOMATIC - 2)).status == 200


@pytest.mark.req("SLPF-25", "SLPF-44")
def test_a_file_for_which_no_numbers_are_left_begins_with_the_first_one_again(
    bench, slpf, paper, command, write, monkeypatch
):
    monkeypatch.setattr(slpf._rules.store, "_next", 3)
    slpf.execute(command("deny", "10.0.0.0/8"))
    waits = command("deny", "10.0.0.0/9", insert_rule=FIRST_AUTOMATIC - 1)
    slpf.reserve(waits)
    write(*(entry(net=f"192.0.2.{n}") for n in range(3)))
    # what takes the rules back takes that back: in front of the old ones there is still one place
    paper.failing = 2
    refused(slpf, update(), Failed, "Rule not updated: the packet filter refused")
    assert slpf.execute(command("allow", "10.0.0.1")).results.rule_number == 2
    assert slpf.execute(update("update-2")).status == 200
    numbers = [number for number, *_ in listed(slpf)]
    assert numbers == [FIRST_AUTOMATIC - 3, FIRST_AUTOMATIC - 2, FIRST_AUTOMATIC]
    bench.stop()
    slpf = bench.start(paper)
    assert [number for number, *_ in listed(slpf)] == numbers
    assert slpf.execute(command("deny", "10.0.0.9")).results.rule_number == FIRST_AUTOMATIC - 4
    assert slpf.execute(command("deny", "10.0.0.0/9", key=waits.key)).status == 200


@pytest.mark.req("SLPF-44")
def test_an_empty_list_leaves_no_rule(slpf, paper, command, write):
    slpf.execute(command("deny", "10.0.0.0/8"))
    write()
    assert slpf.execute(update()).text == "0 rules in force"
    assert (listed(slpf), paper.elements()) == ([], 0)


@pytest.mark.req("SLPF-22", "SLPF-25")
def test_a_file_may_choose_numbers_and_the_same_again_next_time(slpf, command, write):
    slpf.execute(command("deny", "10.0.0.0/8", insert_rule=10))
    write(
        entry("deny", "192.0.2.1"),
        entry("deny", "192.0.2.2", insert_rule=10),
        entry("deny", "192.0.2.3", insert_rule=FIRST_AUTOMATIC - 1),
        entry("deny", "192.0.2.4"),
    )
    wanted = [
        (10, 2),
        (FIRST_AUTOMATIC - 2, 1),
        (FIRST_AUTOMATIC - 1, 3),
        (FIRST_AUTOMATIC, 4),
    ]
    for round_ in range(2):
        assert slpf.execute(update(f"u{round_}")).status == 200
        found = [(number, int(match[17])) for number, _, match in listed(slpf)]
        assert found == wanted
        # automatic numbers are new each time
        wanted = [
            (10, 2),
            (FIRST_AUTOMATIC - 4, 1),
            (FIRST_AUTOMATIC - 3, 4),
            (FIRST_AUTOMATIC - 1, 3),
        ]


@pytest.mark.req("SLPF-18")
def test_what_a_file_says_of_its_rules_holds_over_restart_and_reboot(
    bench, slpf, paper, write, directory
):
    write(
        entry("deny", "192.0.2.1", persistent=False),
        entry(
            "allow", {"ipv4_connection": {"protocol": "tcp", "dst_port": 22}}, direction="ingress"
        ),
        entry("deny", "192.0.2.3", drop_process="reject"),
    )
    slpf.execute(update())
    before = slpf.status()["rules"]
    assert [rule["persistent"] for rule in before] == [False, True, True]
    assert [rule["direction"] for rule in before] == ["both", "ingress", "both"]
    assert before[2]["drop_process"] == "reject"
    bench.stop()
    again = bench.start(paper, update_directories=[str(directory)])
    assert again.status()["rules"] == before
    bench.stop()
    bench.boot_id = "boot-2"
    assert bench.start(paper).status()["rules"] == before[1:]


def test_an_update_is_carried_out_once(bench, slpf, paper, command, write, directory):
    path = write(entry("deny", "192.0.2.1"))
    first = slpf.execute(update())
    path.unlink()
    slpf.execute(command("deny", "10.0.0.0/8"))
    before = listed(slpf)
    assert slpf.execute(update()) == first
    bench.stop()
    slpf = bench.start(paper, update_directories=[str(directory)])
    assert slpf.execute(update()) == first
    assert listed(slpf) == before
    with pytest.raises(Failed, match="cannot access file"):
        slpf.execute(update("update-2"))


def test_commands_keep_their_order_around_an_update(slpf, paper, command, write):
    write(entry("deny", "192.0.2.1"))
    batch = [
        command("deny", "10.0.0.0/8"),
        update(),
        command("deny", "10.1.0.0/16"),
        update("update-2", name="none"),
        command("deny", "10.2.0.0/16"),
    ]
    assert [answer.status for answer in slpf.execute_many(batch)] == [200, 200, 200, 500, 200]
    assert [match for _, _, match in listed(slpf)] == [
        "ipv4_net 10.2.0.0/16",
        "ipv4_net 10.1.0.0/16",
        "ipv4_net 192.0.2.1/32",
    ]
    assert paper.elements() == 3


@pytest.mark.req("SLPF-19")
def test_windows_and_reservations_of_earlier_commands(slpf, command, write):
    timed = command("deny", "10.0.0.0/8", window=(None, 10**13))
    slpf.execute(timed)
    later = command("deny", "10.1.0.0/16", key="later", insert_rule=5)
    reserved = slpf.reserve(later)
    write(entry("deny", "192.0.2.1"))
    assert slpf.reserve(update()) is None
    slpf.execute(update())
    before = listed(slpf)
    slpf.revert(timed)
    assert listed(slpf) == before
    write(entry("deny", "192.0.2.1", insert_rule=5))
    refused(slpf, update("u2"), Failed, r"entry 1: Rule number currently in use: 5")
    starts = command("deny", "10.1.0.0/16", key="later", insert_rule=5, reserved=reserved)
    assert slpf.execute(starts).results == reserved


@pytest.mark.req("AMB-31", "AMB-57")
def test_the_answer_says_what_is_not_as_the_file_has_it(bench, paper, directory, write):
    slpf = bench.start(paper, update_directories=[str(directory)], never_block=["10.0.0.0/24"])
    write(entry("deny", "10.9.9.9/8"), entry("deny", "10.0.0.0/16"), entry("allow", "192.0.2.0/24"))
    answer = slpf.execute(update()).text
    assert answer.startswith("3 rules in force; 1 ranges lost their host bits; stays open: never_b")


def test_a_long_file_needs_little_memory_for_each_rule(slpf, write):
    addresses = [f"10.{n // 256}.{n % 256}.1" for n in range(4000)]
    write(*(entry("deny", address) for address in addresses))
    slpf.execute(update("warm"))
    tracemalloc.start()
    slpf.execute(update())
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1100 * len(addresses)  # the unit gives 512 MB, and 16 MiB are 310 000 rules


# -- what leaves the old rules in force


@pytest.mark.req("SLPF-52", "SLPF-34")
def test_what_the_packet_filter_refuses_leaves_the_old_rules(slpf, paper, command, write):
    slpf.execute(command("deny", "10.0.0.0/8"))
    write(entry("deny", "192.0.2.1"), entry("deny", "192.0.2.2"))
    paper.failing = 1
    refused(slpf, update(), Failed, "^Rule not updated: the packet filter refused the change$")
    assert paper.elements() == 1
    # what failed that way may be tried again
    assert slpf.execute(update()).status == 200
    assert paper.elements() == 2


def test_a_death_before_the_commit_leaves_the_old_rules_and_the_update_runs_again(
    bench, slpf, paper, model, monkeypatch, command, write, directory
):
    class Death(BaseException):
        pass

    slpf.execute(command("deny", "10.0.0.0/8"))
    before = listed(slpf)
    write(entry("deny", "192.0.2.1"), entry("deny", "192.0.2.2", persistent=False))
    real = paper.replace

    def die(steps):
        real(steps)
        raise Death

    monkeypatch.setattr(paper, "replace", die)
    monkeypatch.setattr(slpf._rules, "take_back", lambda: None)
    with pytest.raises(Death):
        slpf.execute(update())
    bench.kill()
    paper = model.Paper()
    slpf = bench.start(paper, update_directories=[str(directory)])
    assert listed(slpf) == before
    assert slpf.execute(update()).status == 200
    assert len(listed(slpf)) == paper.elements() == 2


# -- a real kernel


@pytest.mark.root
@pytest.mark.req("SLPF-44", "SLPF-52", "SLPF-38")
def test_the_kernel_has_the_new_rules_before_the_answer_and_the_old_ones_after_a_failure(
    namespace, bench, directory, write, command
):
    slpf = namespace.run(bench.start, update_directories=[str(directory)])
    namespace.nft(text="add table inet other\nadd chain inet other mine\n")

    def addresses():
        text = namespace.nft("list", "table", "inet", "oc2d")
        return {f"192.0.2.{host}" for host in range(9) if f"192.0.2.{host}" in text}

    namespace.run(slpf.execute, command("deny", "192.0.2.1"))
    write(*(entry("deny", f"192.0.2.{host}") for host in (2, 3)), entry("allow", "192.0.2.4"))
    assert namespace.run(slpf.execute, update()).status == 200
    assert addresses() == {"192.0.2.2", "192.0.2.3", "192.0.2.4"}
    write(entry("deny", "192.0.2.5"), entry("deny", "192.0.2.500"))
    with pytest.raises(Failed, match="entry 2"):
        namespace.run(slpf.execute, update("u2"))
    assert addresses() == {"192.0.2.2", "192.0.2.3", "192.0.2.4"}
    assert "chain mine" in namespace.nft("list", "table", "inet", "other")
    namespace.run(bench.stop)
