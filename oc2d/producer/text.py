"""Replies and traffic for people and for programs. What came from others is made printable."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Callable
from typing import Any

from oc2d.engine.ports import Inbound
from oc2d.errors import BadRequest
from oc2d.language.codec import Encoding, Tree
from oc2d.language.values import Binary
from oc2d.producer.replies import Reply, decode_leniently
from oc2d.terminal import printable

__all__ = ["reply_line", "reply_object", "to_json", "traffic_line", "traffic_object"]

_FEATURES = ("versions", "profiles", "pairs", "rate_limit")
_GLANCE = 200


def to_json(tree: Tree) -> str:
    """Write a tree on one line; byte strings become base64url."""
    return json.dumps(tree, default=lambda octets: Binary(octets).tree(Encoding.JSON))


def reply_line(reply: Reply, width: int = 0, paint: Callable[[str], str] = str) -> str:
    """Describe a reply: who, status, text, what profiles report; features on lines of their own.

    `width` is that of the first column; `paint` colours the status.
    """
    results = reply.results
    who = printable(reply.sender or "?").ljust(width)
    status = paint("no status" if reply.status is None else str(reply.status))
    parts = []
    if reply.status_text:
        parts.append(reply.status_text)
    lines: list[str] = []
    if isinstance(results, dict):
        parts += [_own(name, own) for name, own in results.items() if name not in _FEATURES]
        lines = [line for name in _FEATURES if name in results for line in _feature(name, results)]
    elif results is not None:
        parts.append(to_json(results))
    said = "  ".join([who, status, *map(printable, parts)])
    return "\n".join([said, *map(printable, lines)])


def _own(name: str, own: Tree) -> str:
    if not isinstance(own, dict):
        return f"{name}={to_json(own)}"
    return "  ".join(
        f"{key}={value}" if isinstance(value, (int, str)) else f"{key}={to_json(value)}"
        for key, value in own.items()
    )


def _feature(name: str, results: dict[str, Tree]) -> list[str]:
    """Describe a feature on a line, pairs on a line for each action."""
    value = results[name]
    if not isinstance(value, dict):
        return [f"    {name:<10}  {_names(value)}"]
    actions = [f"{action}: {_names(targets)}" for action, targets in value.items()] or ["none"]
    return [f"    {name if at == 0 else '':<10}  {action}" for at, action in enumerate(actions)]


def _names(value: Tree) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    return str(value)


def reply_object(reply: Reply) -> dict[str, Any]:
    """Give a reply for `--json`; what it has not is left out."""
    members = {
        "from": reply.sender,
        "status": reply.status,
        "status_text": reply.status_text,
        "results": reply.results,
        "request_id": reply.request_id,
        "created": reply.created,
        "topic": reply.topic,
        "warnings": list(reply.warnings) or None,
    }
    return {name: value for name, value in members.items() if value is not None}


def traffic_object(message: Inbound, at: float) -> dict[str, Any]:
    """Give a delivery for `watch --json`: what was said, or the payload where that is unreadable.

    `at` is in seconds since 1970.
    """
    members: dict[str, Any] = {
        "time": int(at * 1000),
        "topic": message.topic,
        "qos": message.token.qos,
        "retained": message.retained or None,
        "msgType": message.message_type,
        "encoding": message.encoding,
        "content_type": message.content_type,
    }
    try:
        members["message"] = decode_leniently(message)
    except BadRequest as error:
        members |= {"error": error.text, "payload": message.payload}
    return {name: value for name, value in members.items() if value is not None}


def traffic_line(message: Inbound, at: float) -> str:
    """Describe a delivery on one line: time, topic, who to whom, what."""
    clock = dt.datetime.fromtimestamp(at).astimezone().isoformat(" ", "milliseconds")[11:23]
    try:
        what = _said(decode_leniently(message))
    except BadRequest as error:
        what = f"unreadable: {error.text}: {message.payload[:_GLANCE]!r}"
    return printable(f"{clock}  {message.topic}  {what}{'  RETAINED' * message.retained}")


def _said(tree: Tree) -> str:
    headers, openc2 = _object(_object(tree).get("headers")), _object(_object(tree).get("body"))
    openc2 = _object(openc2.get("openc2"))
    who = str(headers.get("from", "?"))
    if to := headers.get("to"):
        who += f" -> {', '.join(map(str, to)) if isinstance(to, list) else to}"
    tail = f"  [{headers['request_id']}]" if "request_id" in headers else ""
    request, response = _object(openc2.get("request")), _object(openc2.get("response"))
    if request:
        return f"{who}  {_command(request)}{tail}"
    if response:
        text = response.get("status_text")
        parts = [str(response.get("status")), *([str(text)] if text else [])]
        if response.get("results"):
            parts.append(to_json(response["results"]))
        return f"{who}  {'  '.join(parts)}{tail}"
    return f"{who}  {to_json(tree)}"


def _command(request: dict[str, Tree]) -> str:
    parts = [str(request.get("action"))]
    for name, value in _object(request.get("target")).items():
        parts += [name, value if isinstance(value, str) else to_json(value)]
    parts += [
        f"{name}={to_json(request[name])}"
        for name in ("args", "actuator", "profile")
        if name in request
    ]
    return " ".join(parts)


def _object(tree: Tree) -> dict[str, Tree]:
    return tree if isinstance(tree, dict) else {}
