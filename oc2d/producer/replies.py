"""Deliveries on the response topics, read leniently (LANG-42), with what is odd about them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from oc2d.engine.ports import Inbound
from oc2d.errors import BadRequest
from oc2d.language.codec import InputLimits, Tree, decode, guess, recognise
from oc2d.language.message import Headers, MessageKind, open_envelope, salvage
from oc2d.language.response import parse_response
from oc2d.language.vocabulary import StatusCode

__all__ = ["Reply", "consumers", "decode_leniently", "read_reply"]

_LIMITS = InputLimits(payload=16 << 20, items=1 << 20)  # `pairs` of a large Consumer
_SUCCESS = range(200, 300)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """One response; `status` None: it says none, so it counts as a failure.

    `created` is as it was sent; `warnings` tell where the response departs from the
    specifications.
    """

    topic: str
    sender: str | None
    request_id: str | None
    created: int | float | str | None = None
    status: int | None
    status_text: str | None = None
    results: Tree = None
    warnings: tuple[str, ...] = ()

    @property
    def interim(self) -> bool:
        """Whether it is a 102: accepted, not finished."""
        return self.status == StatusCode.PROCESSING

    @property
    def succeeded(self) -> bool:
        """Whether the command was carried out: decided by the status alone (LANG-41)."""
        return self.status in _SUCCESS


def consumers(replies: Iterable[Reply]) -> int:
    """Count who answered: one who repeats itself counts once, one without a name each time."""
    senders = [reply.sender for reply in replies]
    return len({*senders} - {None}) + senders.count(None)


def decode_leniently(message: Inbound) -> Tree:
    """Decode in the encoding that the properties or the first byte tell; raises `BadRequest`."""
    encoding = recognise(message.encoding, message.payload) or guess(message.payload)
    if encoding is None:
        raise BadRequest("neither JSON nor CBOR")
    return decode(message.payload, encoding, _LIMITS)


def read_reply(message: Inbound) -> Reply | None:
    """Read a delivery; None when it is no response at all."""
    try:
        tree = decode_leniently(message)
    except BadRequest:
        return None
    odd = _oddities(message)
    try:
        envelope = open_envelope(tree)
    except BadRequest as error:
        left = salvage(tree)
        if left.is_request:
            return None
        return Reply(
            topic=message.topic,
            sender=left.sender,
            request_id=left.request_id,
            status=None,
            warnings=(*odd, error.text),
        )
    if envelope.kind is not MessageKind.RESPONSE:
        return None
    if envelope.headers.sender is None:
        odd = (*odd, "headers.from is missing")
    return _of_response(message.topic, envelope.headers, envelope.content, odd)


def _of_response(topic: str, headers: Headers, content: Tree, odd: tuple[str, ...]) -> Reply:
    status, text, results = None, None, None
    try:
        response = parse_response(content)
    except BadRequest as error:
        odd = (*odd, error.text)
    else:
        status, text, results = response.status, response.status_text, response.results
        odd = (*odd, *response.warnings)
    return Reply(
        topic=topic,
        sender=headers.sender,
        request_id=headers.request_id,
        created=headers.created,
        status=status,
        status_text=text,
        results=results,
        warnings=odd,
    )


def _oddities(message: Inbound) -> tuple[str, ...]:
    """Say what the transfer specification wants otherwise (MQTT-29 to 34)."""
    odd = []
    if message.token.qos == 0:
        odd.append("sent at QoS 0")
    if message.retained:
        odd.append("sent with RETAIN")
    if message.properties:
        for name, value, wanted in (
            ("msgType", message.message_type, ("rsp",)),
            ("encoding", message.encoding, ("json", "cbor")),
            ("Content Type", message.content_type, ("application/openc2",)),
        ):
            if value not in wanted:
                odd.append(f"{name} is {'missing' if value is None else repr(value[:64])}")
    return tuple(odd)
