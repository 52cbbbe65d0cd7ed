"""A Producer for tests: publishes anything at all, and keeps every response it sees."""

from __future__ import annotations

import json
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import paho.mqtt.client as paho
import pytest
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.subscribeoptions import SubscribeOptions

from oc2d.language.codec import Encoding, InputLimits, decode, encode, recognise

CONTENT_TYPE = "application/openc2"
_TIMEOUT = 15.0
_LIMITS = InputLimits(payload=1 << 28, items=1 << 20)


def properties(
    message_type: str | None = "req",
    encoding: str | None = "json",
    *,
    content_type: str | None = CONTENT_TYPE,
    text: bool | None = None,
    user: Iterable[tuple[str, str]] = (),
    **more: object,
) -> Properties:
    """PUBLISH properties of a request; None leaves one out, `more` are paho's names for others."""
    made = Properties(PacketTypes.PUBLISH)
    if text is None and encoding is not None:
        text = encoding != "cbor"
    if text is not None:
        made.PayloadFormatIndicator = int(text)
    if content_type is not None:
        made.ContentType = content_type
    pairs = [("msgType", message_type), ("encoding", encoding)]
    if listed := [(name, value) for name, value in [*pairs, *user] if value is not None]:
        made.UserProperty = listed
    for name, value in more.items():
        setattr(made, name, value)
    return made


@dataclass(frozen=True)
class Reply:
    """One PUBLISH that is no command; `properties` as paho names them."""

    topic: str
    payload: bytes
    qos: int
    retain: bool
    properties: dict[str, Any] = field(compare=False)
    at: float = field(compare=False)

    @property
    def user(self) -> list[tuple[str, str]]:
        return self.properties.get("UserProperty", [])

    @cached_property
    def message(self) -> dict[str, Any]:
        form = recognise(dict(self.user).get("encoding"), self.payload)
        assert form is not None, self
        return decode(self.payload, form, _LIMITS)

    @property
    def headers(self) -> dict[str, Any]:
        return self.message["headers"]

    @property
    def response(self) -> dict[str, Any]:
        return self.message["body"]["openc2"]["response"]

    @property
    def status(self) -> int:
        return self.response["status"]

    @property
    def text(self) -> str:
        return self.response.get("status_text", "")

    @property
    def number(self) -> int:
        return self.response["results"]["slpf"]["rule_number"]


def request(command: object, headers: dict[str, Any]) -> dict[str, Any]:
    return {"headers": headers, "body": {"openc2": {"request": command}}}


class Producer:
    """Connected to a broker on 127.0.0.1; sees whatever is published beside commands.

    `filters` are for brokers that do not let it see everything; with MQTTv311 it sends no
    properties.
    """

    def __init__(
        self,
        port: int,
        sender: str = "soc@example.com",
        *,
        topic: str = "oc2/cmd/device/zulu",
        filters: Sequence[str] = ("#",),
        protocol: Any = paho.MQTTv5,
        configure: Callable[[paho.Client], object] = lambda _: None,
    ) -> None:
        self.sender = sender
        self.topic = topic
        self.replies: list[Reply] = []
        self.refused: list[str] = []  # by the broker: why
        self._seen = threading.Condition()
        self._ready = threading.Event()
        self._filters = filters
        self._v5 = protocol == paho.MQTTv5
        self._client = paho.Client(
            paho.CallbackAPIVersion.VERSION2,
            f"p{uuid.uuid4().hex[:20]}",
            clean_session=None if self._v5 else False,
            protocol=protocol,
        )
        configure(self._client)
        self._client.on_socket_open = lambda _client, _data, sock: sock.setsockopt(
            socket.IPPROTO_TCP, socket.TCP_NODELAY, 1
        )
        self._client.on_connect = self._connected
        self._client.on_subscribe = lambda *_: self._ready.set()
        self._client.on_message = self._received
        self._client.on_publish = self._published
        self._client.max_inflight_messages_set(20)  # what mosquitto takes from one client
        self._client.reconnect_delay_set(0.05, 0.2)
        kept: dict[str, Any] = {}
        if self._v5:
            kept = {"clean_start": False, "properties": Properties(PacketTypes.CONNECT)}
            kept["properties"].SessionExpiryInterval = 3600
        self._client.connect("127.0.0.1", port, **kept)
        self._client.loop_start()
        if not self._ready.wait(_TIMEOUT):
            pytest.fail("the Producer could not subscribe")

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()

    def _connected(self, client: paho.Client, *_: object) -> None:
        options = SubscribeOptions(qos=2, noLocal=True) if self._v5 else 2
        client.subscribe([(topic, options) for topic in self._filters])

    def _published(self, _client: object, _data: object, _mid: int, code: Any, _: object) -> None:
        if code.is_failure:
            self.refused.append(str(code))

    def _received(self, _client: object, _data: object, got: paho.MQTTMessage) -> None:
        if "oc2/cmd" in got.topic:
            return
        listed = {name: getattr(got.properties, name) for name in _NAMES if _has(got, name)}
        reply = Reply(got.topic, got.payload, got.qos, got.retain, listed, at=time.monotonic())
        with self._seen:
            self.replies.append(reply)
            self._seen.notify_all()

    # -- to send

    def publish(
        self,
        payload: bytes,
        topic: str | None = None,
        *,
        properties: Properties | None = None,
        qos: int = 1,
        retain: bool = False,
    ) -> paho.MQTTMessageInfo:
        """Publish these bytes, whatever they are."""
        return self._client.publish(topic or self.topic, payload, qos, retain, properties)

    def send(
        self,
        command: object,
        topic: str | None = None,
        *,
        request_id: str | None = None,
        encoding: str = "json",
        headers: dict[str, Any] | None = None,
        qos: int = 1,
        retain: bool = False,
        message_type: str = "req",
        **more: Any,
    ) -> str:
        """Publish a command; `headers` replace single members. Returns the request id."""
        request_id = request_id or str(uuid.uuid4())
        given = {
            "request_id": request_id,
            "created": int(time.time() * 1000),
            "from": self.sender,
            **(headers or {}),
        }
        form = Encoding(encoding)
        payload = encode(request(command, given), form)
        packed = properties(message_type, form.announced, **more) if self._v5 else None
        self.publish(payload, topic, properties=packed, qos=qos, retain=retain)
        return request_id

    def ask(self, command: object, topic: str | None = None, **more: Any) -> Reply:
        """Publish a command and wait for its first response."""
        return self.wait(self.send(command, topic, **more))[0]

    # -- to receive

    def of(self, request_id: str | None) -> list[Reply]:
        """What has come with this request id so far."""
        with self._seen:
            replies = list(self.replies)
        return [reply for reply in replies if _request_id(reply) == request_id]

    def wait(
        self, request_id: str | None, count: int = 1, timeout: float = _TIMEOUT
    ) -> list[Reply]:
        """Wait until `count` responses with this id have come."""
        return self.until(
            lambda: found if len(found := self.of(request_id)) >= count else None,
            f"{count} responses to {request_id!r}, {self.of(request_id)}",
            timeout,
        )

    def until(self, condition: Callable[[], Any], what: str, timeout: float = _TIMEOUT) -> Any:
        """Wait until `condition`, which is looked at after each message, gives something."""
        deadline = time.monotonic() + timeout
        while not (found := condition()):
            with self._seen:
                self._seen.wait(0.05)
            if time.monotonic() > deadline:
                pytest.fail(f"not within {timeout} s: {what}")
        return found

    def fence(self, topic: str | None = None) -> None:
        """Wait until all that this Producer sent is done: the actuator works in order."""
        command = {"action": "delete", "target": {"slpf:rule_number": 2_000_000_000}}
        reply = self.ask(command, topic, request_id=f"fence-{uuid.uuid4()}")
        assert reply.status == 500, reply

    def assert_silent(self, request_id: str | None, expected: int = 0) -> None:
        """Show that no more than `expected` responses to this came, and none will."""
        self.fence()
        assert len(self.of(request_id)) == expected, self.of(request_id)


_NAMES = (
    "PayloadFormatIndicator",
    "ContentType",
    "UserProperty",
    "CorrelationData",
    "ResponseTopic",
    "MessageExpiryInterval",
)


def _has(got: paho.MQTTMessage, name: str) -> bool:
    return got.properties is not None and hasattr(got.properties, name)


def _request_id(reply: Reply) -> str | None:
    try:
        return reply.headers.get("request_id")
    except Exception:  # noqa: BLE001 - whatever else goes over the broker
        return json.dumps(None)
