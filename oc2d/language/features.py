"""`query features`: what a Consumer tells about itself, with no plugin at all (LANG-46 to 61)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

from oc2d.errors import BadRequest
from oc2d.language.command import OpenC2Command
from oc2d.language.response import OpenC2Response, Results
from oc2d.language.values import Features
from oc2d.language.vocabulary import Action, Feature, ResponseType, StatusCode

__all__ = ["Capabilities", "answer_features", "is_query_features"]

_FEATURES = (Feature.VERSIONS, Feature.PROFILES, Feature.PAIRS, Feature.RATE_LIMIT)
#: `none` is answered here and silenced by who sends (AMB-20).
_TOLERATED = (None, ResponseType.COMPLETE, ResponseType.NONE)


@dataclass(frozen=True, slots=True, eq=False)
class Capabilities:
    """What this Consumer can do; `rate_limit` is in commands per minute (LANG-51).

    `pairs` is the flat union over all profiles (AMB-61) and holds `query: (features, ...)`.
    """

    versions: tuple[str, ...]
    profiles: tuple[str, ...]
    pairs: Mapping[Action, tuple[str, ...]]
    rate_limit: int | None = None


def is_query_features(command: OpenC2Command) -> bool:
    """Tell whether the Consumer itself answers this command."""
    return command.action is Action.QUERY and command.target.name == "features"


def answer_features(command: OpenC2Command, capabilities: Capabilities) -> OpenC2Response:
    """Answer with what was asked for, no more (LANG-61).

    Raises `BadRequest` for every argument but `response_requested` complete or none (LANG-54,
    AMB-20).
    """
    args = command.args
    if args and not (args.only_response and args.response_requested in _TOLERATED):
        raise BadRequest(
            "query features takes no argument but response_requested complete",
            path="$.body.openc2.request.args",
        )
    asked: Features = command.target.value
    return _answer(capabilities, tuple(feature in asked for feature in _FEATURES))


@lru_cache(maxsize=32)  # there are 16, of this configuration
def _answer(capabilities: Capabilities, asked: tuple[bool, ...]) -> OpenC2Response:
    if not any(asked):
        return OpenC2Response(StatusCode.OK)
    versions, profiles, pairs, rate_limit = asked
    results = Results(
        versions=capabilities.versions if versions else None,
        profiles=capabilities.profiles if profiles else None,
        pairs=capabilities.pairs if pairs else None,
        rate_limit=capabilities.rate_limit if rate_limit else None,
    )
    return OpenC2Response(StatusCode.OK, results=results)
