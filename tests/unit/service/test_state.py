from __future__ import annotations

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
