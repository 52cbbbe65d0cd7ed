from __future__ import annotations

import errno
import hashlib
import itertools
import json
import subprocess
from pathlib import Path

import pytest
import structlog.testing
from hypothesis import given, settings
from hypothesis import strategies as st

from oc2d.errors import ConfigError, PluginError, Unavailable
from oc2d.hookspecs import Place, Request
from oc2d.language.codec import Encoding
from oc2d.language.command import parse_command
from oc2d_audit import AuditPlugin
from oc2d_audit.__main__ import main
from oc2d_audit.chain import NOTHING, Link, link_of, seal
from oc2d_audit.log import AuditLog, read_head, rotated
from oc2d_audit.verify import verify
from tests.waiting import wait_until

_seconds = itertools.count()


def now():
    return f"2026-11-22T00:00:{next(_seconds) % 60:02}"


@pytest.fixture
def make(tmp_path):
    """A function that opens the log; all are closed at the end."""
    opened = []

    def make(name="audit.log", **options):
        log = AuditLog(
            tmp_path / name,
            tmp_path / "audit.head",
            now,
            **{"rotate_bytes": 1 << 20, "keep": None, **options},
        )
        opened.append(log)
        return log

    yield make
    for log in opened:
        if not log._stop.is_set():
            log.close()


def filled(make, count=5):
    log = make()
    for number in range(count):
        log.write({"event": "decision", "number": number})
    log.close()
    return log


def records(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def checked(log):
    head = read_head(log._head)
    return verify(log.file, *([head] if head else []))


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


# -- starts


def test_a_forged_log_cannot_drive_the_terminal_of_who_verifies_it(tmp_path, capsys):
    line, _ = seal({"event": "start", "broken": "\x1b[2J\x1b[Hok: records\n1 to 9"}, NOTHING)
    (tmp_path / "audit.log").write_bytes(line)
    assert main(["verify", str(tmp_path / "audit.log"), "--head", "/none"]) == 1
    said = capsys.readouterr().out
    assert "\\x1b[2J\\x1b[Hok: records\\n1 to 9" in said
    assert "\x1b" not in said


def test_a_restart_goes_on_in_the_chain_and_says_how_the_last_run_ended(make):
    log = filled(make)
    again = make()
    again.sync()
    copy = log.file.with_name("copy")
    copy.write_bytes(log.file.read_bytes())
    assert records(log.file)[7] | {"event": "start", "clean": True} == records(log.file)[7]
    again.close()
    copy.replace(log.file)  # as a kill would have left it: without its stop
    log._head.write_text(json.dumps({"seq": 8, "hash": records(log.file)[-1]["hash"]}))
    make().close()
    assert records(log.file)[8]["clean"] is False
    report = checked(log)
    assert report.wrong is None
    assert report.notes == [f"{log.file}:9: the daemon before did not end in order"]


def test_a_torn_line_that_never_was_synced_is_taken_off_and_told(make):
    log = filled(make)
    with log.file.open("ab") as stream:
        stream.write(b'{"seq":8,"at":"2026')
    report = checked(log)
    assert (report.wrong, len(report.notes)) == (None, 1)
    make().close()
    assert records(log.file)[7]["torn"] == 19
    assert checked(log).wrong is None


@pytest.mark.parametrize("change", ["cut", "all", "changed", "head"])
def test_a_log_that_is_not_as_it_was_left_is_told_at_start_and_for_ever(make, change):
    log = filled(make)
    lines = log.file.read_bytes().splitlines(keepends=True)
    if change == "cut":
        log.file.write_bytes(b"".join(lines[:4]))
    elif change == "all":
        log.file.unlink()
    elif change == "changed":
        log.file.write_bytes(b"".join(lines).replace(b'"stop"', b'"stip"'))
    else:
        log._head.unlink()
    with structlog.testing.capture_logs() as entries:
        again = make()
    assert [entry["event"] for entry in entries] == ["audit_broken"]
    again.close()
    make().close()
    assert checked(again).wrong
    assert "broken" in log.file.read_text()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda file: file.unlink(), "taken away"),
        (lambda file: file.rename(f"{file}.1"), "taken away"),
        (lambda file: file.rename(f"{file}.1").with_name(file.name).touch(), "another file"),
        (lambda file: file.write_bytes(b""), "had 0 bytes"),
        (lambda file: file.write_bytes(file.read_bytes() + b"x\n"), "bytes instead of"),
    ],
)
def test_a_log_that_others_touch_while_it_is_written_goes_on_and_tells_of_it(make, change, said):
    """As logrotate does: all that followed went into a file that nobody finds."""
    log = make()
    log.write({"event": "decision", "number": 1})
    log.sync()
    change(log.file)
    with structlog.testing.capture_logs() as entries:
        for number in (2, 3):
            log.write({"event": "decision", "number": number})
            log.sync()
    assert [entry["event"] for entry in entries] == ["audit_broken"]
    assert said in entries[0]["message"]
    lines = [line for line in log.file.read_bytes().splitlines(keepends=True) if line != b"x\n"]
    numbers = [link_of(line)[1].get("number") for line in lines]
    assert [number for number in numbers if number][-2:] == [2, 3]
    assert log.error is None
    log.close()
    assert checked(log).wrong is not None


def test_a_log_whose_directory_is_gone_refuses_until_it_is_back(make, tmp_path):
    (tmp_path / "logs").mkdir()
    log = make("logs/audit.log")
    (tmp_path / "logs").rename(tmp_path / "old")
    log.write({"event": "decision", "number": 1})
    assert log.error == "No such file or directory"
    (tmp_path / "logs").mkdir()
    log.sync()
    assert log.error is None
    assert [one.get("number") for one in records(log.file)] == [1, None]


def test_two_daemons_do_not_share_a_log(make):
    make()
    with pytest.raises(PluginError, match="in use by another daemon"):
        make()


# -- rotation


def test_a_long_log_is_put_aside_and_the_chain_goes_on(make):
    log = make(rotate_bytes=2000, keep=3)
    for number in range(100):
        log.write({"event": "decision", "number": number})
        log.sync()
    log.close()
    aside = rotated(log.file)
    assert len(aside) == 3
    report = checked(log)
    assert report.wrong is None
    assert report.last == log.link == Link(102, log.link.hash)
    (note,) = report.notes
    assert f"{aside[0]}:1: begins with record" in note
    aside[1].unlink()
    assert checked(log).wrong.startswith(f"{aside[2]}:1: record")


def test_a_kill_between_putting_aside_and_going_on_is_no_break(make):
    log = filled(make)
    log.file.rename(f"{log.file}.000000000007")
    again = make()
    again.close()
    assert records(log.file)[0]["clean"] is True
    assert checked(again).wrong is None


def test_a_log_that_cannot_be_put_aside_goes_on(make, monkeypatch):
    monkeypatch.setattr(Path, "rename", lambda *_: (_ for _ in ()).throw(OSError(1, "no")))
    with structlog.testing.capture_logs() as entries:
        log = make(rotate_bytes=1)
        for _ in range(3):
            log.write({"event": "decision"})
            log.sync()
    assert [entry["event"] for entry in entries] == ["audit_failed"]
    log.close()
    assert (log.error, checked(log).wrong) == (None, None)


def test_a_rotation_that_failed_half_way_is_undone_and_the_next_is_as_any(make, monkeypatch):
    log = make(rotate_bytes=2000)

    def fill():
        for number in range(10):
            log.write({"event": "decision", "number": number})
        log.sync()

    def exhausted(_):
        raise OSError(errno.EMFILE, "Too many open files")

    with structlog.testing.capture_logs() as entries:
        for before in range(2):
            with monkeypatch.context() as patch:
                patch.setattr("oc2d_audit.log._open", exhausted)
                fill()
                fill()
                assert (len(rotated(log.file)), log.file.exists()) == (before, True)
            fill()
            assert len(rotated(log.file)) == before + 1
            assert checked(log).wrong is None
    told = [entry["event"] for entry in entries]
    assert told == ["audit_failed", "audit_head"] * 2


@pytest.mark.parametrize("with_head", [True, False])
def test_a_torn_line_is_wrong_in_a_file_that_was_put_aside(make, with_head):
    log = make(rotate_bytes=2000)
    for number in range(30):
        log.write({"event": "decision", "number": number})
        log.sync()
    log.close()
    first = rotated(log.file)[0]
    first.write_bytes(first.read_bytes()[:-1])
    lines = first.read_bytes().count(b"\n") + 1
    report = checked(log) if with_head else verify(log.file)
    assert report.wrong == f"{first}:{lines}: the line is not whole"


# -- a full disk


@pytest.fixture
def small(tmp_path):
    """A file system that is soon full."""
    place = tmp_path / "small"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "none", place], check=True)
    yield place
    subprocess.run(["umount", "-l", place], check=True)


@pytest.mark.root
def test_on_a_full_disk_nothing_is_lost_that_fits_into_memory_and_the_rest_is_counted(
    make, small, monkeypatch
):
    monkeypatch.setattr("oc2d_audit.log._MOST_UNWRITTEN", 4000)
    log = make("small/audit.log")
    (small / "ballast").write_bytes(bytes(52 << 10))
    for number in range(200):
        log.write({"event": "decision", "number": number})
    assert log.error == "No space left on device"
    assert log.unwritten
    assert log.unrecorded
    (small / "ballast").unlink()
    wait_until(lambda: log.error is None)
    log.write({"event": "decision", "number": 200})
    log.close()
    report = checked(log)
    assert report.wrong is None
    told = records(log.file)
    (gap,) = [one for one in told if one["event"] == "gap"]
    assert gap["unrecorded"] + sum(one["event"] == "decision" for one in told) == 201
    assert report.notes == [
        f"{log.file}:{gap['seq']}: {gap['unrecorded']} decisions were not recorded"
    ]


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
