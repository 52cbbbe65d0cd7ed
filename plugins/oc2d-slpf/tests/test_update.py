"""update file: where files may be, what they may hold, and that all of it counts or nothing."""

from __future__ import annotations

import hashlib
import json
import os
import socket
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from oc2d.actuator import Command
from oc2d.errors import BadRequest, Failed, Forbidden, NotSupported
from oc2d.language.targets import File, Hashes
from oc2d.language.values import MD5, SHA1, SHA256
from oc2d.language.vocabulary import Action
from oc2d_slpf import files
from oc2d_slpf.language import Args
from oc2d_slpf.rules import FIRST_AUTOMATIC

NAME = "rules.json"


def entry(action="deny", net="198.51.100.0/24", **args):
    target = net if isinstance(net, dict) else {"ipv6_net" if ":" in net else "ipv4_net": net}
    return {"action": action, "target": target, **({"args": {"slpf": args}} if args else {})}


def update(key="update-1", **file):
    file = {"name": NAME, **file}
    made = File(**{name: value for name, value in file.items() if value is not None})
    return Command(key, "soc@example.com", Action.UPDATE, "file", made, Args())


@pytest.fixture
def directory(tmp_path):
    path = tmp_path / "updates"
    path.mkdir()
    return path


@pytest.fixture
def write(directory):
    def write(*entries, name=NAME):
        path = directory / name
        path.write_text(json.dumps(entries))
        return path

    return write


@pytest.fixture
def slpf(bench, paper, directory):
    return bench.start(paper, update_directories=[str(directory)])


def listed(slpf):
    return [(rule["number"], rule["verdict"], rule["match"]) for rule in slpf.status()["rules"]]


def elements(paper):
    return sum(len(keys) for keys in paper.sets.values())


def refused(slpf, command, kind, pattern):
    before = listed(slpf)
    with pytest.raises(kind, match=pattern):
        slpf.execute(command)
    assert listed(slpf) == before


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
    assert elements(paper) == 3
    assert {rule["producer"] for rule in slpf.status()["rules"]} == {"soc@example.com"}
    # later commands come ahead of the file, and its rules can be deleted
    after = slpf.execute(command("deny", "10.2.0.0/16")).results.rule_number
    assert after == FIRST_AUTOMATIC - 4
    assert slpf.execute(command("delete", FIRST_AUTOMATIC - 2)).status == 200


@pytest.mark.req("SLPF-25", "SLPF-44")
def test_a_file_for_which_no_numbers_are_left_changes_nothing(slpf, command, write, monkeypatch):
    slpf.execute(command("deny", "10.0.0.0/8"))
    slpf.execute(command("deny", "10.0.0.0/8", insert_rule=2))
    monkeypatch.setattr(slpf._rules.store, "_next", 3)
    write(*(entry(net=f"192.0.2.{n}") for n in range(3)))
    refused(slpf, update(), NotSupported, "no automatic number is left")
    write(entry(net="192.0.2.1", insert_rule=2), *(entry(net=f"192.0.2.{n}") for n in (2,)))
    assert slpf.execute(update("update-2")).status == 200
    assert [number for number, *_ in listed(slpf)] == [2, 3]
    write(*(entry(net=f"192.0.2.{n}", insert_rule=n) for n in range(1, 9)))
    assert slpf.execute(update("update-3")).status == 200


@pytest.mark.req("SLPF-44")
def test_an_empty_list_leaves_no_rule(slpf, paper, command, write):
    slpf.execute(command("deny", "10.0.0.0/8"))
    write()
    assert slpf.execute(update()).text == "0 rules in force"
    assert (listed(slpf), elements(paper)) == ([], 0)


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
    assert elements(paper) == 3


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


# -- what leaves the old rules in force


@pytest.mark.req("SLPF-52", "SLPF-34")
def test_what_the_packet_filter_refuses_leaves_the_old_rules(slpf, paper, command, write):
    slpf.execute(command("deny", "10.0.0.0/8"))
    write(entry("deny", "192.0.2.1"), entry("deny", "192.0.2.2"))
    paper.failing = 1
    refused(slpf, update(), Failed, "^Rule not updated: the packet filter refused the change$")
    assert elements(paper) == 1
    # what failed that way may be tried again
    assert slpf.execute(update()).status == 200
    assert elements(paper) == 2


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
    assert len(listed(slpf)) == elements(paper) == 2


@pytest.mark.req("SLPF-47", "SLPF-52")
@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("", "not JSON"),
        ("[", "not JSON"),
        ("{}", "not a list"),
        ("\xff", "not a list|not JSON"),
        ('[{"action": "deny", "action": "allow"}]', "occurs twice"),
        ("[" * 200_000, "nests too deep"),
        ("[NaN]", "no JSON value"),
        ("[1]", "entry 1: a command is an object"),
        ([{}], "entry 1: missing action"),
        ([entry(), entry(net="198.51.100.0/33")], r"entry 2: an IPv4 range.*\$\.target\.ipv4_net"),
        ([entry(), {**entry(), "acton": 1}], "entry 2: there is no member 'acton'"),
        ([entry(persistent="no")], r"entry 1: .*\$\.args\.slpf\.persistent"),
        ([entry(insert_rule=0)], r"entry 1: .*\$\.args\.slpf\.insert_rule"),
        ([entry(insert_rule=5), entry(insert_rule=5)], "entry 2: Rule number currently in use: 5"),
        ([entry("allow", drop_process="none")], "entry 1: Option not supported"),
        ([entry(drop_process="false_ack")], "entry 1: Option not supported"),
        ([entry(net="203.0.113.9")], "entry 1: Rule not updated: protected by never_block"),
        ([entry("delete", {"slpf:rule_number": 5})], "entry 1: only allow and deny"),
        ([entry("update", {"file": {"name": NAME}})], "entry 1: only allow and deny"),
        ([entry("query", {"features": []})], "entry 1: only allow and deny"),
        ([entry("deny", {"domain_name": "example.com"})], "entry 1: Target type not supported"),
        ([entry("deny", {"x-door:lock": 1})], "entry 1: Target type not supported"),
        ([{**entry(), "args": {"start_time": 1}}], "entry 1: Option not supported: start_time"),
        ([{**entry(), "args": {"stop_time": 1}}], "entry 1: Option not supported: stop_time"),
        ([{**entry(), "args": {"duration": 1}}], "entry 1: Option not supported: duration"),
        ([{**entry(), "args": {"x-a": {}}}], "entry 1: Option not supported: x-a"),
        ([{**entry(), "args": {"NO!": 1}}], "entry 1: Option not supported: NO!"),
        ([{**entry(), "actuator": {"slpf": {"asset_id": "1"}}}], "entry 1: the file is for this"),
        ([{**entry(), "actuator": {"x-door": {}}}], "entry 1: the file is for this"),
        (
            [entry(net={"ipv4_connection": {"protocol": "icmp", "dst_port": 1}})],
            "entry 1: icmp has no ports",
        ),
    ],
)
def test_a_file_with_anything_wrong_changes_nothing_and_the_answer_says_where(
    bench, paper, directory, command, content, text
):
    slpf = bench.start(paper, update_directories=[str(directory)], never_block=["203.0.113.0/24"])
    slpf.execute(command("deny", "10.0.0.0/8"))
    content = content if isinstance(content, str) else json.dumps(content)
    (directory / NAME).write_text(content)
    refused(slpf, update(), Failed, rf"^Rule not updated: .*(?:{text})")
    assert elements(paper) == 1


def test_what_only_concerns_the_reply_of_an_entry_may_be_there(slpf, write):
    full = {"args": {"response_requested": "complete"}, "actuator": {"slpf": {}}, "command_id": "a"}
    write({**entry(), **full})
    assert slpf.execute(update()).status == 200


@pytest.mark.req("SLPF-52", "AMB-32")
def test_every_hash_that_is_given_must_match(slpf, write):
    content = write(entry()).read_bytes()
    kinds = {"md5": MD5, "sha1": SHA1, "sha256": SHA256}
    right = {name: kind(hashlib.new(name, content).digest()) for name, kind in kinds.items()}
    assert slpf.execute(update(hashes=Hashes(**right))).status == 200
    for name, kind in kinds.items():
        wrong = Hashes(**{**right, name: kind(bytes(kind.size))})
        pattern = f"^Rule not updated: the {name} of the file is another$"
        refused(slpf, update(f"wrong-{name}", hashes=wrong), Failed, pattern)


# -- where files may be


@pytest.mark.req("SLPF-46")
@pytest.mark.parametrize("file", [{"name": None, "path": "/srv"}, {"name": ""}])
def test_a_file_without_a_name_is_refused_before_acceptance(slpf, file):
    with pytest.raises(BadRequest):
        slpf.check(update(**file))
    with pytest.raises(BadRequest):
        slpf.execute(update(**file))


@pytest.mark.req("SLPF-52")
@pytest.mark.parametrize(
    "file",
    [
        {"path": "/etc"},
        {"path": "/"},
        {"path": "updates"},
        {"path": ""},
        {"path": "{directory}/.."},
        {"path": "{directory}/../updates"},
        {"path": "{directory}/sub/../../updates"},
        {"path": "{directory}2"},
        {"path": "/{directory}"},
        {"path": "{directory}\0"},
        {"name": ".."},
        {"name": "."},
        {"name": "../rules.json"},
        {"name": "/etc/passwd"},
        {"name": "sub/rules.json"},
        {"name": "rules\0.json"},
    ],
)
def test_a_place_outside_the_directories_is_refused_before_acceptance(slpf, write, directory, file):
    write(entry())
    made = update(**{key: text.format(directory=directory) for key, text in file.items()})
    with pytest.raises(Forbidden):
        slpf.check(made)
    refused(slpf, made, Forbidden, "name|path")


@pytest.mark.req("SLPF-46", "SLPF-52")
def test_a_file_is_found_by_its_path_or_in_the_first_directory_that_has_it(bench, paper, tmp_path):
    places = [tmp_path / "one", tmp_path / "two"]
    slpf = bench.start(paper, update_directories=[str(path) for path in places])
    for path, net in zip(places, ("192.0.2.1", "192.0.2.2"), strict=True):
        (path / "deep" / "er").mkdir(parents=True)
        (path / "deep" / "er" / NAME).write_text(json.dumps([entry(net=net)]))
    (places[1] / NAME).write_text(json.dumps([entry(net="192.0.2.3")]))
    for path, match in (
        (None, "192.0.2.3/32"),
        (f"{places[0]}/deep/er", "192.0.2.1/32"),
        (f"{places[1]}//deep/./er/", "192.0.2.2/32"),
    ):
        made = update(f"at {path}", path=path)
        slpf.check(made)
        slpf.execute(made)
        assert listed(slpf)[0][2] == f"ipv4_net {match}"


@pytest.mark.req("SLPF-52")
def test_no_symbolic_link_is_followed(slpf, directory, tmp_path, write):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / NAME).write_text("[]")
    (directory / "away").symlink_to(outside)
    (directory / "up").symlink_to("..")
    (directory / "link.json").symlink_to(outside / NAME)
    write(entry(), name="own.json")
    (directory / "own-link.json").symlink_to("own.json")
    for file in (
        {"name": "link.json"},
        {"name": "own-link.json"},
        {"path": f"{directory}/away"},
        {"path": f"{directory}/up/outside"},
    ):
        refused(slpf, update(str(file), **file), Forbidden, "^symbolic links are not followed$")


def test_the_configured_directory_itself_may_be_a_link(bench, paper, directory, tmp_path, write):
    write(entry())
    (tmp_path / "link").symlink_to(directory)
    slpf = bench.start(paper, update_directories=[str(tmp_path / "link")])
    assert slpf.execute(update(path=str(tmp_path / "link"))).status == 200


@pytest.mark.req("SLPF-49")
def test_what_cannot_be_accessed_is_answered_500(slpf, directory, monkeypatch):
    (directory / "directory").mkdir()
    os.mkfifo(directory / "fifo")
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(directory / "socket"))
    (directory / "file").write_text("[]")
    (directory / "large").write_bytes(b" " * 2000)
    monkeypatch.setattr(files, "MAX_BYTES", 1000)
    for file in (
        {"name": "none"},
        {"name": "directory"},
        {"name": "fifo"},
        {"name": "socket"},
        {"name": "large"},
        {"name": "n" * 300},
        {"path": f"{directory}/none"},
        {"path": f"{directory}/file"},
    ):
        refused(slpf, update(str(file), **file), Failed, "^cannot access file: ")


@pytest.mark.req("SLPF-49")
def test_a_file_that_is_not_ours_to_read_is_answered_500(slpf, monkeypatch, write):
    write(entry())

    def denied(*_args, **_kwargs):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "open", denied)
    refused(slpf, update(), Failed, "^cannot access file: Permission denied$")


def test_no_descriptor_is_left_open(slpf, directory, write):
    write(entry())
    (directory / "deep").mkdir()
    before = len(list(Path("/proc/self/fd").iterdir()))
    for index, file in enumerate(({}, {"path": f"{directory}/deep"}, {"name": "deep"})):
        slpf.execute_many([update(f"u{index}", **file)])
    assert len(list(Path("/proc/self/fd").iterdir())) == before


# -- any file


def _wild(entries):
    return st.lists(
        st.one_of(
            st.sampled_from(entries),
            st.recursive(
                st.none() | st.booleans() | st.integers() | st.text(max_size=5),
                lambda inner: (
                    st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner)
                ),
                max_leaves=5,
            ),
        ),
        max_size=6,
    )


GOOD = [
    entry("allow", "192.0.2.1"),
    entry("deny", "2001:db8::/32", direction="egress"),
    entry("deny", {"ipv4_connection": {"dst_port": 53}}, persistent=False),
]


@given(content=st.one_of(st.binary(max_size=50), _wild(GOOD).map(lambda e: json.dumps(e).encode())))
@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_whatever_a_file_holds_its_rules_are_all_there_or_none_is(
    slpf, directory, paper, model, content
):
    (directory / NAME).write_bytes(content)
    before = listed(slpf)
    (answer,) = slpf.execute_many([update(os.urandom(8).hex())])
    if answer.status == 200:
        assert len(listed(slpf)) == len(json.loads(content))
    else:
        assert answer.status == 500
        assert listed(slpf) == before
    assert slpf.status()["count"] == len(listed(slpf))
    expected = model.Paper()
    expected.replace(slpf._rules.firewall.tiers.operations())
    assert paper.sets == expected.sets


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
