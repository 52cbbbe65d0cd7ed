"""Responses: sent strictly by the Consumer, read leniently by the Producer (LANG-38 to 42)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import msgspec

from oc2d.errors import BadRequest
from oc2d.language.codec import Encoding, Tree
from oc2d.language.reading import shown
from oc2d.language.typed import extension_tree
from oc2d.language.vocabulary import Action, StatusCode

__all__ = ["OpenC2Response", "ReadResponse", "Results", "parse_response", "response_tree"]


class Results(msgspec.Struct, frozen=True):
    """What there is to report; None is left out.

    `profiles` may be empty: a Consumer without plugins says so (LANG-49). `extensions` are the
    profiles' own results by NSID, typed structures or trees (LANG-40, LANG-87).
    """

    versions: tuple[str, ...] | None = None
    profiles: tuple[str, ...] | None = None
    pairs: Mapping[Action, tuple[str, ...]] | None = None
    rate_limit: float | None = None
    extensions: Mapping[str, object] = msgspec.field(default_factory=lambda: MappingProxyType({}))


class OpenC2Response(msgspec.Struct, frozen=True):
    """One reply to a command."""

    status: StatusCode
    status_text: str | None = None
    results: Results | None = None


@dataclass(frozen=True, slots=True)
class ReadResponse:
    """A response as some Consumer sent it; `warnings` say where it departs from the language."""

    status: int
    status_text: str | None = None
    results: Tree = None
    warnings: tuple[str, ...] = ()


def response_tree(response: OpenC2Response, encoding: Encoding) -> Tree:
    """Write a response: no null, no empty results, the status a plain integer (LANG-38 to 40)."""
    tree: dict[str, Tree] = {"status": int(response.status)}
    if response.status_text is not None:
        tree["status_text"] = response.status_text
    if response.results is not None and (results := _results_tree(response.results, encoding)):
        tree["results"] = results
    return tree


def _results_tree(results: Results, encoding: Encoding) -> dict[str, Tree]:
    tree: dict[str, Tree] = {}
    if results.versions:
        tree["versions"] = list(results.versions)
    if results.profiles is not None:
        tree["profiles"] = list(results.profiles)
    if results.pairs:
        tree["pairs"] = {
            action.value: list(targets) for action, targets in results.pairs.items() if targets
        }
    if results.rate_limit is not None:
        tree["rate_limit"] = results.rate_limit
    for nsid, own in results.extensions.items():
        own_tree = extension_tree(own, encoding)
        if not isinstance(own_tree, (dict, type(None))):
            raise TypeError(f"the results of {nsid} are {type(own).__name__}, not an object")
        if own_tree:
            tree[nsid] = own_tree
    return tree


def parse_response(tree: Tree) -> ReadResponse:
    """Read a response of any Consumer (LANG-42); raises `BadRequest` when it has no status."""
    path = "$.body.openc2.response"
    if not isinstance(tree, dict):
        raise BadRequest(f"a response is an object, not {shown(tree)}", path=path)
    status = tree.get("status")
    if type(status) is not int:
        raise BadRequest(f"a response has an integer status, not {shown(status)}", path=path)
    warnings = []
    if status not in _STATUS_NUMBERS:
        warnings.append(f"status {status} is not in the language")
    text = tree.get("status_text")
    if "status_text" in tree and not isinstance(text, str):
        warnings.append("status_text is no text")
        text = None
    results = tree.get("results")
    if "results" in tree and not (isinstance(results, dict) and results):
        warnings.append("results are no object with members")
    warnings += [f"unknown member {shown(name)}" for name in tree if name not in _RESPONSE_MEMBERS]
    return ReadResponse(status, text, results, tuple(warnings))


_STATUS_NUMBERS = frozenset(map(int, StatusCode))
_RESPONSE_MEMBERS = frozenset({"status", "status_text", "results"})
