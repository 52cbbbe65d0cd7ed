"""What a delivery says: steps 1 to 9 of REQUIREMENTS 2.6 as far as the message alone tells."""

from __future__ import annotations

from hashlib import blake2b

import msgspec
import structlog

from oc2d.config import Config
from oc2d.engine import events
from oc2d.engine.answers import ReplyTo, refused
from oc2d.engine.clock import Clock
from oc2d.engine.limits import Rate
from oc2d.engine.ports import Inbound
from oc2d.engine.records import Origin
from oc2d.engine.verdict import Answer, Drop, Memory
from oc2d.errors import BadRequest, Failed, Refusal
from oc2d.hookspecs import Request
from oc2d.language.codec import Encoding, InputLimits, Tree, decode, recognise
from oc2d.language.command import Dialect, OpenC2Command, fingerprint, parse_command
from oc2d.language.features import is_query_features
from oc2d.language.ids import Names
from oc2d.language.message import Envelope, Headers, MessageKind, open_envelope, salvage
from oc2d.language.vocabulary import ResponseType

__all__ = ["Asked", "Read", "Reader", "response_type"]

_log = structlog.get_logger("oc2d.engine")
_CONTENT_TYPE = "application/openc2"
_UNDECODABLE_PER_MINUTE = 60
_MOST_TOPICS = 1000  # that undecodable input is counted for; a wildcard brings any number
_AS_ACCEPTED = InputLimits(payload=1 << 30)  # limits of today are not for what was taken before


class Asked(msgspec.Struct, frozen=True):
    """A request for this Consumer.

    `request` None: its command cannot be parsed, and `wrong` says why; `content` is what it is made
    of. `memory` None: it changes nothing, so a duplicate may be answered anew: kilobytes not to
    remember.
    """

    message: Inbound
    headers: Headers
    content: Tree
    request: Request | None
    wrong: Refusal | None
    to: ReplyTo
    memory: Memory | None
    silent: bool


#: What a delivery says: most of it is a request, the rest is done with.
Read = Asked | Drop | Answer


class Reader:
    """Reads messages one at a time, on the engine's thread."""

    def __init__(self, id_names: Names, clock: Clock) -> None:
        self._id_names = id_names
        self._clock = clock
        self._undecodable: dict[str, Rate] = {}
        self._names: frozenset[str] = frozenset()

    def configure(self, config: Config, names: frozenset[str]) -> None:
        """Read by this from now on; `names` are all that a message may be addressed to."""
        compat = config.compat
        self._names = names
        self._accept_retained = config.broker.accept_retained
        self._bare = compat.bare_command
        self._dialect = Dialect(profile_field=compat.profile_field, strict_cidr=compat.strict_cidr)
        self._input = InputLimits(payload=config.limits.payload)

    def read(self, message: Inbound) -> Read:
        """Find out what a message says; raises nothing."""
        try:
            return self._read(message)
        except Exception:  # noqa: BLE001 - no input stops the daemon (LANG-44)
            _log.exception(events.MESSAGE_FAILED, topic=message.topic)
            return self.undecoded(message, Failed("internal error"))

    def reread(self, origin: Origin) -> OpenC2Command:
        """Parse a journalled request again, whatever the configuration says by now."""
        tree = decode(origin.payload, origin.encoding, _AS_ACCEPTED, self._id_names)
        envelope = open_envelope(tree, bare_command=True)
        return parse_command(envelope.content, origin.encoding, Dialect())

    def _read(self, message: Inbound) -> Read:
        if foreign := self._foreign(message):
            return Drop(foreign)
        try:
            encoding = _encoding(message)
            tree = decode(message.payload, encoding, self._input, self._id_names)
        except BadRequest as refusal:
            return self.undecoded(message, refusal)
        try:
            envelope = open_envelope(tree, bare_command=self._bare)
        except BadRequest as refusal:
            return self._malformed(message, encoding, tree, refusal)
        if envelope.kind is not MessageKind.REQUEST:
            return Drop("not a request")
        return self._request(message, encoding, envelope)

    def _foreign(self, message: Inbound) -> str | None:
        if message.message_type not in (None, "req"):
            return "not a request"
        if message.retained and not self._accept_retained:
            return "retained"
        return None

    def undecoded(self, message: Inbound, refusal: Refusal) -> Answer | Drop:
        """Answer one who said that it is OpenC2, and not a flood of them (LANG-45)."""
        if (message.content_type, message.message_type, message.encoding) == (None, None, None):
            return Drop(f"not OpenC2: {refusal.text}")
        if len(self._undecodable) >= _MOST_TOPICS:
            self._undecodable.clear()
        rate = self._undecodable.setdefault(message.topic, Rate(_UNDECODABLE_PER_MINUTE))
        if not rate.take(self._clock.monotonic()):
            return Drop("too much undecodable input")
        encoding = recognise(message.encoding, message.payload) or Encoding.JSON
        to = ReplyTo(None, None, encoding, message.correlation)
        return Answer(refused(refusal), to, durable=False)

    def _malformed(
        self, message: Inbound, encoding: Encoding, tree: Tree, refusal: BadRequest
    ) -> Answer | Drop:
        left = salvage(tree)
        if not left.is_request:
            return Drop("not a request")
        if not self._named(left.to):
            return Drop("for others")
        to = ReplyTo(left.request_id, left.sender, encoding, message.correlation)
        return Answer(refused(refusal), to, silent=left.silent)

    def _request(self, message: Inbound, encoding: Encoding, envelope: Envelope) -> Read:
        headers, content = envelope.headers, envelope.content
        if not self._named(headers.to):
            return Drop("for others")
        to = ReplyTo(headers.request_id, headers.sender, encoding, message.correlation)
        command, wrong = self._parsed(content, encoding)
        request = None
        if command is not None:
            request = Request(headers.request_id, headers.sender, message.topic, None, command)
        memory = None
        if command is None or not is_query_features(command):
            memory = _memory(message, headers, fingerprint(content, command))
        silent = _silent(command, content)
        return Asked(message, headers, content, request, wrong, to, memory, silent)

    def _named(self, to: tuple[str, ...]) -> bool:
        return not to or not self._names.isdisjoint(to)

    def _parsed(
        self, content: Tree, encoding: Encoding
    ) -> tuple[OpenC2Command | None, Refusal | None]:
        try:
            return parse_command(content, encoding, self._dialect), None
        except Refusal as refusal:
            return None, refusal


def _encoding(message: Inbound) -> Encoding:
    """Find the encoding: what the properties say, else the first byte (AMB-15)."""
    if message.content_type not in (None, _CONTENT_TYPE):
        raise BadRequest(f"content type is not {_CONTENT_TYPE}")
    encoding = recognise(message.encoding, message.payload)
    if encoding is None:
        what = "the payload is neither JSON nor CBOR"
        raise BadRequest(what if message.encoding is None else "encoding is neither json nor cbor")
    return encoding


def _memory(message: Inbound, headers: Headers, body: bytes) -> Memory:
    digest = blake2b(message.payload, digest_size=16).digest()
    if headers.request_id is None:
        return Memory(None, message.token.packet_id, digest)
    sender = headers.sender or ""
    who = f"{len(sender)} {sender}{headers.request_id}".encode("utf-8", "surrogatepass")
    return Memory(blake2b(who, digest_size=8).digest() + body[:8], message.token.packet_id, digest)


def response_type(command: OpenC2Command) -> ResponseType:
    """Tell which responses are asked for (LANG-29 to 32)."""
    asked = command.args.response_requested if command.args else None
    return asked or ResponseType.COMPLETE


def _silent(command: OpenC2Command | None, content: Tree) -> bool:
    """Tell whether `response_requested: none` forbids every answer (AMB-17)."""
    if command is not None:
        return response_type(command) is ResponseType.NONE
    args = content.get("args") if isinstance(content, dict) else None
    return isinstance(args, dict) and args.get("response_requested") == "none"
