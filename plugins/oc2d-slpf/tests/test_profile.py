"""The language of slpf: every pair, argument, status and phrase of REQUIREMENTS part 3."""

from __future__ import annotations

import msgspec
import pytest

from oc2d.actuator import TIMES, Endpoint, Reason
from oc2d.errors import BadRequest, Failed, NotSupported
from oc2d.language.vocabulary import Action
from oc2d_slpf.guard import Guard
from oc2d_slpf.language import Args, Results, RuleNumber
from oc2d_slpf.rules import FIRST_AUTOMATIC

TARGETS = {
    "ipv4_net": "198.51.100.0/24",
    "ipv6_net": "2001:db8::/32",
    "ipv4_connection": "4 src_addr=198.51.100.7 src_port=1 dst_addr=192.0.2.0/24 dst_port=22 "
    "protocol=tcp",
    "ipv6_connection": "6 dst_addr=2001:db8::/64 dst_port=53 protocol=udp",
}


@pytest.fixture
def slpf(bench, paper):
    return bench.start(paper)


def refused(slpf, command, kind, phrase):
    with pytest.raises(kind) as caught:
        slpf.execute(command)
    assert caught.value.text == phrase or caught.value.text.startswith(f"{phrase}: ")


@pytest.mark.req("SLPF-59", "SLPF-62", "SLPF-36")
def test_pairs_are_the_matrix_of_the_profile(slpf):
    pairs = {(pair.action.value, pair.target): pair for pair in slpf.supported_pairs()}
    wanted = {(action, target) for action in ("allow", "deny") for target in TARGETS}
    assert set(pairs) == wanted | {("delete", "slpf:rule_number")}
    assert pairs["delete", "slpf:rule_number"].args == set()
    assert pairs["delete", "slpf:rule_number"].times == {"start_time"}  # AMB-36
    for action, target in wanted:
        pair = pairs[action, target]
        assert pair.times == TIMES
        assert ("drop_process" in pair.args) == (action == "deny")
        assert pair.args >= {"direction", "persistent", "insert_rule"}


@pytest.mark.req("SLPF-35", "SLPF-37", "AMB-42")
@pytest.mark.parametrize("action", ["allow", "deny"])
@pytest.mark.parametrize("name", TARGETS)
def test_every_target_kind_is_allowed_and_denied_and_numbered(slpf, command, action, name):
    made = command(action, TARGETS[name])
    assert made.target_name == name
    slpf.check(made)
    response = slpf.execute(made)
    assert response.status == 200
    assert response.results == Results(FIRST_AUTOMATIC)
    (rule,) = slpf.status()["rules"]
    assert rule["verdict"] == action
    assert rule["number"] == FIRST_AUTOMATIC
    assert rule["match"].startswith(f"{name} ")


@pytest.mark.req("SLPF-25", "AMB-39")
def test_automatic_numbers_count_down_and_are_never_used_twice(slpf, command):
    numbers = [slpf.execute(command("deny", "10.0.0.1")).results.rule_number for _ in range(3)]
    assert numbers == [FIRST_AUTOMATIC, FIRST_AUTOMATIC - 1, FIRST_AUTOMATIC - 2]
    slpf.execute(command("delete", numbers[-1]))
    after = slpf.execute(command("deny", "10.0.0.1")).results.rule_number
    assert after == FIRST_AUTOMATIC - 3
    # nor is one that a Producer chose, used and deleted
    slpf.execute(command("deny", "10.0.0.2", insert_rule=FIRST_AUTOMATIC - 4))
    slpf.execute(command("delete", FIRST_AUTOMATIC - 4))
    slpf.execute(command("deny", "10.0.0.2", insert_rule=FIRST_AUTOMATIC - 5))
    after = slpf.execute(command("deny", "10.0.0.1")).results.rule_number
    assert after == FIRST_AUTOMATIC - 6


@pytest.mark.req("SLPF-25")
def test_when_no_automatic_number_is_left_those_that_are_asked_for_still_are(
    slpf, command, monkeypatch
):
    monkeypatch.setattr(slpf._rules.store, "_next", 3)
    slpf.execute(command("deny", "10.0.0.9", insert_rule=2))
    asked = [command("deny", f"10.0.0.{last}") for last in range(4)]
    answers = slpf.execute_many(asked)
    assert [answer.status for answer in answers] == [200, 200, 501, 501]
    assert [answer.results.rule_number for answer in answers[:2]] == [3, 1]
    assert answers[2].text == "Rule not updated: no automatic number is left; give insert_rule"
    slpf.execute(command("delete", 1))
    refused(slpf, command("deny", "10.0.0.1"), NotSupported, "Rule not updated")
    slpf.execute(command("deny", "10.0.0.1", insert_rule=1))
    assert slpf.status()["count"] == 3


@pytest.mark.req("SLPF-22", "SLPF-23", "SLPF-24", "AMB-38")
def test_an_explicit_number_is_the_one_assigned_and_taken_after(slpf, command):
    first = slpf.execute(command("deny", "10.0.0.0/8", insert_rule=100))
    assert first.results == Results(100)
    again = command("allow", "10.0.0.0/8", insert_rule=100)
    refused(slpf, again, NotSupported, "Rule number currently in use")
    assert slpf.status()["count"] == 1


@pytest.mark.req("SLPF-25", "SLPF-40")
@pytest.mark.parametrize("number", [True, "abc", "7", 1.0, 0, -1, 2**31, None])
def test_what_is_no_rule_number_is_refused_by_type(number):
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(number, RuleNumber)
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"insert_rule": number}, Args)


def test_there_is_an_end_to_the_number_of_rules(slpf, command, monkeypatch):
    monkeypatch.setattr("oc2d_slpf.profile._MOST_RULES", 3)
    asked = [command("deny", f"10.0.0.{last}") for last in range(5)]
    answers = slpf.execute_many(asked)
    assert [answer.status for answer in answers] == [200] * 3 + [500] * 2
    assert "there are 3 rules" in answers[-1].text
    assert slpf.status()["count"] == 3
    slpf.execute(command("delete", answers[0].results.rule_number))
    assert slpf.execute(command("deny", "10.0.1.1")).status == 200


@pytest.mark.req("SLPF-39", "SLPF-41", "AMB-40")
def test_delete_removes_once(slpf, command, paper):
    number = slpf.execute(command("deny", "10.0.0.0/8")).results.rule_number
    response = slpf.execute(command("delete", number))
    assert (response.status, response.results) == (200, None)
    assert not paper.sets
    refused(slpf, command("delete", number), Failed, "firewall rule not removed or updated")


@pytest.mark.req("SLPF-10", "SLPF-11", "SLPF-17")
@pytest.mark.parametrize(
    ("action", "how"), [("deny", "false_ack"), ("allow", "none"), ("allow", "reject")]
)
def test_drop_process_that_cannot_be_is_refused_before_acceptance(slpf, command, action, how):
    made = command(action, "10.0.0.0/8", drop_process=how)
    with pytest.raises(NotSupported, match=r"^Option not supported"):
        slpf.check(made)
    refused(slpf, made, NotSupported, "Option not supported")
    assert slpf.status()["count"] == 0


@pytest.mark.req("AMB-34", "SLPF-32")
@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("port", ["src_port=0", "dst_port=8"])
def test_icmp_has_no_ports(slpf, command, version, port):
    made = command("deny", f"{version} protocol=icmp {port}")
    with pytest.raises(BadRequest):
        slpf.check(made)
    with pytest.raises(BadRequest):
        slpf.execute(made)


@pytest.mark.req("AMB-46")
def test_icmp_is_the_familys_own(slpf, command, paper):
    slpf.execute(command("deny", "4 protocol=icmp"))
    slpf.execute(command("deny", "6 protocol=icmp"))
    keys = {(id_.shape.version, key) for id_, keys in paper.sets.items() for key in keys}
    assert keys == {(4, bytes([1])), (6, bytes([58]))}


@pytest.mark.req("SLPF-11", "SLPF-33", "SLPF-42", "SLPF-48", "AMB-24")
def test_the_engines_refusals_are_worded_as_the_profile_has_them(slpf):
    def word(reason, action, target):
        return slpf.refusal(reason, Action(action), target)

    assert word(Reason.PAIR, "deny", "file") == "Target type not supported"
    assert word(Reason.PAIR, "allow", "file") == "Target type not supported"
    assert word(Reason.PAIR, "delete", "file") == "target not supported"
    assert word(Reason.PAIR, "update", "file") == "Command not supported"
    assert word(Reason.PAIR, "scan", "ipv4_net") == "Command not supported"
    assert word(Reason.OPTION, "deny", "ipv4_net") == "Option not supported"
    window = word(Reason.WINDOW_OVER, "deny", "ipv4_net")
    assert window == "Rule not updated: time window is over"


@pytest.mark.req("AMB-31")
def test_what_the_decoder_changed_is_told(slpf, command):
    note = "10.1.2.3/8 means 10.0.0.0/8"
    assert slpf.execute(command("allow", "10.0.0.0/8", notes=(note,))).text == note
    assert slpf.execute(command("allow", "10.0.0.0/8")).text is None


@pytest.mark.req("AMB-57")
def test_a_deny_inside_never_block_is_refused_and_an_overlapping_one_says_what_stays_open(
    bench, paper, command
):
    slpf = bench.start(paper, never_block=["192.0.2.0/25", "192.0.2.128/25"])
    for target in ("192.0.2.0/24", "192.0.2.7", "4 src_addr=192.0.2.1 dst_port=22"):
        made = command("deny", target)
        with pytest.raises(NotSupported, match=r"^Rule not updated: protected by never_block$"):
            slpf.check(made)
    slpf.check(command("allow", "192.0.2.7"))
    slpf._guard = Guard(slpf.config.never_block)  # as if this host had no addresses of its own
    slpf.link_changing([Endpoint("198.51.100.9", 8883)])
    assert (
        slpf.execute(command("deny", "192.0.0.0/16")).text == "stays open: never_block 192.0.2.0/24"
    )
    assert "broker 198.51.100.9 port 8883" in slpf.execute(command("deny", "198.51.100.9")).text
    assert slpf.execute(command("deny", "203.0.113.0/24")).text is None
    assert "neighbour" in slpf.execute(command("deny", "2001:db8::/32")).text
    everything = slpf.execute(command("deny", "0.0.0.0/0")).text
    assert everything.startswith("stays open: never_block 192.0.2.0/24, loopback, broker 198")
    assert slpf.execute(command("allow", "0.0.0.0/0")).text is None


@pytest.mark.req("SLPF-34", "LANG-44")
def test_what_the_packet_filter_refuses_leaves_nothing_behind(bench, paper, command):
    slpf = bench.start(paper)
    slpf.execute(command("deny", "10.0.0.0/8"))
    paper.failing = 2
    refused(slpf, command("deny", "10.1.0.0/16", key="k"), Failed, "Rule not updated")
    assert slpf.status()["count"] == len(slpf.status()["rules"]) == 1
    paper.failing = 2
    refused(
        slpf, command("delete", FIRST_AUTOMATIC), Failed, "firewall rule not removed or updated"
    )
    assert slpf.status()["count"] == len(slpf.status()["rules"]) == 1
    # it may be tried again: what failed is not remembered
    assert slpf.execute(command("deny", "10.1.0.0/16", key="k")).status == 200
    assert sum(len(keys) for keys in paper.sets.values()) == 2


@pytest.mark.req("SLPF-38")
def test_a_table_that_somebody_flushed_is_loaded_again_with_the_next_command(bench, paper, command):
    slpf = bench.start(paper)
    slpf.execute(command("deny", "10.0.0.0/8"))
    paper.failing = 1
    assert slpf.execute(command("deny", "10.1.0.0/16")).status == 200
    assert sum(len(keys) for keys in paper.sets.values()) == 2


def test_a_batch_is_one_change_of_the_packet_filter(slpf, paper, command):
    calls = len(paper.calls)
    batch = [command("deny", f"10.0.{index}.0/24") for index in range(50)]
    batch.append(command("deny", "10.9.0.0/24", drop_process="false_ack"))
    batch.append(command("delete", 12345))
    answers = slpf.execute_many(batch)
    assert len(paper.calls) == calls + 1
    assert [answer.status for answer in answers[:50]] == [200] * 50
    assert isinstance(answers[50], NotSupported)
    assert isinstance(answers[51], Failed)
    assert slpf.status()["count"] == 50


def test_a_number_may_be_deleted_and_given_again_in_one_batch(slpf, command):
    slpf.execute(command("deny", "10.0.0.0/8", insert_rule=5))
    answers = slpf.execute_many(
        [
            command("delete", 5),
            command("allow", "10.0.0.0/8", insert_rule=5, persistent=False),
            command("delete", 5),
            command("delete", 5),
            command("deny", "10.0.0.0/8", insert_rule=5),
            command("deny", "10.0.0.0/8", insert_rule=5),
        ]
    )
    assert [answer.status for answer in answers] == [200, 200, 200, 500, 200, 501]
    assert slpf.status()["rules"][0]["verdict"] == "deny"


def test_a_batch_that_the_packet_filter_refuses_is_carried_out_one_by_one(slpf, paper, command):
    paper.failing = 2  # the batch, and its second try
    answers = slpf.execute_many([command("deny", f"10.0.{index}.0/24") for index in range(5)])
    assert [answer.status for answer in answers] == [200] * 5
    assert slpf.status()["count"] == 5
    paper.failing = 10**6
    answers = slpf.execute_many([command("deny", f"10.1.{index}.0/24") for index in range(5)])
    assert [answer.text for answer in answers] == [
        "Rule not updated: the packet filter refused the change"
    ] * 5
    assert len(paper.calls) < 20
    assert slpf.status()["count"] == 5


@pytest.mark.req("SLPF-18", "SLPF-19")
def test_status_shows_the_rules_in_order_with_what_belongs_to_them(slpf, command):
    slpf.execute(command("deny", "10.0.0.0/8", insert_rule=9, window=(1000, 2000)))
    made = command(
        "deny",
        "4 protocol=tcp dst_port=0",
        insert_rule=3,
        drop_process="reject",
        direction="ingress",
        persistent=False,
    )
    slpf.execute(made)
    status = slpf.status()
    assert status["count"] == 2
    assert status["rules"] == [
        {
            "number": 3,
            "verdict": "deny",
            "match": "ipv4_connection dst_port=0 protocol=tcp",
            "direction": "ingress",
            "persistent": False,
            "producer": "soc@example.com",
            "drop_process": "reject",
        },
        {
            "number": 9,
            "verdict": "deny",
            "match": "ipv4_net 10.0.0.0/8",
            "direction": "both",
            "persistent": True,
            "producer": "soc@example.com",
            "drop_process": "none",
            "start_time": 1000,
            "stop_time": 2000,
        },
    ]
    assert msgspec.json.encode(status)


def test_status_is_bounded(slpf, command):
    slpf.execute_many([command("deny", f"10.{i // 250}.{i % 250}.0/24") for i in range(1200)])
    assert slpf.status()["count"] == 1200
    assert len(slpf.status()["rules"]) == 1000
