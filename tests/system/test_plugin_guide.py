"""The example of the guide for plugin authors, as it stands there, in a running daemon."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.consumer import query
from tests.waiting import wait_until

GUIDE = Path(__file__).parents[2] / "docs/plugins.md"
LOCK = {"action": "deny", "target": {"x-door:door": "front"}}


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", GUIDE.read_text(), re.DOTALL)


@pytest.fixture
def zulu(make_broker_host, tmp_path):
    """A Consumer with the door of the guide, and the hook."""
    door, hook = blocks("python")
    entries = re.findall(r'^(\w+) = "(oc2d_door:\w+)"$', blocks("toml")[0], re.MULTILINE)
    (tmp_path / "oc2d_door.py").write_text(door)
    (tmp_path / "door_policy.py").write_text(hook)
    info = tmp_path / "oc2d_door-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: oc2d-door\nVersion: 1.0\n")
    lines = [f"{name} = {target}" for name, target in [*entries, ("policy", "door_policy")]]
    (info / "entry_points.txt").write_text("\n".join(["[oc2d]", *lines]) + "\n")
    doors = {"doors": ["front", "gate"]}
    assert blocks("toml")[1] == '[actuators.x-door]\ndoors = ["front", "gate"]\n'
    host = make_broker_host(isolated=False)
    made = host.consumer("fw-7", **{"actuators_x-door": doors})
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
    made.site = {"PYTHONPATH": path}
    return made.start(**made.site)


@pytest.mark.req("LANG-86")
def test_the_door_of_the_guide_is_locked_and_unlocked_by_time_and_over_a_restart(zulu):
    soc = zulu.host.producer(topic="oc2/cmd/device/fw-7")
    told = soc.ask(query("pairs"))
    assert told.response["results"]["pairs"]["deny"] == ["x-door:door"]
    reply = soc.ask(LOCK)
    assert (reply.status, reply.response["results"]) == (200, {"x-door": {"locked": ["front"]}})
    gate = {"action": "deny", "target": {"x-door:door": "gate"}, "args": {"duration": 1500}}
    assert soc.ask(gate).response["results"]["x-door"]["locked"] == ["front", "gate"]
    assert soc.ask({**LOCK, "target": {"x-door:door": "cellar"}}).status == 404
    zulu.kill()
    zulu.start(**zulu.site)
    state = Path(zulu.tables["state"]["directory"]) / "x-door.json"
    wait_until(lambda: list(json.loads(state.read_text())) == ["front"])
    unlock = {**LOCK, "action": "allow", "args": {"x-door": {"silent": True}}}
    assert soc.ask(unlock).response["results"] == {"x-door": {"locked": []}}
    update = {"action": "update", "target": {"file": {"name": "a"}}}
    assert soc.ask(update).status == 501
    guest = zulu.host.producer("guest@example.com", topic="oc2/cmd/device/fw-7")
    reply = guest.ask(update)
    assert (reply.status, reply.text) == (403, "only the SOC may update")


@pytest.mark.req("LANG-86")
def test_the_command_line_of_the_guide_locks_the_door(zulu):
    (line,) = [line for line in blocks("sh")[0].splitlines() if line.startswith("oc2ctl ")]
    program = "import sys; from oc2d.producer.cli import main; sys.exit(main())"
    command = [sys.executable, "-c", program, *line.split()[1:], "--json", "--no-tls"]
    command += ["--broker", f"127.0.0.1:{zulu.host.broker.port}"]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=60, env={**os.environ}
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert '"front"' in done.stdout
    checked = zulu.run("plugins", **zulu.site)
    assert "x-door" in checked.stdout
    zulu.tables["actuators.x-door"]["doors"] = "front"
    zulu.write_config()
    wrong = zulu.run("check", **zulu.site)
    assert wrong.returncode == 78
    assert "actuators.x-door.doors" in wrong.stdout + wrong.stderr
