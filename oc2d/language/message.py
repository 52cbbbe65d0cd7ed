"""The wrapper around commands and responses: headers, body, signature (MQTT-42 to 46)."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from enum import Enum

import msgspec

from oc2d.errors import BadRequest
from oc2d.language.codec import Tree
from oc2d.language.reading import shown

__all__ = [
    "Envelope",
    "Headers",
    "MessageKind",
    "Salvage",
    "created_ms",
    "open_envelope",
    "salvage",
    "wrap_request",
    "wrap_response",
]

_SECONDS_BELOW = 100_000_000_000


class MessageKind(str, Enum):
    """The member of `body.openc2` that is there (AMB-47)."""

    REQUEST = "request"
    RESPONSE = "response"
    NOTIFICATION = "notification"


_KINDS = {kind.value: kind for kind in MessageKind}


class Headers(msgspec.Struct, frozen=True):
    """Who, when, which; `sender` is `from` on the wire. Nothing here is proven (LANG-9)."""

    request_id: str | None = None
    created: int | float | str | None = None
    sender: str | None = None
    to: tuple[str, ...] = ()


class Envelope(msgspec.Struct, frozen=True):
    """A message whose wrapper is right; `content` is still a tree."""

    headers: Headers
    kind: MessageKind
    content: Tree
    signature: str | None = None


@dataclass(frozen=True, slots=True)
class Salvage:
    """What can still be read of a broken message, so that its answer can be addressed.

    `silent`: no answer is wanted (AMB-17). `is_request` is False for what has the shape of a
    response or a notification: it is never answered (MQTT-46).
    """

    request_id: str | None
    sender: str | None
    silent: bool
    to: tuple[str, ...]
    is_request: bool


def open_envelope(tree: Tree, *, bare_command: bool = False) -> Envelope:
    """Check the wrapper; raises `BadRequest` with the place.

    Unknown members of the headers and of the message are ignored, everything else is strict
    (AMB-6, AMB-13, AMB-22). With `bare_command` a command without a wrapper is taken too (AMB-8).
    """
    if not isinstance(tree, dict):
        raise BadRequest(f"a message is an object, not {shown(tree)}", path="$")
    if "body" not in tree:
        if bare_command and "action" in tree and "headers" not in tree:
            return Envelope(Headers(), MessageKind.REQUEST, tree)
        raise BadRequest("missing body: a message is headers and body.openc2.request", path="$")
    headers = _headers(tree["headers"]) if "headers" in tree else Headers()
    signature = tree.get("signature")
    if "signature" in tree and not isinstance(signature, str):
        raise BadRequest("a signature is text", path="$.signature")
    content = _only_member(tree["body"], ("openc2",), "$.body")[1]
    kind, content = _only_member(content, _KINDS, "$.body.openc2")
    return Envelope(headers, _KINDS[kind], content, signature)


def _only_member(tree: Tree, allowed: Collection[str], path: str) -> tuple[str, Tree]:
    """Read a choice: an object with exactly one member, of these names."""
    if isinstance(tree, dict) and len(tree) == 1:
        ((name, member),) = tree.items()
        if name in allowed:
            return name, member
    names = " or ".join(allowed)
    if not isinstance(tree, dict):
        raise BadRequest(f"an object with {names} belongs here, not {shown(tree)}", path=path)
    for name in tree:
        if name not in allowed:
            raise BadRequest(f"{shown(name)} does not belong here, only {names}", path=path)
    raise BadRequest(f"exactly one member is needed: {names}", path=path)


def _headers(tree: Tree) -> Headers:
    path = "$.headers"
    if not isinstance(tree, dict):
        raise BadRequest(f"headers are an object, not {shown(tree)}", path=path)
    for name in ("request_id", "from"):
        if name in tree and not isinstance(tree[name], str):
            raise BadRequest(f"text expected, not {shown(tree[name])}", path=f"{path}.{name}")
    created = tree.get("created")
    if "created" in tree and (isinstance(created, bool) or not isinstance(created, _CREATED)):
        raise BadRequest(f"a time expected, not {shown(created)}", path=f"{path}.created")
    to = tree.get("to", [])
    if isinstance(to, str):
        to = [to]
    if not isinstance(to, list) or not all(isinstance(name, str) for name in to):
        raise BadRequest("a list of names expected", path=f"{path}.to")
    return Headers(tree.get("request_id"), created, tree.get("from"), tuple(to))


_CREATED = (int, float, str)


def salvage(tree: Tree) -> Salvage:
    """Read what can be read of any tree; never raises.

    A `request_id` that is a number is given as text (AMB-62). `response_requested` is looked for
    where it belongs, where a common mistake puts it (AMB-6), and in a bare command.
    """
    message = _object(tree)
    headers = _object(message.get("headers"))
    body = _object(message.get("body"))
    openc2 = _object(body.get("openc2"))
    request_id, sender, to = (headers.get(name) for name in ("request_id", "from", "to"))
    if isinstance(request_id, (int, float)) and not isinstance(request_id, bool):
        request_id = str(request_id)
    names = to if isinstance(to, list) else [to]
    places = (_object(openc2.get("request")), openc2, body, message)
    return Salvage(
        request_id=request_id if isinstance(request_id, str) else None,
        sender=sender if isinstance(sender, str) else None,
        silent=any(
            _object(place.get("args")).get("response_requested") == "none" for place in places
        ),
        to=tuple(name for name in names if isinstance(name, str)),
        is_request="request" in openc2
        or not ("response" in openc2 or "notification" in openc2 or "status" in message),
    )


def _object(tree: Tree) -> dict[str, Tree]:
    return tree if isinstance(tree, dict) else {}


def wrap_request(command: Tree, headers: Headers) -> Tree:
    """Wrap a command for sending."""
    return _wrapped(MessageKind.REQUEST, command, headers)


def wrap_response(response: Tree, headers: Headers) -> Tree:
    """Wrap a response for sending."""
    return _wrapped(MessageKind.RESPONSE, response, headers)


def _wrapped(kind: MessageKind, content: Tree, headers: Headers) -> Tree:
    members: dict[str, Tree] = {}
    if headers.request_id is not None:
        members["request_id"] = headers.request_id
    if headers.created is not None:
        members["created"] = headers.created
    if headers.sender is not None:
        members["from"] = headers.sender
    if headers.to:
        members["to"] = list(headers.to)
    body = {"openc2": {kind.value: content}}
    return {"headers": members, "body": body} if members else {"body": body}


def created_ms(created: float | str | None) -> int | None:
    """Read `created` as milliseconds since the epoch, None if it says no time (AMB-19).

    Small numbers are seconds, as several samples and tools send them. For age checks only: the
    times that have an effect are never guessed.
    """
    if created is None:
        return None
    try:
        number = float(created)
        return int(number * 1000 if number < _SECONDS_BELOW else number)
    except (ValueError, OverflowError):  # no number, not finite, beyond all floats
        return None
