"""What the Producer is told: outcomes, failures and refusals in the words of REQUIREMENTS 3.8."""

from __future__ import annotations

from collections.abc import Sequence

import structlog

from oc2d.actuator import Command, Reason, Response
from oc2d.errors import Failed, Refusal
from oc2d.language.vocabulary import Action, StatusCode
from oc2d_slpf import language
from oc2d_slpf.backend import BackendError
from oc2d_slpf.language import NOT_REMOVED, NOT_UPDATED, Results
from oc2d_slpf.storing import Outcome

__all__ = ["failed", "only", "refusal", "response"]

_log = structlog.get_logger("oc2d.slpf")


def response(outcome: Outcome) -> Response:
    """Turn a success into what the engine wants."""
    results = None if outcome.number is None else Results(outcome.number)
    return Response(StatusCode.OK, outcome.text, results)


def only(answers: Sequence[Response | Refusal]) -> Response:
    """Return the one answer of a batch of one; a refusal is raised."""
    (answer,) = answers
    if isinstance(answer, Refusal):
        raise answer
    return answer


def failed(command: Command, error: Exception) -> Failed:
    """Answer without internals (LANG-44); the log has them."""
    what = "the rule could not be stored"
    if isinstance(error, BackendError):
        what = "the packet filter refused the change"
    _log.error("slpf_failed", key=command.key, error=str(error))
    phrase = NOT_REMOVED if command.action is Action.DELETE else NOT_UPDATED
    return Failed(f"{phrase}: {what}")


def refusal(reason: Reason, action: Action) -> str:
    """Word the engine's own refusals."""
    if reason is Reason.OPTION:
        return language.OPTION
    if reason is Reason.WINDOW_OVER:
        return f"{NOT_UPDATED}: time window is over"
    if action in (Action.ALLOW, Action.DENY):
        return language.TARGET_TYPE
    return language.TARGET if action is Action.DELETE else language.COMMAND
