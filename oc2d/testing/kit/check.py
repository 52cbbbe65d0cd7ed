"""What a check is, and the list of all of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from oc2d.testing.kit.subject import Subject
from oc2d.testing.kit.trial import Nonconformance, Trial

__all__ = ["CHECKS", "Check", "Rule", "rule"]


@dataclass(frozen=True)
class Rule:
    """A rule for actuators: the requirements behind it and a function that puts it on trial.

    `needs` says what must be there for it to apply: nothing, or why it does not.
    """

    name: str
    title: str
    requirements: tuple[str, ...]
    run: Callable[[Trial], None]
    needs: Callable[[Subject], str]


@dataclass(frozen=True)
class Check:
    """A rule for one subject; `run` raises `Nonconformance`, an AssertionError."""

    rule: Rule
    subject: Subject

    def run(self, directory: Path) -> None:
        """Put the actuator on trial, in a directory that is empty or not there."""
        trial = Trial(self.subject, directory)
        try:
            with trial:
                self.rule.run(trial)
        except AssertionError:
            raise
        except Exception as error:
            text = f"{type(error).__name__}: {error}{trial.faults()}"
            raise Nonconformance(text) from error

    def __str__(self) -> str:
        return self.rule.name


CHECKS: list[Rule] = []


def rule(
    *requirements: str, needs: Callable[[Subject], str] = lambda _: ""
) -> Callable[[Callable[[Trial], None]], Callable[[Trial], None]]:
    """Add a function to the list; its name and docstring name the rule."""

    def add(function: Callable[[Trial], None]) -> Callable[[Trial], None]:
        title = (function.__doc__ or "").split("\n")[0].rstrip(".")
        CHECKS.append(Rule(function.__name__, title, requirements, function, needs))
        return function

    return add
