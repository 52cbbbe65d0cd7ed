"""The conformance kit: what any actuator profile must do, checked from outside."""

from oc2d.testing.kit import commands, crowds, windows  # noqa: F401 - they fill CHECKS
from oc2d.testing.kit.check import CHECKS, Check, Rule
from oc2d.testing.kit.report import Finding, Report, checks, examine
from oc2d.testing.kit.subject import Sample, Subject
from oc2d.testing.kit.trial import Nonconformance

__all__ = [
    "CHECKS",
    "Check",
    "Finding",
    "Nonconformance",
    "Report",
    "Rule",
    "Sample",
    "Subject",
    "checks",
    "examine",
]
