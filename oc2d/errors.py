"""The one exception tree of oc2d: every error knows its exit code or its OpenC2 status.

`Refusal` and its subclasses carry the status and the phrase that go to the Producer (REQUIREMENTS
2.6); the others end a command line with their exit code (DESIGN 2). Nothing here imports anything
of ours, so that every room may use it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

__all__ = [
    "BadRequest",
    "ConfigError",
    "Failed",
    "Forbidden",
    "NoMatch",
    "NotSupported",
    "Oc2dError",
    "PluginError",
    "Problem",
    "Refusal",
    "StateError",
    "Unauthorized",
    "Unavailable",
    "UsageError",
]


class Oc2dError(Exception):
    """Anything oc2d reports on purpose; the message is for people and needs no traceback."""

    exit_code: ClassVar[int] = 1


class UsageError(Oc2dError):
    """The command line was wrong."""

    exit_code = 2


class StateError(Oc2dError):
    """The state directory cannot be used: missing, not ours, locked by another daemon, damaged."""


class PluginError(Oc2dError):
    """A plugin could not be loaded or broke the contract of `oc2d.actuator`."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One mistake in the configuration: its TOML path (`broker.keep_alive`) and what to do."""

    path: str
    message: str

    def __str__(self) -> str:
        return f"{self.path}: {self.message}" if self.path else self.message


class ConfigError(Oc2dError):
    """The configuration cannot be used; `problems` names every mistake, not just the first."""

    exit_code = 78

    def __init__(self, problems: tuple[Problem, ...]) -> None:
        super().__init__("\n".join(str(problem) for problem in problems))
        self.problems = problems


class Refusal(Oc2dError):  # noqa: N818 - an answer, not a fault
    """Why a command is not carried out; `status` and `text` are what the Producer reads.

    `path` is the place in the message (`$.body.openc2.request.target`) and becomes part of the
    text. The text never holds internals: no file names of ours, no tracebacks (LANG-44).
    """

    status: ClassVar[int] = 500

    def __init__(self, text: str, *, path: str | None = None) -> None:
        super().__init__(f"{text} (at {path})" if path else text)
        self.path = path

    @property
    def text(self) -> str:
        """The `status_text` of the response."""
        return str(self)


class BadRequest(Refusal):
    """400: the Producer's message is malformed."""

    status = 400


class Unauthorized(Refusal):
    """401: who asks is not known."""

    status = 401


class Forbidden(Refusal):
    """403: understood, and not permitted."""

    status = 403


class NoMatch(Refusal):
    """404: the addressed actuator is not here (AMB-23), or what the target names is not."""

    status = 404


class Failed(Refusal):
    """500: it should have worked and did not."""

    status = 500


class NotSupported(Refusal):
    """501: legal OpenC2 that nothing here carries out."""

    status = 501


class Unavailable(Refusal):
    """503: not now; the same request may be sent again (never stored as its outcome)."""

    status = 503
