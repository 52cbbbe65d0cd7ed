"""`oc2d new-plugin`: what it makes is built, installed beside oc2d, tested and commanded."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from oc2d.cli import main
from oc2d.new_plugin import make_plugin
from oc2d.testing import Daemon


def run(*command, **options):
    done = subprocess.run(
        [str(part) for part in command],
        capture_output=True,
        text=True,
        check=False,
        timeout=110,
        **options,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The package, built into a wheel, and a virtual environment with it beside oc2d."""
    place = tmp_path_factory.mktemp("made")
    root = make_plugin("x-door", place)
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "--isolated")
    run(*pip, "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", place, root)
    environment = place / "venv"
    run(sys.executable, "-m", "venv", "--without-pip", environment)
    (site,) = environment.glob("lib/python3*/site-packages")
    ours = sysconfig.get_path("purelib")
    (site / "ours.pth").write_text(f"import site; site.addsitedir({ours!r})\n")
    (wheel,) = place.glob("*.whl")
    run(*pip, "install", "-q", "--no-deps", "--no-index", "--target", site, wheel)
    return root, environment / "bin/python"


@pytest.mark.req("LANG-86")
@pytest.mark.usefixtures("oc2d_broker")
def test_the_tests_of_a_new_plugin_pass_and_one_of_them_commands_it_over_a_broker(made):
    root, python = made
    told = run(python, "-m", "pytest", "-q", "-p", "no:cacheprovider", cwd=root)
    assert re.search(r"\d\d passed in", told)
    assert "skipped" not in told
    assert "x-door meets all" in told


def test_a_new_plugin_is_typed_and_linted(made):
    root, python = made
    run(python, "-m", "mypy", "--cache-dir", root.parent / "cache", cwd=root)
    ruff = (Path(sysconfig.get_path("scripts")) / "ruff", "--isolated")
    run(*ruff, "check", "--no-cache", "--line-length=100", "--select=E,F,W,I,UP,B,D2", cwd=root)
    run(*ruff, "format", "--no-cache", "--line-length=100", "--check", cwd=root)


def test_a_new_plugin_is_found_by_oc2d_and_its_table_is_checked(made, tmp_path):
    root, python = made
    config = tmp_path / "oc2d.toml"
    config.write_text((root / "oc2d.toml").read_text())
    assert "configuration OK" in run(python, "-m", "oc2d", "check", "--config", config)
    told = run(python, "-m", "oc2d", "plugins", "--config", config)
    assert "x-door: on\n  from oc2d-door 0.1.0 (door)" in told
    config.write_text(config.read_text().replace("items", "item"))
    done = subprocess.run(
        [python, "-m", "oc2d", "check", "--config", config],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 78
    assert "actuators.x-door.item: unknown key; did you mean items?" in done.stderr
    assert "actuators.x-door.items: is needed" in done.stderr


def test_the_line_of_its_readme_commands_it(made, oc2d_broker, tmp_path, monkeypatch):
    root, python = made
    monkeypatch.setattr(sys, "executable", str(python))
    daemon = Daemon(tmp_path / "daemon", oc2d_broker, {"x-door": {"items": ["front"]}}).start()
    try:
        (line,) = re.findall(r"^oc2ctl (.*)$", (root / "README.md").read_text(), re.MULTILINE)
        program = "import sys; from oc2d.producer.cli import main; sys.exit(main())"
        words = line.replace("DEVICE", "fw-7").split()
        broker = ("--no-tls", "--broker", f"127.0.0.1:{oc2d_broker.port}", "--json")
        assert '"front"' in run(python, "-c", program, *words, *broker)
        assert daemon.status()["actuators"]["x-door"]["locked"] == ["front"]
        assert daemon.stop() == 0
    finally:
        daemon.kill()


@pytest.mark.parametrize(
    ("nsid", "package", "kind"),
    [
        ("av", "oc2d_av", "Av"),
        ("x-front-door", "oc2d_front_door", "FrontDoor"),
        ("x-7up_a", "oc2d_7up_a", "Profile7upA"),
        ("x-ACME", "oc2d_acme", "Acme"),
        ("x-test", "oc2d_test", "ProfileTest"),
        ("x-door-_", "oc2d_door", "Door"),
        ("x-command", "oc2d_command", "CommandProfile"),
        ("x-none", "oc2d_none", "NoneProfile"),
    ],
)
def test_every_legal_name_makes_names_that_python_takes(nsid, package, kind, tmp_path):
    root = make_plugin(nsid, tmp_path)
    text = (root / package / "__init__.py").read_text()
    names: dict[str, type] = {}
    exec(compile(text, package, "exec"), names)  # noqa: S102 - it is what we made
    assert names[kind].profile == nsid
    assert not kind.startswith("Test")  # pytest would take it for tests
    assert root.name[-1].isalnum()  # else it is no name of a package
    left = [path for path in root.rglob("*") if path.is_file() and "emplate" in path.read_text()]
    assert left == []


def test_lasting_commands_leave_one_key_however_many_there_are(tmp_path, oc2d_host):
    names: dict[str, type] = {}
    exec((make_plugin("x-door", tmp_path) / "oc2d_door/__init__.py").read_text(), names)  # noqa: S102 - it is what we made
    host = oc2d_host(names["Door"], {"items": ["front"]})
    lock = {"action": "deny", "target": {"x-door:item": "front"}}
    minute = {**lock, "args": {"duration": 60_000}}
    for command in (minute, lock, lock, minute, lock):
        assert host.command(command).status == 200
    (file,) = tmp_path.rglob("x-door.json")
    assert len(json.loads(file.read_text())["front"]) == 2
    host.advance(61)
    host.settle()
    assert json.loads(file.read_text()) == {"front": ["lasting"]}


def test_mistakes_are_told_and_nothing_is_overwritten(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["new-plugin", "door"]) == 2
    assert "a private one starts with x-" in capsys.readouterr().err
    assert main(["new-plugin", "x-slpf"]) == 2
    assert "oc2d-slpf is a package of oc2d itself" in capsys.readouterr().err
    assert main(["new-plugin", "x-door"]) == 0
    assert capsys.readouterr().out.startswith("oc2d-door: start with its README.md")
    (tmp_path / "oc2d-door/README.md").write_text("mine")
    assert main(["new-plugin", "x-door"]) == 1
    assert "oc2d-door is there already" in capsys.readouterr().err
    assert main(["new-plugin", "x-Door"]) == 1
    assert "do not tell x-Door from x-door" in capsys.readouterr().err
    assert (tmp_path / "oc2d-door/README.md").read_text() == "mine"
    (tmp_path / "file").touch()
    assert main(["new-plugin", "x-door", "--directory", "file"]) == 1
    assert "cannot write" in capsys.readouterr().err
