from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import pytest

from oc2d.engine.ports import Inbound, Outgoing
from oc2d.language.codec import Encoding
from oc2d.mqtt.session import Session
from oc2d.mqtt.settings import Backoff, LinkSettings
from tests.waiting import wait_until

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
