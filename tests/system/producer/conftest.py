from __future__ import annotations

import itertools
import json
import logging
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import pytest
import structlog

from oc2d.engine.ports import Inbound, Outgoing
from oc2d.language.codec import Encoding
from oc2d.mqtt.session import Session
from oc2d.mqtt.settings import Backoff, LinkSettings
from oc2d.producer.cli import main
from tests.waiting import wait_until

RSP = "oc2/rsp"
OK = {"status": 200, "results": {"slpf": {"rule_number": 999}}}
WAIT = {"status": 102}
BAD = {"status": 501, "status_text": "Option not supported"}
DENY = "deny ipv4_net 203.0.113.0/24 --device fw-7"
Answer = Callable[[dict[str, Any]], "Iterable[tuple[str, dict[str, Any] | bytes]]"]


class ScriptedConsumer:
    """Answers every message that comes on the command topics with what `answer` says."""

    def __init__(self, port: int, answer: Answer, topic: str = "oc2/cmd/#", **changes: Any) -> None:
        self.got: list[Inbound] = []
        self._answer = answer
        self._handles = itertools.count(1)
        quick = Backoff(first=0.02, most=0.1)
        settings = {"client_id": "consumer", "subscriptions": (topic,), "backoff": quick, **changes}
        self.session = Session(LinkSettings(host="127.0.0.1", port=port, **settings), self)
        self.session.start()
        wait_until(lambda: self.session.status().subscriptions, what="the Consumer is subscribed")

    @property
    def requests(self) -> list[dict[str, Any]]:
        return [json.loads(message.payload) for message in self.got]

    def received(self, messages: Sequence[Inbound]) -> None:
        self.got += messages
        self.session.acknowledge([message.token for message in messages])
        for message in messages:
            for topic, said in self._answer(json.loads(message.payload)):
                payload = said if isinstance(said, bytes) else json.dumps(said).encode()
                self.session.send([Outgoing(next(self._handles), topic, payload, Encoding.JSON)])

    def sent(self, handles: Sequence[int]) -> None:
        pass

    def taken(self, handles: Sequence[int]) -> None:
        self.session.release(handles)

    def session_lost(self) -> None:
        pass


@pytest.fixture
def consumer() -> Iterator[Callable[..., ScriptedConsumer]]:
    """Start a scripted Consumer: `consumer(port, answer)`."""
    made: list[ScriptedConsumer] = []

    def start(port: int, answer: Answer, **changes: Any) -> ScriptedConsumer:
        made.append(ScriptedConsumer(port, answer, **changes))
        return made[-1]

    yield start
    for one in made:
        one.session.stop(1)


def answering(*responses: dict[str, Any], sender: str = "fw-7", topics: tuple[str, ...] = (RSP,)):
    """An answer: each response in turn, on each of the topics."""

    def answer(request: dict[str, Any]):
        headers = {"request_id": request["headers"]["request_id"], "created": 1, "from": sender}
        for response in responses:
            message = {"headers": headers, "body": {"openc2": {"response": response}}}
            for topic in topics:
                yield topic, message

    return answer


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch) -> Iterator[None]:
    """Nobody's settings, and a quiet log until oc2ctl sets up its own."""
    monkeypatch.setenv("HOME", str(tmp_path))
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    yield
    structlog.reset_defaults()


@pytest.fixture
def run(broker, capsys) -> Callable[..., tuple[int, str, str]]:
    """Run oc2ctl here: exit code, output, errors (less the warning about TLS)."""

    def call(line: str | list[str], port: int = broker.port) -> tuple[int, str, str]:
        words = line.split() if isinstance(line, str) else line
        code = main([*words, "--broker", f"127.0.0.1:{port}", "--no-tls"])
        out, err = capsys.readouterr()
        wait_until(lambda: not [t for t in threading.enumerate() if t.name == "oc2d-dial"])
        lines = [line for line in err.splitlines() if "no TLS" not in line]
        return code, out, "\n".join(lines)

    return call
