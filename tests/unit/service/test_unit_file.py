from __future__ import annotations

import re
import shutil
import subprocess

import pytest

pytestmark = pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="needs systemd-analyze")


@pytest.fixture
def unit(root, tmp_path):
    """The unit with a binary that exists: verify looks for it."""
    path = tmp_path / "oc2d.service"
    text = (root / "packaging/oc2d.service").read_text()
    path.write_text(text.replace("ExecStart=/usr/bin/oc2d", "ExecStart=/bin/true"))
    return path


def run(*command):
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_systemd_has_nothing_to_say_about_the_unit(unit):
    done = run("systemd-analyze", "verify", "--man=no", unit)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_a_misspelt_key_would_be_noticed(unit):
    unit.write_text(unit.read_text().replace("UMask", "UMsak"))
    assert "UMsak" in run("systemd-analyze", "verify", "--man=no", unit).stderr


def test_the_exposure_is_at_most_1_5(unit):
    done = run("systemd-analyze", "security", "--offline=true", unit)
    found = re.search(r"exposure level for oc2d.service: ([\d.]+)", done.stdout)
    assert float(found[1]) <= 1.5


@pytest.mark.parametrize("name", ["broker-only-network", "plugin", "virtualenv", "early-network"])
def test_systemd_has_nothing_to_say_about_a_drop_in(unit, root, name):
    (path,) = (root / "packaging").rglob(f"{name}.conf")
    text = path.read_text()
    place = unit.with_name("oc2d.service.d") / "drop.conf"
    place.parent.mkdir()
    place.write_text(text.replace("ExecStart=/opt/oc2d/bin/oc2d", "ExecStart=/bin/true"))
    done = run("systemd-analyze", "verify", "--man=no", unit)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_the_unit_runs_oc2d_as_documented(root):
    text = (root / "packaging/oc2d.service").read_text()
    assert "\nExecStart=/usr/bin/oc2d --config /etc/oc2d/oc2d.toml\n" in text
    for line in (
        "Type=notify",
        "User=oc2d",
        "Before=network-pre.target",
        "RuntimeDirectoryPreserve=yes",
        "RestartPreventExitStatus=78",
        "CapabilityBoundingSet=CAP_NET_ADMIN",
    ):
        assert f"\n{line}\n" in text


def test_a_start_needs_no_path_that_some_host_lacks(root):
    """One that is not there, as without the package or on arm64, ends it with 226/NAMESPACE."""
    text = (root / "packaging/oc2d.service").read_text()
    (line,) = re.findall(r"^ExecPaths=(.*)$", text, re.MULTILINE)
    needed = [path for path in line.split() if not path.startswith("-")]
    assert needed == ["/bin/sh", "/usr/lib", "/lib"]


@pytest.mark.skipif(not shutil.which("systemd-sysusers"), reason="needs systemd-sysusers")
def test_the_user_is_made_by_sysusers(root, tmp_path):
    (tmp_path / "etc").mkdir()
    done = run(
        "systemd-sysusers", f"--root={tmp_path}", "--dry-run", root / "packaging/oc2d.sysusers"
    )
    assert done.returncode == 0, done.stderr
    assert "oc2d" in done.stdout + done.stderr
