"""A target on its way through an encoding."""

from __future__ import annotations

from oc2d.language.codec import Encoding, InputLimits, decode, encode
from oc2d.language.command import parse_command
from oc2d.language.message import Headers, open_envelope, wrap_request


def read(name, value, encoding=Encoding.JSON):
    message = wrap_request({"action": "deny", "target": {name: value}}, Headers())
    return received(encode(message, encoding), encoding)


def received(payload, encoding):
    return parse_command(open_envelope(decode(payload, encoding, InputLimits())).content, encoding)
