"""What audit records of a decision, and that any change of the record is found."""

from __future__ import annotations

import hashlib
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from oc2d.errors import ConfigError, PluginError, Unavailable
from oc2d.hookspecs import Place, Request
from oc2d.language.codec import Encoding
from oc2d.language.command import parse_command
from oc2d_audit import AuditPlugin
from oc2d_audit.__main__ import main
from oc2d_audit.chain import NOTHING, link_of, seal
from oc2d_audit.verify import verify

from .conftest import checked, filled, records

# -- the chain


def test_a_line_is_json_and_its_hash_can_be_made_with_ordinary_tools(make):
    log = filled(make)
    for line in log.file.read_text().splitlines():
        record = json.loads(line)
        body = line.replace(f',"hash":"{record["hash"]}"', "")
        assert hashlib.sha256(body.encode()).hexdigest() == record["hash"]
    told = records(log.file)
    assert [one["seq"] for one in told] == list(range(1, 8))
    assert [one["event"] for one in told] == ["start", *["decision"] * 5, "stop"]
    assert [one["prev"] for one in told] == [NOTHING.hash, *(one["hash"] for one in told[:-1])]


def test_a_whole_log_is_told_so(make, capsys):
    log = filled(make)
    capsys.readouterr()
    assert main(["verify", str(log.file), "--head", str(log._head)]) == 0
    assert capsys.readouterr().out == f"ok: records 1 to 7, {log.link.hash}\n"


@settings(max_examples=200)
@given(st.data())
def test_any_change_of_a_byte_is_found_at_its_line_or_the_next(tmp_path_factory, data):
    lines, link = [], NOTHING
    for number in range(4):
        line, link = seal({"event": "decision", "text": "aéb", "number": number}, link)
        lines.append(line)
    whole = bytearray(b"".join(lines))
    at = data.draw(st.integers(0, len(whole) - 1))
    value = data.draw(st.integers(0, 255).filter(lambda new: new != whole[at]))
    hit = whole[:at].count(b"\n") + 1
    whole[at] = value
    file = tmp_path_factory.mktemp("log") / "log"
    file.write_bytes(whole)
    report = verify(file, link)
    assert report.wrong
    if at < len(whole) - 1:
        assert report.wrong.startswith((f"{file}:{hit}:", f"{file}:{hit + 1}:"))


@pytest.mark.parametrize("change", ["remove", "insert", "swap", "first", "cut", "cut in a line"])
def test_lines_removed_inserted_exchanged_or_cut_off_are_found(make, change):
    log = filled(make)
    lines = log.file.read_bytes().splitlines(keepends=True)
    place, where = lines.copy(), f"{log.file}:4:"
    if change == "remove":
        del place[3]
    elif change == "insert":
        place.insert(3, seal({"event": "decision"}, link_of(lines[2])[0])[0])
        where = f"{log.file}:5:"
    elif change == "swap":
        place[3], place[4] = place[4], place[3]
    elif change == "first":
        place[0] = seal({"event": "start"}, NOTHING)[0]
        where = f"{log.file}:2:"
    elif change == "cut":
        del place[5:]
        where = f"{log.file}: ends with record 5, but there was a record 7"
    else:
        place[-1] = place[-1][:20]
        where = f"{log.file}: ends with record 6, but there was a record 7"
    log.file.write_bytes(b"".join(place))
    assert checked(log).wrong.startswith(where)


def test_without_the_head_a_note_from_elsewhere_tells_of_a_history_made_anew(make, capsys):
    log = filled(make)
    noted = f"{log.link.seq}:{log.link.hash}"
    lines, link = b"", NOTHING
    for number in range(9):
        line, link = seal({"event": "decision", "number": number}, link)
        lines += line
    log.file.write_bytes(lines)
    log._head.unlink()
    assert main(["verify", str(log.file), "--head", str(log._head)]) == 0
    assert "cannot be read: an end that was cut off is not seen" in capsys.readouterr().out
    arguments = ["verify", str(log.file), "--head", str(log._head), "--expect", noted]
    assert main(arguments) == 1
    assert "record 7 is not what it was" in capsys.readouterr().out
    assert main(["verify", str(log.file.with_name("none"))]) == 2


def test_a_forged_log_cannot_drive_the_terminal_of_who_verifies_it(tmp_path, capsys):
    line, _ = seal({"event": "start", "broken": "\x1b[2J\x1b[Hok: records\n1 to 9"}, NOTHING)
    (tmp_path / "audit.log").write_bytes(line)
    assert main(["verify", str(tmp_path / "audit.log"), "--head", "/none"]) == 1
    said = capsys.readouterr().out
    assert "\\x1b[2J\\x1b[Hok: records\\n1 to 9" in said
    assert "\x1b" not in said


# -- the plugin


def request(tree, **members):
    told = {"request_id": "r1", "producer": "soc", "topic": "oc2/cmd/all", "profile": "slpf"}
    return Request(**{**told, **members}, command=parse_command(tree, Encoding.JSON))


@pytest.fixture
def plugin(tmp_path):
    made = AuditPlugin()
    config = made.oc2d_parse_config({"file": str(tmp_path / "audit.log")})
    made.oc2d_configure(config, Place("fw-7", tmp_path, tmp_path))
    yield made
    made.oc2d_stop()


def test_a_decision_is_recorded_with_a_digest_that_anybody_can_make(plugin, tmp_path):
    tree = {"target": {"ipv4_net": "192.0.2.7/32"}, "action": "deny", "args": {"duration": 5}}
    plugin.oc2d_response(request(tree), 200, 1.234)
    record = records(tmp_path / "audit.log")[1]
    canonical = b'{"action":"deny","args":{"duration":5},"target":{"ipv4_net":"192.0.2.7"}}'
    assert (
        record.items()
        >= {
            "status": 200,
            "from": "soc",
            "request_id": "r1",
            "topic": "oc2/cmd/all",
            "profile": "slpf",
            "action": "deny",
            "target": "ipv4_net",
            "digest": hashlib.sha256(canonical).hexdigest(),
            "command": json.loads(canonical),
            "duration_ms": 1.23,
        }.items()
    )


def test_what_is_long_is_cut_and_what_is_odd_stays_in_its_line(plugin, tmp_path):
    names = ["x" * 200 + str(number) for number in range(60)]
    odd = request(
        {"action": "query", "target": {"properties": names}},
        producer='a"}\n{"seq":1' + "y" * 999,
        request_id=None,
    )
    plugin.oc2d_response(odd, 501, 0.0)
    lines = (tmp_path / "audit.log").read_bytes().splitlines()
    record = json.loads(lines[1])
    assert len(lines) == 2
    assert (record["command"], record["request_id"], len(record["from"])) == (None, None, 256)
    assert len(lines[1]) < 1500


def test_nothing_is_decided_that_could_not_be_recorded_unless_the_table_says_so(plugin, tmp_path):
    asked = request({"action": "deny", "target": {"ipv4_net": "192.0.2.7"}})
    assert plugin.oc2d_authorise(asked) is None
    record = records(tmp_path / "audit.log")[1]
    assert (record["event"], record["command"]["action"]) == ("asked", "deny")
    plugin._log.error = "No space left on device"
    assert isinstance(plugin.oc2d_authorise(asked), Unavailable)
    table = {"file": str(tmp_path / "audit.log"), "when_full": "continue"}
    plugin.oc2d_configure(plugin.oc2d_parse_config(table), Place("fw-7", tmp_path, tmp_path))
    assert plugin.oc2d_authorise(asked) is None
    assert AuditPlugin().oc2d_authorise(asked) is not None
    other = plugin.oc2d_parse_config({"file": str(tmp_path / "other.log")})
    with pytest.raises(PluginError, match="another file needs a restart"):
        plugin.oc2d_configure(other, Place("fw-7", tmp_path, tmp_path))


def test_every_mistake_in_the_table_is_told(tmp_path):
    table = {"file": "x", "rotate_bytes": 10, "keep": True, "when_full": "stop", "colour": 1}
    with pytest.raises(ConfigError) as caught:
        AuditPlugin().oc2d_parse_config(table)
    assert {problem.path for problem in caught.value.problems} == set(table)
    with pytest.raises(ConfigError, match="there is no directory"):
        AuditPlugin().oc2d_parse_config({"file": str(tmp_path / "none" / "log")})
