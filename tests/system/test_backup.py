"""What an administrator puts back: an older state, or a part of one."""

from __future__ import annotations

import shutil

import pytest

from tests.consumer import deny
from tests.system.conftest import DRY


@pytest.mark.parametrize("restored", [("journal.db",), ("journal.db", "slpf.db"), ("slpf.db",)])
def test_after_an_older_state_was_put_back_200_is_what_took_effect(make_broker_host, restored):
    """A copy of a living directory holds files of different moments, and so does half a restore."""
    host = make_broker_host(isolated=False)
    zulu = host.consumer(actuators_slpf=DRY).start()
    soc = host.producer()
    assert soc.ask(deny("10.0.0.1")).status == 200
    assert zulu.stop() == 0
    state, backup = zulu.directory / "state", zulu.directory / "backup"
    shutil.copytree(state, backup)
    zulu.start()
    assert {soc.ask(deny(f"10.0.0.{number}")).status for number in (2, 3, 4)} == {200}
    assert zulu.stop() == 0
    for name in restored:
        for path in state.glob(f"{name}*"):
            path.unlink()
        for path in backup.glob(f"{name}*"):
            shutil.copy(path, state)
    zulu.start()
    for number in (11, 12, 13, 14):
        reply = soc.ask(deny(f"10.0.0.{number}"))
        assert reply.status == 200
        assert f"10.0.0.{number}" in str(zulu.rules()[reply.number])
    zulu.close()
