"""What becomes of a delivered message, as values: what the gate decides and the engine does."""

from __future__ import annotations

import msgspec

from oc2d.actuator import Command
from oc2d.engine.answers import ReplyTo
from oc2d.engine.records import Known, Origin
from oc2d.engine.selection import Hosted
from oc2d.hookspecs import Request
from oc2d.language.response import OpenC2Response
from oc2d.language.vocabulary import ResponseType

__all__ = ["Admit", "Answer", "Drop", "Memory", "Repeat", "Verdict"]


class Memory(msgspec.Struct, frozen=True):
    """By what a duplicate will be known: a key, or the delivery when there is no request id."""

    key: bytes | None
    packet_id: int
    digest: bytes


class Drop(msgspec.Struct, frozen=True):
    """Nothing is done and nothing sent."""

    reason: str


class Answer(msgspec.Struct, frozen=True):
    """It ends here, with this response; `memory` None: it is not remembered.

    `durable` False is best effort: no journal, no promise (AMB-21).
    """

    response: OpenC2Response
    to: ReplyTo
    request: Request | None = None
    memory: Memory | None = None
    silent: bool = False
    durable: bool = True


class Repeat(msgspec.Struct, frozen=True):
    """A duplicate: its stored response once more, or nothing while the original runs."""

    known: Known
    to: ReplyTo
    request: Request | None
    silent: bool


class Admit(msgspec.Struct, frozen=True):
    """A command for an actuator."""

    host: Hosted
    command: Command
    origin: Origin
    to: ReplyTo
    request: Request
    response_type: ResponseType
    memory: Memory
    reused_id: bool
    guessed: bool


Verdict = Drop | Answer | Repeat | Admit
