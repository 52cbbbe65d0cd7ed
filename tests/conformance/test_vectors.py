"""Every vector, wrapped, in JSON and in both forms of CBOR, as input of a running daemon."""

from __future__ import annotations

import pytest

from oc2d.language.codec import Encoding
from tests import vectors

FORMS = [encoding.value for encoding in Encoding]


@pytest.fixture(scope="module")
def soc(make_broker_host):
    host = make_broker_host(isolated=False)
    host.consumer(actuators_slpf={"backend": "dry-run"}).start()
    return host.producer()


@pytest.fixture
def ask(soc):
    """Send a command; the one response, and whatever it added is taken away again."""

    def one(command, form):
        reply = soc.ask(command, encoding=form)
        if (number := reply.response.get("results", {}).get("slpf")) is not None:
            target = {"slpf:rule_number": number["rule_number"]}
            assert soc.ask({"action": "delete", "target": target}).status == 200
        return reply

    return one


@pytest.mark.req(
    "AMB-20", "AMB-24", "AMB-29", "AMB-30", "AMB-33", "AMB-52", "LANG-6", "LANG-12", "LANG-14",
    "LANG-33", "LANG-36", "LANG-43", "LANG-46", "LANG-56", "LANG-62", "LANG-63", "LANG-64",
    "LANG-65", "LANG-66", "LANG-67", "LANG-68", "LANG-69", "LANG-71", "LANG-73", "LANG-90",
    "LANG-91", "SLPF-6", "SLPF-10", "SLPF-41", "SLPF-59", "SLPF-62",
)  # fmt: skip
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("name", "vector"), vectors.own("commands_good"))
def test_a_good_command_is_answered_as_it_must_be(ask, name, vector, form):
    reply = ask(vector["command"], form)
    assert reply.status == vector["status"], (name, reply.text)


@pytest.mark.req(
    "AMB-28", "AMB-34", "AMB-41", "LANG-6", "LANG-11", "LANG-12", "LANG-14", "LANG-15", "LANG-16",
    "LANG-17", "LANG-18", "LANG-25", "LANG-26", "LANG-33", "LANG-43", "LANG-53", "LANG-54",
    "LANG-60", "LANG-62", "LANG-63", "LANG-64", "LANG-65", "LANG-66", "LANG-67", "LANG-69",
    "LANG-71", "LANG-81", "SLPF-6", "SLPF-25", "SLPF-40",
)  # fmt: skip
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("name", "vector"), vectors.own("commands_bad"))
def test_a_bad_command_is_answered_400(ask, name, vector, form):
    reply = ask(vector, form)
    assert reply.status == 400, (name, reply.response)
    assert "results" not in reply.response


@pytest.mark.req("AMB-56", "LANG-90", "LANG-91")
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("name", "tree"), vectors.public("commands/good"))
def test_a_good_command_of_the_public_vectors_is_no_mistake(soc, ask, name, tree, form):
    if tree.get("args", {}).get("response_requested") == "none":
        soc.assert_silent(soc.send(tree, encoding=form))
        return
    reply = ask(tree, form)
    refused = name in vectors.REFUSED_THOUGH_GOOD
    assert (reply.status == 400) == refused, (name, reply.text)


@pytest.mark.req("AMB-56", "LANG-17", "LANG-18")
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("name", "tree"), vectors.public("commands/bad"))
def test_a_bad_command_of_the_public_vectors_is_answered_400(ask, name, tree, form):
    reply = ask(tree, form)
    assert (reply.status == 400) != (name in vectors.TAKEN_THOUGH_BAD), (name, reply.text)
