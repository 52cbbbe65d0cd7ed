"""Requests as they go out: payload, topic, and what is needed to know the responses."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass

from oc2d.errors import BadRequest, UsageError
from oc2d.language.codec import Encoding, InputLimits, Tree, decode, encode, recognise
from oc2d.language.message import Headers, MessageKind, open_envelope, salvage, wrap_request
from oc2d.language.vocabulary import ResponseType
from oc2d.mqtt.topics import common_topic, device_topic, is_level, profile_topic

__all__ = ["Request", "command_topic", "compose", "compose_file", "compose_raw"]

#: Turns a command into what goes out, or refuses it.
Check = Callable[[Tree], Tree]


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One message ready to publish; its responses carry `request_id`.

    `sender` is its `headers.from`; `response` what it asks for, None where it cannot be read.
    """

    topic: str
    payload: bytes
    encoding: Encoding
    request_id: str | None
    sender: str | None
    response: ResponseType | None


def command_topic(
    namespace: str = "", *, device: str | None = None, profile: str | None = None
) -> str:
    """Name one of the three kinds of command topic (MQTT-22); neither of the two: all Consumers."""
    name = profile if device is None else device
    if name is not None and not is_level(name):
        raise UsageError(f"{name!r} cannot be a level of a topic: no /, +, #, control characters")
    if device is not None:
        return device_topic(namespace, device)
    return common_topic(namespace) if profile is None else profile_topic(namespace, profile)


def compose(
    command: Tree,
    topic: str,
    *,
    sender: str,
    to: tuple[str, ...] = (),
    encoding: Encoding = Encoding.JSON,
) -> Request:
    """Wrap a command: a UUID4 as request id, `created` in milliseconds (LANG-2, 3, 7; MQTT-36)."""
    headers = Headers(str(uuid.uuid4()), _now(), sender, to)
    return _request(wrap_request(command, headers), topic, encoding)


def compose_file(  # noqa: PLR0913 - what a command line says
    data: bytes,
    topic: str,
    *,
    sender: str,
    to: tuple[str, ...],
    encoding: Encoding,
    check: Check,
) -> Request:
    """Make a request of a JSON file: a bare command, or a message whose headers are kept.

    `request_id`, `created` and `from` are added where they are missing. Raises `BadRequest`.
    """
    tree = decode(data, Encoding.JSON, InputLimits())
    if not isinstance(tree, dict):
        raise BadRequest("the file holds neither a command nor a message")
    if "body" not in tree and "headers" not in tree:
        return compose(check(tree), topic, sender=sender, to=to, encoding=encoding)
    envelope = open_envelope(tree)
    if envelope.kind is not MessageKind.REQUEST:
        raise BadRequest(f"the file holds a {envelope.kind.value}; only requests are sent")
    added = {"request_id": str(uuid.uuid4()), "created": _now(), "from": sender}
    headers = {**added, **tree.get("headers", {}), **({"to": list(to)} if to else {})}
    body = {"openc2": {"request": check(envelope.content)}}
    return _request({**tree, "headers": headers, "body": body}, topic, encoding)


def compose_raw(data: bytes, topic: str, *, encoding: Encoding) -> Request:
    """Take the bytes as they are; what can be read of them tells which responses are ours."""
    try:
        form = recognise(encoding.announced, data) or encoding
        tree = decode(data, form, InputLimits(payload=len(data)))
    except BadRequest:
        tree = None
    return _described(tree, topic, data, encoding)


def _request(message: Tree, topic: str, encoding: Encoding) -> Request:
    return _described(message, topic, encode(message, encoding), encoding)


def _described(tree: Tree, topic: str, payload: bytes, encoding: Encoding) -> Request:
    left = salvage(tree)
    return Request(
        topic=topic,
        payload=payload,
        encoding=encoding,
        request_id=left.request_id,
        sender=left.sender,
        response=ResponseType.NONE if left.silent else _wanted(tree),
    )


def _wanted(tree: Tree) -> ResponseType | None:
    try:
        return ResponseType(tree["body"]["openc2"]["request"]["args"]["response_requested"])
    except (KeyError, TypeError, ValueError):
        return None


def _now() -> int:
    return time.time_ns() // 1_000_000
