"""update file: where files may be, and what they may hold."""

from __future__ import annotations

import hashlib
import json
import os
import socket
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from oc2d.errors import BadRequest, Failed, Forbidden
from oc2d.language.targets import Hashes
from oc2d.language.values import MD5, SHA1, SHA256
from oc2d_slpf import files
from oc2d_slpf.rules import Verdict

from .conftest import NAME, entry, listed, refused, update


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
    assert paper.elements() == 1


@pytest.mark.req("SLPF-10", "SLPF-52")
def test_a_file_asks_for_nothing_that_the_packet_filter_cannot(slpf, paper, write):
    paper.can = lambda verdict: verdict is not Verdict.FALSE_ACK
    target = {"ipv4_connection": {"protocol": "tcp", "dst_port": 22}}
    write(entry(), entry(net=target, drop_process="false_ack", direction="ingress"))
    refused(slpf, update(), Failed, "^Rule not updated: entry 2: Option not supported: drop_proc")


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
