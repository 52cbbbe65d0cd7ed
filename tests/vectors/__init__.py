"""Commands and responses, good and bad, without their wrapper: our own and the public ones.

Our own are beside this file. The public ones (openc2-json-schema) are no part of this repository:
OC2D_VECTORS or ../shared/vectors says where they are.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

__all__ = [
    "READ_THOUGH_BAD",
    "REFUSED_THOUGH_GOOD",
    "TAKEN_THOUGH_BAD",
    "TAKEN_WITH_WARNING",
    "own",
    "public",
]

_HERE = Path(__file__).resolve().parent
_PUBLIC = Path(os.environ.get("OC2D_VECTORS", _HERE.parents[1] / "../shared/vectors"))

# Where the texts outrank the public vectors (AMB-56): name and reason.
REFUSED_THOUGH_GOOD = {
    "deny_uri_actuator_multiple": "LANG 3.3.1.3: Actuator is a Choice, of one member (AMB-28)",
    "query_features_ext_args": "LANG 4.1: no argument but response_requested (LANG-53)",
    "query_features_ext_args_all": "LANG 4.1: the same",
    "query_features_ext_args_underscore": "LANG 4.1: the same",
    "query_features_extension_args_number": "LANG 4.1: the same",
}
TAKEN_THOUGH_BAD = {
    "query_features_notunique": "LANG 3.4.1.5: a Consumer takes repeated names as one (LANG-56)",
}
TAKEN_WITH_WARNING = {
    "results_empty": "LANG 3.3.2: Results has at least one member (LANG-39); read leniently",
    "results_ext_multiple": "LANG 3.3.2.2: there is no status 201; read leniently (LANG-42)",
    "results_ext_single": "LANG 3.3.2.2: the same",
}
READ_THOUGH_BAD = {
    "status_too_high": "unknown numbers are kept for a person to see (LANG-42)",
    "status_too_low": "the same",
    "status_negative": "the same",
    "unknown_field": "read with a warning (LANG-42)",
    "results_unknown_profile": "a Producer takes any profile's results (AMB-44)",
    "query_features_all_badprofile": "the same",
}


def own(kind: str) -> list[Any]:
    """Our own of this kind (`commands_good`), each a parameter of a test: name and content."""
    listed = json.loads((_HERE / f"{kind}.json").read_text())
    return [pytest.param(name, content, id=f"own-{name}") for name, content in listed.items()]


def public(kind: str) -> list[Any]:
    """The public ones of this kind (`commands/good`), or one parameter that skips."""
    files = sorted((_PUBLIC / "openc2-json-schema" / kind).glob("*.json"))
    files = [file for file in files if file.stat().st_size]  # nothing cannot be wrapped
    if not files:
        reason = "no vectors: set OC2D_VECTORS to the directory that holds them"
        return [pytest.param("", None, marks=pytest.mark.skip(reason=reason), id="absent")]
    return [pytest.param(file.stem, json.loads(file.read_text()), id=file.stem) for file in files]
