"""The examples of the guides for plugin authors, as they stand there, tried."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from oc2d.new_plugin import make_plugin
from tests.consumer import query

DOCS = Path(__file__).parents[2] / "docs"
LOCK = {"action": "deny", "target": {"x-door:item": "front"}}


def blocks(language, page="plugins.md"):
    return re.findall(rf"```{language}\n(.*?)```", (DOCS / page).read_text(), re.DOTALL)


@pytest.fixture
def root(tmp_path):
    """The package that the guide begins with."""
    return make_plugin("x-door", tmp_path)


def test_the_guide_shows_what_new_plugin_makes(root):
    assert blocks("python")[0] == (root / "oc2d_door/__init__.py").read_text()
    assert blocks("toml")[0] in (root / "pyproject.toml").read_text()
    (line,) = [line for line in blocks("sh")[0].splitlines() if "pip install" in line]
    assert line in (root / "README.md").read_text()


@pytest.fixture
def zulu(make_broker_host, root):
    """A Consumer with the door of the guide, and the hook."""
    (hook,) = [block for block in blocks("python") if "oc2d_authorise" in block]
    (root / "door_policy.py").write_text(hook)
    info = root / "oc2d_door-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: oc2d-door\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[oc2d]\ndoor = oc2d_door:Door\npolicy = door_policy\n")
    items = {"items": ["front", "back"]}
    host = make_broker_host(isolated=False)
    made = host.consumer("try-1", **{"actuators_x-door": items})
    path = os.pathsep.join([str(root), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
    made.site = {"PYTHONPATH": path}
    return made.start(**made.site)


@pytest.mark.req("LANG-86")
def test_the_door_of_the_guide_is_locked_and_unlocked_and_only_the_soc_may_update(zulu):
    soc = zulu.host.producer(topic="oc2/cmd/device/try-1")
    told = soc.ask(query("pairs"))
    assert told.response["results"]["pairs"]["deny"] == ["x-door:item"]
    reply = soc.ask(LOCK)
    assert (reply.status, reply.response["results"]) == (200, {"x-door": {"locked": ["front"]}})
    assert soc.ask({**LOCK, "target": {"x-door:item": "cellar"}}).status == 404
    unlock = {**LOCK, "action": "allow", "args": {"x-door": {"reason": "over"}}}
    assert soc.ask(unlock).response["results"] == {"x-door": {"locked": []}}
    update = {"action": "update", "target": {"file": {"name": "a"}}}
    assert soc.ask(update).status == 501
    guest = zulu.host.producer("guest@example.com", topic="oc2/cmd/device/try-1")
    reply = guest.ask(update)
    assert (reply.status, reply.text) == (403, "only the SOC may update")


@pytest.mark.req("LANG-86")
def test_the_command_line_of_the_guide_locks_the_door(zulu):
    lines = [line for block in blocks("sh") for line in block.splitlines()]
    (line,) = [line for line in lines if "oc2ctl command" in line]
    program = "import sys; from oc2d.producer.cli import main; sys.exit(main())"
    words = line.replace("--broker 127.0.0.1", f"--broker 127.0.0.1:{zulu.host.broker.port}")
    command = [sys.executable, "-c", program, *words.split()[1:], "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    assert '"front"' in done.stdout
    assert zulu.told()["actuators"]["x-door"]["locked"] == ["front"]


def test_the_examples_of_the_kit_pass(root):
    kit, failing, fixture = blocks("python", "conformance-kit.md")
    (root / "tests/test_door.py").write_text(f"{kit}\n\n{failing}\n\n{fixture}")
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-p",
            "no:cacheprovider",
            "-k",
            "minute or pairs or move",
        ],
        cwd=root,
        env={**os.environ, "PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )
    assert done.returncode == 0, done.stdout + done.stderr
