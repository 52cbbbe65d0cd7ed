"""What oc2ctl lets out: every vector as a file to send, in all three forms."""

from __future__ import annotations

import json

import pytest

from oc2d.errors import Oc2dError
from oc2d.language.codec import Encoding, InputLimits, decode
from oc2d.language.command import parse_command
from oc2d.language.message import open_envelope
from oc2d.producer.messages import compose_file
from oc2d.producer.rules import checked
from tests import vectors

#: A Consumer has to answer these, a Producer must not send them: name and reason.
NOT_SENT = {
    "argument_of_nobody": "an argument outside the tables (SLPF-6)",
    "protocol_not_of_the_four": "the enumeration is closed (LANG-68)",
}


def composed(tree, encoding):
    made = compose_file(
        json.dumps(tree).encode(),
        "oc2/cmd/all",
        sender="soc",
        to=(),
        encoding=encoding,
        check=lambda command: checked(command, encoding),
    )
    return open_envelope(decode(made.payload, encoding, InputLimits())).content


@pytest.mark.req(
    "LANG-11", "LANG-14", "LANG-15", "LANG-16", "LANG-62", "LANG-63", "LANG-64", "LANG-65",
    "LANG-66", "LANG-67", "LANG-68", "LANG-69", "LANG-71", "LANG-73", "LANG-78", "LANG-79",
    "LANG-80", "LANG-84", "LANG-85", "LANG-86", "SLPF-6", "SLPF-60", "LANG-89",
)  # fmt: skip
@pytest.mark.parametrize("encoding", list(Encoding))
@pytest.mark.parametrize(("name", "vector"), vectors.own("commands_good"))
def test_a_good_command_goes_out_and_means_the_same(name, vector, encoding):
    if name in NOT_SENT:
        with pytest.raises(Oc2dError):
            composed(vector["command"], encoding)
        return
    sent = parse_command(composed(vector["command"], encoding), encoding)
    meant = parse_command(vector["command"], Encoding.JSON)
    assert (sent.action, sent.target, sent.args, sent.actuator, sent.command_id) == (
        meant.action,
        meant.target,
        meant.args,
        meant.actuator,
        meant.command_id,
    )


@pytest.mark.req(
    "LANG-6", "LANG-11", "LANG-12", "LANG-13", "LANG-14", "LANG-15", "LANG-16", "LANG-25",
    "LANG-33", "LANG-59", "LANG-62", "LANG-63", "LANG-64", "LANG-65", "LANG-66", "LANG-67",
    "LANG-69", "LANG-70", "LANG-71", "LANG-81", "SLPF-6", "SLPF-32", "LANG-89", "AMB-34",
)  # fmt: skip
@pytest.mark.parametrize(
    ("name", "tree"), [*vectors.own("commands_bad"), *vectors.public("commands/bad")]
)
def test_a_bad_command_does_not_go_out(name, tree):
    if name in vectors.TAKEN_THOUGH_BAD:  # sent with each name once
        assert composed(tree, Encoding.JSON)["target"] == {"features": ["versions"]}
        return
    with pytest.raises(Oc2dError):
        composed(tree, Encoding.JSON)
