"""The conformance kit passes what is right and finds what is wrong, by requirement."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path

import pytest

from oc2d.actuator import API_VERSION, Actuator
from oc2d.language.codec import Encoding, InputLimits, decode
from oc2d.testing import Sample, Subject, checks, examine
from oc2d.testing.__main__ import main
from oc2d.testing.kit import CHECKS
from oc2d.testing.kit.report import left_out
from oc2d.testing.kit.values import HOSTILE, mutations
from tests.unit.testing.doors import (
    FAULTY,
    Door,
    NeverReverts,
    RestoresWhatEnded,
    TakesUnknownArguments,
    UsesItsThread,
    subject,
)

ROOT = Path(__file__).parents[3]


def only(kind, name, directory):
    """Run one rule."""
    (one,) = (check for check in checks(subject(kind)) if check.rule.name == name)
    one.run(directory)


@pytest.mark.parametrize("check", checks(subject(UsesItsThread)), ids=str)
def test_a_good_door_conforms(check, tmp_path):
    check.run(tmp_path)


@pytest.mark.parametrize(
    ("kind", "rule"), FAULTY.items(), ids=lambda one: getattr(one, "__name__", "")
)
def test_a_faulty_door_is_found_out(kind, rule, tmp_path):
    with pytest.raises(AssertionError) as caught:
        only(kind, rule, tmp_path)
    assert str(caught.value)


def test_an_unknown_member_that_an_inner_type_lets_through_is_found(tmp_path):
    inside = {"hinges": [{"colour": "red"}], "labels": {"any": "thing"}}
    gate = Sample({"action": "scan", "target": {"x-door:gate": inside}})
    loose = dataclasses.replace(subject(TakesUnknownArguments), samples=[gate])
    (one,) = (c for c in checks(loose) if c.rule.name == "unknown_members_are_refused")
    with pytest.raises(AssertionError, match="'colour': 'red', 'oc2d_unknown': 1"):
        one.run(tmp_path)


def test_the_report_goes_by_requirement_and_says_what_does_not_apply(tmp_path):
    class Hasty(NeverReverts):
        idempotent = False

    report = examine(subject(Hasty), tmp_path)
    assert not report.conforms
    text = report.render()
    assert re.search(r"FAIL LANG-23 .*end of a window", text)
    assert re.search(r"ok   LANG-28 ", text)
    assert re.search(r"n/a  ACT-6 .*\(it does not claim to be idempotent\)", text)
    assert "the_end_of_a_window_undoes_the_command:\n" in text
    numbers = [int(number) for number in re.findall(r"ACT-(\d+)", text)]
    assert numbers == sorted(numbers)


def test_an_actuator_that_cannot_even_start_fails_with_its_own_words(tmp_path):
    class Broken(Door):
        def start(self, context):  # noqa: ARG002 - as it is called
            raise RuntimeError("no such door")

    report = examine(subject(Broken), tmp_path)
    assert "no such door" in report.render()


def test_each_rule_has_requirements_and_the_page_names_all_of_them():
    page = (ROOT / "docs/conformance-kit.md").read_text().partition("## The checks")[2]
    page = page.partition("## Fixtures")[0]
    listed = set(re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE))
    assert listed == {rule.name for rule in CHECKS}
    assert set(re.findall(r"^\| (ACT-\d+) \|", page, re.MULTILINE)) == {
        number for rule in CHECKS for number in rule.requirements if number.startswith("ACT")
    }
    known = (ROOT / "docs/requirements.toml").read_text()
    for rule in CHECKS:
        for number in rule.requirements:
            assert number.startswith("ACT-") or f"[requirements.{number}]" in known


@pytest.mark.parametrize("value", HOSTILE, ids=lambda value: repr(value)[:30])
def test_hostile_values_are_json_that_reaches_a_plugin(value):
    payload = json.dumps({"a": value}).encode()
    assert decode(payload, Encoding.JSON, InputLimits()) == {"a": value}


def test_every_place_of_a_tree_is_tried():
    found = list(mutations({"a": [1, {"b": 2}]}, ["?"]))
    assert found == [
        "?",
        {"a": "?"},
        {"a": ["?", {"b": 2}]},
        {"a": [1, "?"]},
        {"a": [1, {"b": "?"}]},
    ]


def test_a_subject_whose_configuration_is_made_in_a_directory_gets_one():
    made = []

    def table(directory):
        made.append(directory)
        return {"doors": ["front"]}

    one = Subject(Door, config=table, samples=[Sample({})])
    assert ("deny", "x-door:door") in one.pairs
    assert len(made) == 1


def test_what_is_left_out_is_said_with_the_reason(tmp_path):
    class Misspelt(Door):
        revert = Actuator.revert

    (no_revert,) = [note for note in left_out(subject(Misspelt)) if "revert" in note]
    assert re.fullmatch(r"no `revert`: no windows, \d checks left out", no_revert)
    assert left_out(subject(UsesItsThread)) == []
    assert "no `revert`: no windows" in examine(subject(Misspelt), tmp_path).render()


def test_a_class_that_would_not_be_loaded_is_found(tmp_path):
    class Later(Door):
        api = (API_VERSION[0] + 1, 0)

    with pytest.raises(AssertionError, match=r"needs 2\.0 of the interface, this oc2d offers 1\.0"):
        only(Later, "it_starts_stops_and_hears_of_the_link", tmp_path)


def test_a_window_that_ended_during_a_restart_is_told_so(tmp_path):
    class Forgets(RestoresWhatEnded):
        def revert(self, command):
            """Undo nothing."""

    with pytest.raises(AssertionError, match="the window ended while the daemon was away"):
        only(Forgets, "a_window_that_ended_meanwhile_does_not_come_back", tmp_path)


@pytest.mark.parametrize(
    ("subject", "says"),
    [
        (
            "test_vent:SUBJECT",
            "no module 'test_vent' from here; dotted, as tests.test_door:SUBJECT",
        ),
        ("subjects_of_kit:Subj", "subjects_of_kit:Subj is no Subject; Subjects: SUBJECT"),
        ("oc2d:SUBJECT", "oc2d:SUBJECT is no Subject; it has no Subject at all"),
    ],
)
def test_a_subject_that_is_not_there_is_told_in_one_line(
    subject, says, tmp_path, capsys, monkeypatch
):
    (tmp_path / "subjects_of_kit.py").write_text(
        "from tests.unit.testing.doors import Door, subject\nSUBJECT = subject(Door)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(SystemExit) as caught:
        main(["--log", subject])
    assert caught.value.code == 2
    assert capsys.readouterr().err.splitlines()[-1].endswith(says)
