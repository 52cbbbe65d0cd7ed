"""oc2ctl as people meet it: mistakes, Ctrl-C, colours, what it waits for."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest

from oc2d.producer.cli import main
from tests.system.producer.conftest import BAD, DENY, OK, answering
from tests.terminal import Terminal
from tests.waiting import wait_until


@pytest.mark.req("LANG-74")
def test_mistakes_end_with_their_code_and_without_a_traceback(run, tmp_path, capsys) -> None:
    code, _, err = run("deny ipv4_net 1.2.3.400 --device x")
    assert code == 2
    assert err.startswith("oc2ctl: an IPv4 range like 192.0.2.0/24 expected, not '1.2.3.400' (at")
    code, _, err = run(["command", "scan", "file", "name=\udcff", "--all"])
    assert (code, err) == (2, "oc2ctl: the command line is not UTF-8 text")
    bad = tmp_path / "bad.toml"
    bad.write_text("[broker]\nprot = 1\n")
    assert main(["query", "features", "--all", "--config", str(bad)]) == 78
    prot, host = capsys.readouterr().err.splitlines()
    assert prot == "oc2ctl: broker.prot: unknown key; did you mean port?"
    assert host.startswith("oc2ctl: broker.host: is required: give --broker HOST")


def test_the_program_ends_at_once_and_on_interrupt(broker, consumer, tmp_path) -> None:
    consumer(broker.port, answering(OK))
    program = [
        sys.executable,
        "-c",
        "import sys; from oc2d.producer.cli import main; sys.exit(main())",
    ]
    link = ["--broker", f"127.0.0.1:{broker.port}", "--no-tls"]
    environment = {**os.environ, "HOME": str(tmp_path)}
    done = subprocess.run(
        [*program, *DENY.split(), *link],
        check=False,
        capture_output=True,
        timeout=20,
        env=environment,
    )
    assert (done.returncode, done.stdout) == (0, b"fw-7  200  rule_number=999\n")
    watch = subprocess.Popen(
        [*program, "watch", *link], stderr=subprocess.PIPE, stdout=subprocess.PIPE, env=environment
    )
    wait_until(lambda: "oc2/# (QoS 2)" in broker.log.read_text(), what="watch has subscribed")
    watch.send_signal(signal.SIGINT)
    _, err = watch.communicate(timeout=10)
    assert watch.returncode == 0
    assert b"Traceback" not in err


# -- on a terminal


@pytest.fixture
def terminal(broker) -> Iterator[Callable[..., Terminal]]:
    """Run oc2ctl on a terminal."""
    made: list[Terminal] = []

    def start(line: str, **environment: str) -> Terminal:
        words = [*line.split(), "--broker", f"127.0.0.1:{broker.port}", "--no-tls"]
        program = "import sys; from oc2d.producer.cli import main; sys.exit(main())"
        made.append(Terminal(sys.executable, "-c", program, *words, **environment))
        return made[-1]

    yield start
    for one in made:
        one.close()


def plain(text: str) -> str:
    """What is left on the screen: without colours and erased lines."""
    text = re.sub(r"\x1b\[\d+m", "", text).replace("\r\n", "\n")
    return re.sub(r"[^\n]*\r\x1b\[K", "", text)


def test_on_a_terminal_replies_are_rows_in_colour_and_it_says_what_it_waits_for(
    broker, consumer, terminal
) -> None:
    consumer(broker.port, answering(OK))
    consumer(broker.port, answering(BAD, sender="a-longer-name"), client_id="other")
    shown = terminal("deny ipv4_net 203.0.113.0/24 --all --expect 3 --timeout 60")
    shown.until("501")
    shown.until("200")
    assert "oc2/cmd/all: waiting for 3 responses, 60 s at most" in shown.read()
    shown.process.send_signal(signal.SIGINT)
    assert shown.process.wait(10) == 1
    text = shown.read()
    assert "\x1b[32m200\x1b[0m" in text
    assert "\x1b[31m501\x1b[0m" in text
    rows = plain(text).splitlines()
    assert rows[1] == "FROM      STATUS"
    assert {row.split()[0] for row in rows[2:4]} == {"fw-7", "a-longer-name"}
    assert "2 responses: " in rows[4]
    assert "waiting" not in plain(text)


def test_without_colours_where_they_are_not_wanted(broker, consumer, terminal) -> None:
    consumer(broker.port, answering(OK))
    shown = terminal(DENY, NO_COLOR="1")
    shown.until("rule_number=999")
    assert shown.process.wait(10) == 0
    assert not re.search(r"\x1b\[\d*m", shown.read())


@pytest.mark.parametrize(
    ("options", "path"),
    [
        ("--username soc --password-file {}/none", "broker.password_file"),
        ("--ca-file {}/none", "broker.ca_file"),
    ],
)
def test_a_secret_or_tls_file_that_cannot_be_read_is_a_wrong_configuration(
    tmp_path, capsys, options, path
) -> None:
    words = f"{DENY} --broker 127.0.0.1:1 {options.format(tmp_path)}".split()
    assert main(words) == 78
    assert f"oc2ctl: {path}: cannot read {tmp_path}/none" in capsys.readouterr().err
