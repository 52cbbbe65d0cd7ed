"""The public OpenC2 v1.0 vectors, in all three forms, less the disagreements of AMB-56.

They are not part of this repository: OC2D_VECTORS or ../shared/vectors says where they are.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from oc2d.errors import BadRequest, Refusal
from oc2d.language.codec import Encoding, InputLimits, decode, encode
from oc2d.language.command import command_tree, parse_command
from oc2d.language.features import Capabilities, answer_features, is_query_features
from oc2d.language.message import Headers, open_envelope, wrap_request
from oc2d.language.response import parse_response

_CHECKOUT = Path(__file__).resolve().parents[3]
VECTORS = (
    Path(os.environ.get("OC2D_VECTORS", _CHECKOUT / "../shared/vectors")) / "openc2-json-schema"
)

pytestmark = pytest.mark.skipif(
    not VECTORS.is_dir(), reason="no vectors: set OC2D_VECTORS to the directory that holds them"
)

#: Where the texts outrank the vectors (AMB-56): name and reason.
REFUSED_THOUGH_GOOD = {
    "deny_uri_actuator_multiple": "a Choice has one member (AMB-28)",
    "query_features_ext_args": "query features takes no other argument (LANG-53)",
    "query_features_ext_args_all": "the same",
    "query_features_ext_args_underscore": "the same",
    "query_features_extension_args_number": "the same",
}
TAKEN_THOUGH_BAD = {
    "query_features_notunique": "a Consumer treats repeated names as one (LANG-56)",
}
TAKEN_WITH_WARNING = {
    "results_empty": "results are never empty (LANG-39), read leniently (LANG-42)",
    "results_ext_multiple": "201 is no status of the language, read leniently (LANG-42)",
    "results_ext_single": "the same",
}
READ_THOUGH_BAD = {
    "status_too_high": "unknown numbers are kept for a person to see (LANG-42)",
    "status_too_low": "the same",
    "status_negative": "the same",
    "unknown_field": "read with a warning (LANG-42)",
    "results_unknown_profile": "a Producer takes any profile's results (AMB-44)",
    "query_features_all_badprofile": "the same",
}
CAPABILITIES = Capabilities(("1.0",), (), {})


def vectors(kind: str) -> list:
    files = sorted((VECTORS / kind).glob("*.json"))
    return [pytest.param(file, id=file.stem) for file in files]


def tree_of(file: Path):
    return decode(file.read_bytes(), Encoding.JSON, InputLimits())


def take(file: Path, encoding: Encoding):
    """Go the way of a request: wrapped, encoded, decoded, parsed, and answered if we answer it."""
    payload = encode(wrap_request(tree_of(file), Headers("r")), encoding)
    envelope = open_envelope(decode(payload, encoding, InputLimits()))
    command = parse_command(envelope.content, encoding)
    if is_query_features(command):
        answer_features(command, CAPABILITIES)
    return command


@pytest.mark.req("AMB-56", "AMB-31")
@pytest.mark.parametrize("encoding", list(Encoding))
@pytest.mark.parametrize("file", vectors("commands/good"))
def test_good_commands_are_taken_and_round_trip(file, encoding):
    if file.stem in REFUSED_THOUGH_GOOD:
        with pytest.raises(BadRequest):
            take(file, encoding)
        return
    command = take(file, encoding)
    again = parse_command(command_tree(command, encoding), encoding)
    assert (again.target, again.args, again.actuator) == (
        command.target,
        command.args,
        command.actuator,
    )


@pytest.mark.req("AMB-56", "LANG-17", "LANG-18")
@pytest.mark.parametrize("encoding", list(Encoding))
@pytest.mark.parametrize("file", vectors("commands/bad"))
def test_bad_commands_are_refused(file, encoding):
    if file.stem in TAKEN_THOUGH_BAD:
        take(file, encoding)
        return
    with pytest.raises(Refusal) as caught:
        take(file, encoding)
    assert caught.value.status == 400


@pytest.mark.req("AMB-56", "LANG-42", "LANG-88")
@pytest.mark.parametrize("file", vectors("responses/good"))
def test_good_responses_are_read(file):
    assert bool(parse_response(tree_of(file)).warnings) == (file.stem in TAKEN_WITH_WARNING)


@pytest.mark.req("AMB-56", "LANG-42")
@pytest.mark.parametrize("file", vectors("responses/bad"))
def test_bad_responses_are_refused_or_read_leniently(file):
    if file.stem in READ_THOUGH_BAD:
        parse_response(tree_of(file))
        return
    with pytest.raises(BadRequest):
        parse_response(tree_of(file))
