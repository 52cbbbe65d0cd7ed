"""All checks of one subject, and what came of them by requirement."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from oc2d.testing.kit.check import CHECKS, Check, Rule
from oc2d.testing.kit.subject import Subject

__all__ = ["Finding", "Report", "checks", "examine", "left_out"]


@dataclass(frozen=True)
class Finding:
    """What came of a rule: `state` is ok, FAIL, or n/a with the reason in `message`."""

    rule: Rule
    state: str
    message: str = ""


@dataclass(frozen=True)
class Report:
    """The findings about one profile."""

    profile: str
    findings: tuple[Finding, ...]

    @property
    def conforms(self) -> bool:
        """Whether nothing failed."""
        return all(finding.state != "FAIL" for finding in self.findings)

    def render(self) -> str:
        """Write it for people: a line for each requirement and rule, then what failed."""
        lines = [f"{self.profile}: conformance of the actuator"]
        rows = sorted(
            (
                (*requirement.partition("-")[::2], finding)
                for finding in self.findings
                for requirement in finding.rule.requirements
            ),
            key=lambda row: (row[0], int(row[1])),
        )
        lines += [
            f"  {finding.state:<4} {f'{family}-{number}':<8} {finding.rule.title}"
            + (f" ({finding.message})" if finding.state == "n/a" else "")
            for family, number, finding in rows
        ]
        for finding in self.findings:
            if finding.state == "FAIL":
                lines += [f"{finding.rule.name}:", *_indented(finding.message)]
        return "\n".join(lines)


def _indented(text: str) -> Iterable[str]:
    return (f"  {line}" for line in text.splitlines())


def checks(subject: Subject) -> list[Check]:
    """Return the checks that apply to a subject, for `pytest.mark.parametrize`."""
    return [Check(rule, subject) for rule in CHECKS if not rule.needs(subject)]


def left_out(subject: Subject) -> list[str]:
    """Tell in words which checks do not apply, and why: a misspelt `revert` must not pass."""
    reasons = Counter(filter(None, (rule.needs(subject) for rule in CHECKS)))
    return [
        f"{reason}, {number} {'checks' if number > 1 else 'check'} left out"
        for reason, number in reasons.items()
    ]


def examine(subject: Subject, directory: Path) -> Report:
    """Run all checks in a directory that is empty, and tell what came of them."""
    findings = []
    for one in CHECKS:
        if reason := one.needs(subject):
            findings.append(Finding(one, "n/a", reason))
            continue
        try:
            Check(one, subject).run(directory / one.name)
        except AssertionError as error:
            findings.append(Finding(one, "FAIL", str(error)))
        else:
            findings.append(Finding(one, "ok"))
    return Report(subject.nsid, tuple(findings))
