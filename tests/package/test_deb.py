"""What is inside the Debian package, and what lintian says of it."""

from __future__ import annotations

import re
import shutil
import subprocess

import pytest

from tests.package.conftest import ROOT

pytestmark = [pytest.mark.root, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def contents(deb):
    listed = subprocess.run(["dpkg-deb", "-c", deb], capture_output=True, text=True, check=True)
    lines = [line.split(maxsplit=5) for line in listed.stdout.splitlines()]
    return {line[5].removeprefix("."): line[0] for line in lines}


def test_lintian_has_nothing_to_say_about_the_package(deb):
    """Each override has its reason in packaging/debian/oc2d.lintian-overrides."""
    if shutil.which("lintian") is None:
        pytest.skip("needs lintian")
    done = subprocess.run(
        ["lintian", "--fail-on", "error,warning", "--allow-root", deb],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, ""), done.stdout + done.stderr


def test_the_version_of_the_package_is_that_of_the_project(deb):
    project = re.search(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert deb.name.split("_")[1] == project[1]


def test_no_path_of_the_build_is_in_the_package(deb, tmp_path):
    subprocess.run(["dpkg-deb", "-x", deb, tmp_path], check=True)
    done = subprocess.run(["grep", "-rl", str(ROOT), tmp_path], capture_output=True, check=False)
    assert (done.returncode, done.stdout) == (1, b"")


def test_secrets_and_code_are_kept_from_the_daemon(contents):
    assert contents["/etc/oc2d/credentials/"] == "drwx------"
    for name, mode in contents.items():
        assert mode[0] == "l" or mode[5] != "w", name
        assert mode[0] == "l" or mode[8] != "w", name


def test_only_what_the_daemon_needs_is_inside(contents):
    inside = {
        match[1] for name in contents if (match := re.match(r".*/site-packages/([^/]+)/$", name))
    }
    assert {re.sub(r"-.*|\.libs$", "", name) for name in inside} == {
        *(
            "oc2d",
            "oc2d_audit",
            "oc2d_log",
            "oc2d_pf",
            "oc2d_policy",
            "oc2d_slpf",
            "cbor2",
            "dns",
            "dnspython",
            "msgspec",
            "paho",
            "paho_mqtt",
        ),
        *("pluggy", "structlog"),
    }
    programs = {name for name in contents if re.match(r"/usr/(lib/oc2d/)?bin/.", name)}
    assert {name.split(" -> ")[0].rpartition("/")[2] for name in programs} == {
        *("oc2d", "oc2ctl", "python3"),
    }


def test_pins_are_names_versions_and_hashes_and_cover_what_the_project_needs():
    for name in ("requirements.txt", "build-requirements.txt"):
        lines = (ROOT / "packaging" / name).read_text().splitlines()
        pin = re.compile(r"#.*|[\w-]+==[\w.]+ \\|    --hash=sha256:[0-9a-f]{64}( \\)?")
        assert [line for line in lines if not pin.fullmatch(line)] == []
