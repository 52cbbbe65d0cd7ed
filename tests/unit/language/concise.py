"""Messages in concise CBOR, written by hand and read."""

from __future__ import annotations

import cbor2

from oc2d.language.codec import Encoding, InputLimits, decode
from oc2d.language.command import parse_command
from oc2d.language.message import open_envelope

LIMITS = InputLimits()
ACTIONS = {
    1: "scan",
    2: "locate",
    3: "query",
    6: "deny",
    7: "contain",
    8: "allow",
    9: "start",
    10: "stop",
    11: "restart",
    14: "cancel",
    15: "set",
    16: "update",
    18: "redirect",
    19: "create",
    20: "delete",
    22: "detonate",
    23: "restore",
    28: "copy",
    30: "investigate",
    32: "remediate",
}
NET4 = [b"\x0a\0\0\0", 8]


def message(command, headers=None):
    return [headers, {1: {1: command}}]


def received(payload, names=None):
    more = () if names is None else (names,)
    return open_envelope(decode(payload, Encoding.CONCISE, LIMITS, *more))


def parsed(command):
    content = received(cbor2.dumps(message(command))).content
    return parse_command(content, Encoding.CONCISE)
