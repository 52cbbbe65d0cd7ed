from __future__ import annotations

import os

import pytest

from oc2d.config import State
from oc2d.errors import StateError
from oc2d.state import StateDirectories


@pytest.mark.parametrize("kind", ["directory", "link"])
def test_a_lock_that_cannot_be_opened_is_told_of(tmp_path, kind):
    state = State(directory=tmp_path / "state", runtime_directory=tmp_path / "run")
    StateDirectories(state).close()
    lock = tmp_path / "state" / "lock"
    lock.unlink()
    if kind == "directory":
        lock.mkdir()
    else:
        lock.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StateError, match=r"^state\.directory: cannot use .*lock: .*must be"):
        StateDirectories(state)


@pytest.mark.parametrize("which", ["directory", "runtime_directory"])
def test_a_directory_that_is_a_link_is_refused(tmp_path, which):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    paths = {"directory": tmp_path / "state", "runtime_directory": tmp_path / "run"}
    with pytest.raises(StateError, match=f"^state\\.{which}: .*symbolic links are refused"):
        StateDirectories(State(**paths | {which: tmp_path / "link"}))


@pytest.mark.parametrize("mode", [0o770, 0o707, 0o777, 0o1777])
def test_a_directory_that_others_may_write_is_refused(tmp_path, mode):
    (tmp_path / "state").mkdir()
    (tmp_path / "state").chmod(mode)
    with pytest.raises(StateError, match="can be written by others; chmod 700"):
        StateDirectories(State(directory=tmp_path / "state", runtime_directory=tmp_path / "run"))


@pytest.mark.root
def test_a_directory_of_another_user_is_refused(tmp_path):
    (tmp_path / "state").mkdir(mode=0o700)
    os.chown(tmp_path / "state", 12345, 12345)
    with pytest.raises(StateError, match=r"belongs to another user \(uid 12345\)"):
        StateDirectories(State(directory=tmp_path / "state", runtime_directory=tmp_path / "run"))


def test_a_file_where_the_directory_should_be_is_told_of(tmp_path):
    (tmp_path / "state").write_text("")
    with pytest.raises(StateError, match=r"^state\.directory: cannot use"):
        StateDirectories(State(directory=tmp_path / "state", runtime_directory=tmp_path / "run"))


def test_directories_are_made_for_us_alone(tmp_path):
    StateDirectories(State(directory=tmp_path / "s", runtime_directory=tmp_path / "r")).close()
    modes = {name: (tmp_path / name).stat().st_mode & 0o777 for name in ("s", "r")}
    assert modes["s"] == 0o700
    assert modes["r"] & ~0o750 == 0
