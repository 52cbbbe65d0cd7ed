"""The conformance table claims only what a test shows."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parent.parent / "scripts/conformance"
REQUIREMENTS = """
claims = []
[requirements.MQTT-1]
level = "MUST"
who = "C"
text = "First."
[requirements.MQTT-2]
level = "TYPE"
who = "CP"
text = "Second."
[requirements.MQTT-3]
level = "MUST"
who = "P"
text = "Not the Consumer's."
[requirements.MQTT-4]
level = "MUST"
who = "C"
text = "Fourth."
reason = "cannot be seen"
"""


@pytest.fixture
def table(tmp_path):
    """A project of its own: give it the text of a test module, get the script's answer."""
    for folder in ("docs", "scripts", "tests"):
        (tmp_path / folder).mkdir()
    (tmp_path / "docs/requirements.toml").write_text(REQUIREMENTS)
    (tmp_path / "scripts/conformance").write_text(SCRIPT.read_text())

    def run(tests: str, *options: str) -> tuple[int, str]:
        (tmp_path / "tests/test_it.py").write_text(tests)
        done = subprocess.run(
            [sys.executable, tmp_path / "scripts/conformance", *options],
            capture_output=True,
            text=True,
            check=False,
        )
        return done.returncode, done.stdout + done.stderr

    return run


def test_marks_of_functions_classes_and_modules_count(table):
    code, said = table(
        "pytestmark = pytest.mark.req('MQTT-1')\n"
        "@pytest.mark.req('MQTT-2')\n"
        "class TestIt:\n"
        "    @pytest.mark.req('MQTT-3')\n"
        "    def test_that(self): ...\n",
        "--report",
    )
    assert (code, said) == (0, "4 requirements, 3 tested; 0 MUST, TYPE or SHOULD without a test\n")


def test_a_test_that_never_runs_or_may_fail_shows_nothing(table):
    code, said = table(
        "@pytest.mark.skip\n@pytest.mark.req('MQTT-1')\ndef test_one(): ...\n"
        "@pytest.mark.xfail(reason='x')\n@pytest.mark.req('MQTT-2')\ndef test_two(): ...\n"
        "@pytest.mark.req('MQTT-3')\ndef helper(): ...\n",
        "--report",
    )
    assert code == 0
    assert "0 tested; 3 MUST, TYPE or SHOULD without a test" in said


def test_strict_fails_only_for_binding_rows_without_a_reason(table):
    assert table("", "--report", "--strict")[0] == 1
    consumers = "@pytest.mark.req('MQTT-1', 'MQTT-2')\ndef test_both(): ...\n"
    assert table(consumers, "--report", "--strict")[0] == 1
    producers = "@pytest.mark.req('MQTT-3')\ndef test_producer(): ...\n"
    assert table(consumers + producers, "--report", "--strict")[0] == 0


def test_the_summary_counts_by_level(table, tmp_path):
    assert table("@pytest.mark.req('MQTT-1')\ndef test_one(): ...\n")[0] == 0
    written = (tmp_path / "docs/conformance.md").read_text()
    assert "| MUST | 3 | 1 | 1 | 1 |\n| TYPE | 1 | 0 | 0 | 1 |\n| SHOULD | 0 |" in written


@pytest.mark.parametrize(
    ("mark", "complaint"),
    [
        ("'MQTT-9'", "no requirement MQTT-9"),
        ("*IDS", "literal strings only"),
        ("'MQTT-4'", "drop its reason"),
    ],
)
def test_a_mark_that_cannot_be_right_is_a_mistake(table, mark, complaint):
    code, said = table(f"@pytest.mark.req({mark})\ndef test_it(): ...\n", "--report")
    assert code == 1
    assert complaint in said


def test_a_stale_document_fails_the_check_until_it_is_made_again(table):
    tests = "@pytest.mark.req('MQTT-1')\ndef test_one(): ...\n"
    assert table(tests, "--check")[0] == 1
    assert table(tests)[0] == 0
    assert table(tests, "--check")[0] == 0
    assert table(tests.replace("one", "two"), "--check")[0] == 1
