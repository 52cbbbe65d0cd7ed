"""update file, from the message to the answer: what the profile and the engine do together."""

from __future__ import annotations

import json
import time

import pytest

from tests.consumer import command, deny, query

NAME = "rules.json"


@pytest.fixture(scope="module")
def zulu(host):
    directory = host.directory / "updates"
    directory.mkdir()
    table = {"backend": "dry-run", "update_directories": [str(directory)]}
    return host.consumer(actuators_slpf=table).start()


@pytest.fixture(scope="module")
def soc(host, zulu):
    del zulu
    return host.producer()


@pytest.fixture
def write(host):
    def write(*nets):
        path = host.directory / "updates" / NAME
        path.write_text(json.dumps([deny(net) for net in nets]))

    return write


def update(name=NAME, **args):
    return command("update", {"file": {"name": name}}, **args)


def final(soc, sent):
    """Send it and return the last reply to it, whether a 102 comes before it or not."""
    request_id = soc.send(sent)
    return soc.until(
        lambda: next((reply for reply in soc.of(request_id) if reply.status != 102), None),
        f"the outcome of {sent}",
    )


def matches(zulu):
    return [rule["match"] for rule in zulu.rules().values()]


@pytest.mark.req("SLPF-44", "SLPF-51", "SLPF-62")
@pytest.mark.parametrize("asked", [{}, {"response_requested": "complete"}])
def test_an_update_is_advertised_and_answered_200(zulu, soc, write, asked):
    assert "file" in soc.ask(query("pairs")).response["results"]["pairs"]["update"]
    soc.ask(deny("10.0.0.0/8"))
    write("192.0.2.0/24", "198.51.100.0/24")
    answer = final(soc, update(**asked))
    assert answer.status == 200
    assert answer.text.startswith("2 rules in force")
    assert matches(zulu) == ["ipv4_net 192.0.2.0/24", "ipv4_net 198.51.100.0/24"]


@pytest.mark.req("SLPF-50")
@pytest.mark.parametrize("asked", [{}, {"response_requested": "status"}])
def test_a_102_tells_that_the_update_runs(soc, write, asked):
    write("192.0.2.0/24")
    first, second = soc.wait(soc.send(update(**asked)), 2, timeout=3)
    assert (first.status, second.status) == (102, 200)


@pytest.mark.req("LANG-28", "LANG-29", "SLPF-3")
@pytest.mark.parametrize(("wanted", "replies"), [("ack", 1), ("none", 0)])
def test_an_update_answers_no_more_than_it_is_asked_to(zulu, soc, write, wanted, replies):
    write("203.0.113.0/24")
    request_id = soc.send(update(response_requested=wanted))
    soc.assert_silent(request_id, replies)
    assert [reply.status for reply in soc.of(request_id)] == [102] * replies
    assert matches(zulu) == ["ipv4_net 203.0.113.0/24"]


@pytest.mark.req("SLPF-45", "SLPF-10", "SLPF-11", "AMB-37")
@pytest.mark.parametrize(
    "args",
    [
        {"stop_time": 4102444800000},
        {"duration": 1000},
        {"slpf": {"persistent": False}},
        {"slpf": {"insert_rule": 5}},
    ],
)
def test_no_other_argument_is_taken(zulu, soc, write, args):
    write("192.0.2.0/24")
    before = matches(zulu)
    answer = soc.ask(update(**args))
    assert answer.status == 501
    assert answer.text.startswith("Option not supported")
    assert matches(zulu) == before


@pytest.mark.req("AMB-37", "AMB-25")
def test_an_update_may_start_later(zulu, soc, write):
    write("192.0.2.77/32")
    request_id = soc.send(update(start_time=int(time.time() * 1000) + 300))
    first, second = soc.wait(request_id, 2)
    assert (first.status, second.status) == (102, 200)
    assert matches(zulu) == ["ipv4_net 192.0.2.77/32"]


@pytest.mark.req("SLPF-46", "SLPF-47", "SLPF-49", "SLPF-52")
@pytest.mark.parametrize(
    ("file", "status", "text"),
    [
        ({"path": "/etc"}, 400, "the name of the file is missing"),
        ({}, 400, ""),
        ({"name": 7}, 400, ""),
        ({"name": NAME, "pth": "/etc"}, 400, ""),
        ({"name": "passwd", "path": "/etc"}, 403, "path is not in a directory for updates"),
        ({"name": "../updates/rules.json"}, 403, "name is that of a file"),
        ({"name": "none"}, 500, "cannot access file"),
        ({"name": NAME, "hashes": {"md5": "00" * 16}}, 500, "Rule not updated: the md5"),
    ],
)
def test_what_is_wrong_with_the_file_is_answered(soc, write, file, status, text):
    write("192.0.2.0/24")
    answer = final(soc, command("update", {"file": file}))
    assert answer.status == status
    assert answer.text.startswith(text)


@pytest.mark.req("SLPF-46", "SLPF-52", "AMB-16")
@pytest.mark.parametrize(("name", "status"), [("", 400), ("..", 403), ("none", 102)])
def test_what_needs_no_look_at_the_file_is_refused_before_acceptance(soc, name, status):
    assert soc.ask(update(name, response_requested="ack")).status == status


@pytest.mark.req("SLPF-48")
def test_without_a_directory_there_is_no_update(host):
    host.consumer("yankee", actuators_slpf={"backend": "dry-run"}).start()
    producer = host.producer(topic="oc2/cmd/device/yankee")
    assert "update" not in producer.ask(query("pairs")).response["results"]["pairs"]
    answer = producer.ask(update())
    assert answer.status == 501
    assert answer.text.startswith("Command not supported")
