"""Vectors in all three forms, taken and written again; the disagreements of AMB-56 left out."""

from __future__ import annotations

import pytest

from oc2d.errors import BadRequest, Refusal
from oc2d.language.codec import Encoding, InputLimits, decode, encode
from oc2d.language.command import command_tree, parse_command
from oc2d.language.features import Capabilities, answer_features, is_query_features
from oc2d.language.message import Headers, open_envelope, wrap_request, wrap_response
from oc2d.language.response import parse_response
from tests import vectors

CAPABILITIES = Capabilities(("1.0",), (), {})


def sent(tree, encoding, wrap=wrap_request):
    """What arrives of a command or response: wrapped, encoded, decoded."""
    payload = encode(wrap(tree, Headers("r")), encoding)
    return open_envelope(decode(payload, encoding, InputLimits())).content


def take(tree, encoding):
    """Go the way of a request: parsed, and answered if the language itself answers it."""
    command = parse_command(sent(tree, encoding), encoding)
    if is_query_features(command):
        answer_features(command, CAPABILITIES)
    return command


@pytest.mark.req("AMB-56", "AMB-31", "LANG-11", "LANG-62", "LANG-63", "LANG-71")
@pytest.mark.parametrize("encoding", list(Encoding))
@pytest.mark.parametrize(("name", "tree"), vectors.public("commands/good"))
def test_good_commands_are_taken_and_round_trip(name, tree, encoding):
    if name in vectors.REFUSED_THOUGH_GOOD:
        with pytest.raises(BadRequest):
            take(tree, encoding)
        return
    command = take(tree, encoding)
    again = parse_command(command_tree(command, encoding), encoding)
    assert (again.target, again.args, again.actuator) == (
        command.target,
        command.args,
        command.actuator,
    )


@pytest.mark.req("AMB-56", "LANG-17", "LANG-18")
@pytest.mark.parametrize("encoding", list(Encoding))
@pytest.mark.parametrize(("name", "tree"), vectors.public("commands/bad"))
def test_bad_commands_are_refused(name, tree, encoding):
    if name in vectors.TAKEN_THOUGH_BAD:
        take(tree, encoding)
        return
    with pytest.raises(Refusal) as caught:
        take(tree, encoding)
    assert caught.value.status == 400


@pytest.mark.req("AMB-56", "LANG-38", "LANG-42", "LANG-88")
@pytest.mark.parametrize("encoding", list(Encoding))
@pytest.mark.parametrize(
    ("name", "tree"), [*vectors.public("responses/good"), *vectors.own("responses_good")]
)
def test_good_responses_are_read(name, tree, encoding):
    read = parse_response(sent(tree, encoding, wrap_response))
    assert bool(read.warnings) == (name in vectors.TAKEN_WITH_WARNING)
    assert (read.status, read.results) == (tree["status"], tree.get("results"))


@pytest.mark.req("LANG-42")
@pytest.mark.parametrize("encoding", list(Encoding))
@pytest.mark.parametrize(("name", "tree"), vectors.own("responses_odd"))
def test_odd_responses_are_read_with_a_warning(name, tree, encoding):
    read = parse_response(sent(tree, encoding, wrap_response))
    assert read.status == tree["status"], name
    assert len(read.warnings) == 1


@pytest.mark.req("AMB-56", "LANG-38", "LANG-42")
@pytest.mark.parametrize("encoding", list(Encoding))
@pytest.mark.parametrize(
    ("name", "tree"), [*vectors.public("responses/bad"), *vectors.own("responses_bad")]
)
def test_bad_responses_are_refused_or_read_leniently(name, tree, encoding):
    content = sent(tree, encoding, wrap_response)
    if name in vectors.READ_THOUGH_BAD:
        parse_response(content)
        return
    with pytest.raises(BadRequest):
        parse_response(content)
