"""The wheels, installed with pip into an empty environment."""

from __future__ import annotations

import subprocess
from email.parser import Parser
from zipfile import ZipFile

import pytest

pytestmark = [pytest.mark.root, pytest.mark.timeout(600)]  # the fixture may have to install tools
NAMES = ("oc2d", "oc2d_audit", "oc2d_log", "oc2d_policy", "oc2d_slpf")


@pytest.fixture(scope="module")
def environment(wheels, tmp_path_factory):
    """The programs of a fresh virtual environment with our wheels in it."""
    place = tmp_path_factory.mktemp("venv")
    subprocess.run(["/usr/bin/python3", "-m", "venv", place], check=True)
    subprocess.run(
        [
            *(place / "bin/pip", "--isolated", "install", "-q", "--no-index", "--no-compile"),
            *("--disable-pip-version-check", "--find-links", wheels / "wheels"),
            *("--find-links", wheels, *(name.replace("_", "-") for name in NAMES)),
        ],
        check=True,
    )
    return place / "bin"


def run(*command):
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


@pytest.mark.parametrize("name", NAMES)
def test_a_wheel_says_what_it_is(wheels, name):
    (path,) = wheels.glob(f"{name}-*.whl")
    with ZipFile(path) as wheel:
        files = set(wheel.namelist())
        (metadata,) = [file for file in files if file.endswith(".dist-info/METADATA")]
        told = Parser().parsestr(wheel.read(metadata).decode())
    assert f"{name}/py.typed" in files
    assert metadata.replace("METADATA", "licenses/LICENSE") in files
    assert told["Name"] == name.replace("_", "-")
    assert told["License-Expression"] == "Apache-2.0"
    assert told["Requires-Python"] == ">=3.10"
    assert told["Summary"]
    assert told["Description-Content-Type"] == "text/markdown"
    assert "Typing :: Typed" in told.get_all("Classifier")
    assert not [file for file in files if not file.startswith((f"{name}/", f"{name}-"))]


def test_installed_wheels_bring_the_programs_and_the_plugins(environment, tmp_path):
    config = tmp_path / "oc2d.toml"
    config.write_text(
        'device_id = "fw-7"\n[broker]\nhost = "mqtt.example.com"\n'
        "[actuators.slpf]\n[actuators.x-log]\n"
    )
    checked = run(environment / "oc2d", "check", "--config", config)
    assert (checked.returncode, checked.stdout) == (0, "configuration OK\n"), checked.stderr
    version = run(environment / "oc2d", "--version").stdout
    assert version.startswith("oc2d 0.")
    assert run(environment / "oc2ctl", "--version").stdout == version.replace("oc2d", "oc2ctl")


def test_without_plugins_the_producer_works_and_the_daemon_says_what_to_install(
    environment, tmp_path
):
    pip = (environment / "python", "-m", "pip", "--isolated")
    assert run(*pip, "uninstall", "-q", "-y", "oc2d-slpf").returncode == 0
    config = tmp_path / "oc2d.toml"
    config.write_text('device_id = "fw-7"\n[broker]\nhost = "m.example"\n[actuators.slpf]\n')
    checked = run(environment / "oc2d", "check", "--config", config)
    assert checked.returncode == 78
    assert "install oc2d-slpf" in checked.stderr
    assert run(environment / "oc2ctl", "--help").returncode == 0
