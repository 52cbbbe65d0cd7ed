"""The audit log over starts, rotations and full disks."""

from __future__ import annotations

import errno
import json
import os
import subprocess
from pathlib import Path

import pytest
import structlog.testing

from oc2d.errors import PluginError
from oc2d_audit.chain import Link, link_of
from oc2d_audit.log import read_head, rotated
from oc2d_audit.verify import verify
from tests.waiting import wait_until

from .conftest import checked, filled, records


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


@pytest.mark.parametrize("rotated_before", [False, True])
def test_a_torn_line_that_never_was_synced_is_taken_off_and_told(make, rotated_before):
    log = filled(make)
    if rotated_before:
        log.file.rename(f"{log.file}.000000000007")
    with log.file.open("ab") as stream:
        stream.write(b'{"seq":8,"at":"2026')
    report = checked(log)
    assert (report.wrong, len(report.notes)) == (None, 1)
    make().close()
    assert records(log.file)[0 if rotated_before else 7]["torn"] == 19
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


def test_a_moment_without_memory_breaks_neither_the_chain_nor_the_thread(make, monkeypatch):
    class Full(bytearray):
        def __iadd__(self, other):
            raise MemoryError

    log = make()
    log._unwritten = Full()
    with pytest.raises(MemoryError):
        log.write({"event": "decision"})
    log._unwritten = bytearray()
    failing = [MemoryError()]
    sync = os.fdatasync

    def fdatasync(fd):
        if failing:
            raise failing.pop()
        sync(fd)

    monkeypatch.setattr("os.fdatasync", fdatasync)
    log.write({"event": "decision"})
    wait_until(lambda: not failing)
    log.write({"event": "decision"})
    wait_until(lambda: log.error is None and read_head(log._head) == log.link)
    log.close()
    report = checked(log)
    assert report.wrong is None
    assert report.notes == [f"{log.file}:2: 1 decisions were not recorded"]
