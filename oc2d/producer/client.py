"""The Producer: publishes requests and collects their responses."""

from __future__ import annotations

import time
from collections.abc import Iterator

from oc2d.engine.ports import Inbound
from oc2d.language.codec import Encoding, Tree
from oc2d.language.vocabulary import ResponseType
from oc2d.mqtt.topics import reply_topics
from oc2d.producer.messages import Request, compose
from oc2d.producer.replies import Reply, consumers, read_reply
from oc2d.producer.settings import ProducerSettings, producer_link
from oc2d.producer.wire import LinkError, Wire

__all__ = ["Producer"]


class Producer:
    """One Producer at one broker, connected while the context is entered.

    For instance::

        with Producer(settings) as producer:
            for reply in producer.request(command, command_topic(device="fw-7"), expect=1):
                print(reply.status)

    It subscribes to `oc2/rsp` and `oc2/rsp/<from>` before anything is published (MQTT-20, 21);
    `warnings` says where the broker did not let it. `timeout` (seconds) is for the broker's
    answers. Raises `LinkError`. To be used by one thread.
    """

    def __init__(self, settings: ProducerSettings, *, timeout: float = 5.0) -> None:
        self.settings = settings
        self.warnings: list[str] = []
        filters = reply_topics(settings.namespace, "both", settings.sender)
        self._wire = Wire(producer_link(settings, filters, timeout), timeout)

    def __enter__(self) -> Producer:  # noqa: PYI034 - Self needs Python 3.11
        self._wire.__enter__()
        general, *own = self._wire.subscribed.items()
        try:
            for topic, granted in (general, *own):
                if isinstance(granted, str):
                    text = f"the broker does not let us read responses on {topic}: {granted}"
                    if topic == general[0]:
                        raise LinkError(text)
                    self.warnings.append(text)
        except LinkError:
            self._wire.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._wire.__exit__()

    def request(  # noqa: PLR0913 - one call says it all
        self,
        command: Tree,
        topic: str,
        *,
        to: tuple[str, ...] = (),
        encoding: Encoding = Encoding.JSON,
        expect: int | None = None,
        timeout: float = 5.0,
    ) -> Iterator[Reply]:
        """Wrap and publish a command, unchecked, now; then yield its responses as `replies`."""
        sender = self.settings.sender
        made = compose(command, topic, sender=sender, to=to, encoding=encoding)
        self.publish(made)
        return self.replies(made, expect=expect, timeout=timeout)

    def publish(self, request: Request) -> None:
        """Publish, and wait until the broker has it."""
        self._wire.publish(request.topic, request.payload, request.encoding)

    @property
    def unmatched(self) -> bool:
        """Whether the broker said that nobody has subscribed to a topic published on (0x10)."""
        return self._wire.unmatched

    @property
    def last_loss(self) -> str | None:
        """Why the link was lost, if it ever was: responses that came meanwhile are lost."""
        return self._wire.last_loss

    def replies(
        self, request: Request, *, expect: int | None = None, timeout: float = 5.0
    ) -> Iterator[Reply]:
        """Yield the responses to `request` as they arrive, for `timeout` seconds at most.

        Ends sooner after final ones of `expect` Consumers, and at once when none was asked for. A
        102 is final only when the request asked for `ack`. All else that arrives is dropped.
        """
        if request.response is ResponseType.NONE:
            return
        deadline = time.monotonic() + timeout
        seen: dict[bytes, set[str]] = {}
        final: list[Reply] = []
        while expect is None or consumers(final) < expect:
            message = self._wire.receive(deadline)
            if message is None:
                return
            reply = read_reply(message)
            if reply is None or reply.request_id != request.request_id or _again(message, seen):
                continue
            if request.response is ResponseType.ACK or not reply.interim:
                final.append(reply)
            yield reply


def _again(message: Inbound, seen: dict[bytes, set[str]]) -> bool:
    """Tell a copy: redelivered, or the same bytes on the other response topic (AMB-3).

    Two Consumers that say the same on one topic are two responses.
    """
    topics = seen.setdefault(message.payload, set())
    copy = bool(topics) and (message.redelivered or message.topic not in topics)
    topics.add(message.topic)
    return copy
