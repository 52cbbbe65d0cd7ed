"""The order of checks: what becomes of one delivered message (REQUIREMENTS 2.6).

`Gate.judge` reads; it writes nothing. What it returns says all that the engine has to do.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from dataclasses import replace
from hashlib import blake2b

import msgspec
import structlog

from oc2d.config import Config, Limits
from oc2d.engine import events
from oc2d.engine.answers import ReplyTo, refused
from oc2d.engine.clock import Clock
from oc2d.engine.hooks import Hooks
from oc2d.engine.journal import Journal, Known, Origin
from oc2d.engine.limits import Load, Rate
from oc2d.engine.ports import Channel, Inbound
from oc2d.engine.selection import Choice, Hosted, Mismatch, capabilities, compose, select
from oc2d.engine.verdict import Admit, Answer, Drop, Memory, Repeat, Verdict
from oc2d.engine.window import Window, window_of
from oc2d.errors import (
    BadRequest,
    Failed,
    Forbidden,
    NoMatch,
    NotSupported,
    Refusal,
    Unauthorized,
    Unavailable,
)
from oc2d.hookspecs import Request
from oc2d.language.codec import Encoding, InputLimits, Tree, decode, recognise
from oc2d.language.command import Dialect, OpenC2Command, fingerprint, parse_command
from oc2d.language.features import answer_features, is_query_features
from oc2d.language.ids import Names
from oc2d.language.message import (
    Envelope,
    Headers,
    MessageKind,
    created_ms,
    open_envelope,
    salvage,
)
from oc2d.language.vocabulary import ResponseType

__all__ = ["Gate"]

_log = structlog.get_logger("oc2d.engine")
_CONTENT_TYPE = "application/openc2"
_UNDECODABLE_PER_MINUTE = 60
_MOST_HELD = 64 << 20  # bytes of open requests; what is made of them takes as much again, or twice
_MOST_WINDOWS = 100_000  # about 2 kB each in memory, for as long as they are open
_MOST_TOPICS = 1000  # that undecodable input is counted for; a wildcard brings any number
_AS_ACCEPTED = InputLimits(payload=1 << 30)  # limits of today are not for what was taken before


class _Asked(msgspec.Struct, frozen=True):
    """The facts gathered on the way."""

    message: Inbound
    headers: Headers
    request: Request
    to: ReplyTo
    memory: Memory | None
    silent: bool


class Gate:
    """Judges messages one at a time, on the engine's thread."""

    def __init__(  # noqa: PLR0913 - the parts it looks at
        self,
        *,
        config: Config,
        hosted: Mapping[str, Hosted],
        subscribed: frozenset[str],
        device_topic: str,
        id_names: Names,
        journal: Journal,
        hooks: Hooks,
        clock: Clock,
        load: Load,
    ) -> None:
        self._device_topic = device_topic
        self._id_names = id_names
        self._journal = journal
        self._hooks = hooks
        self._clock = clock
        self._load = load
        self._limits = Limits()
        self._rate: Rate | None = None
        self._undecodable: dict[str, Rate] = {}
        self.configure(config, hosted, subscribed)

    def configure(
        self, config: Config, hosted: Mapping[str, Hosted], subscribed: frozenset[str]
    ) -> None:
        """Judge by this from now on; `hosted` in the order in which actuators are asked."""
        self._names = subscribed | {config.device_id, config.sender}
        self._shared = subscribed - {self._device_topic}
        limits, compat = config.limits, config.compat
        if limits.rate_per_minute != self._limits.rate_per_minute:
            self._rate = Rate(limits.rate_per_minute) if limits.rate_per_minute else None
        self._accept_retained = config.broker.accept_retained
        self._limits = limits
        self._policy = config.policy
        self._bare = compat.bare_command
        self._dialect = Dialect(profile_field=compat.profile_field, strict_cidr=compat.strict_cidr)
        self._input = InputLimits(payload=limits.payload)
        self._hosted = hosted
        self._capabilities = capabilities(tuple(hosted.values()), limits.rate_per_minute)

    def judge(self, message: Inbound) -> Verdict:
        """Decide what becomes of a message; raises nothing but errors of the journal."""
        try:
            return self._judge(message)
        except sqlite3.Error:
            raise
        except Exception:  # noqa: BLE001 - no input stops the daemon (LANG-44)
            _log.exception(events.MESSAGE_FAILED, topic=message.topic)
            return self._undecoded(message, Failed("internal error"))

    def _judge(self, message: Inbound) -> Verdict:
        if foreign := self._foreign(message):
            return Drop(foreign)
        try:
            encoding = _encoding(message)
            tree = decode(message.payload, encoding, self._input, self._id_names)
        except BadRequest as refusal:
            return self._undecoded(message, refusal)
        try:
            envelope = open_envelope(tree, bare_command=self._bare)
        except BadRequest as refusal:
            return self._malformed(message, encoding, tree, refusal)
        if envelope.kind is not MessageKind.REQUEST:
            return Drop("not a request")
        return self._request(message, encoding, envelope)

    def reread(self, origin: Origin) -> OpenC2Command:
        """Parse a journalled request again, whatever the configuration says by now."""
        tree = decode(origin.payload, origin.encoding, _AS_ACCEPTED, self._id_names)
        envelope = open_envelope(tree, bare_command=True)
        return parse_command(envelope.content, origin.encoding, Dialect())

    def taken(self) -> int:
        """A mark in the rate limit: for `untake`, when what was judged could not be kept."""
        return self._rate.total if self._rate else 0

    def untake(self, mark: int) -> None:
        """Take back what was counted since."""
        if self._rate:
            self._rate.back_to(mark)

    # -- steps 1 to 4: is it a request at all?

    def _foreign(self, message: Inbound) -> str | None:
        if message.message_type not in (None, "req"):
            return "not a request"
        if message.retained and not self._accept_retained:
            return "retained"
        return None

    def _undecoded(self, message: Inbound, refusal: Refusal) -> Verdict:
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
    ) -> Verdict:
        left = salvage(tree)
        if not left.is_request:
            return Drop("not a request")
        if not self._named(left.to):
            return Drop("for others")
        to = ReplyTo(left.request_id, left.sender, encoding, message.correlation)
        return Answer(refused(refusal), to, silent=left.silent)

    # -- steps 5 to 9: who asks, and for what?

    def _request(  # noqa: PLR0911 - one for each step
        self, message: Inbound, encoding: Encoding, envelope: Envelope
    ) -> Verdict:
        headers = envelope.headers
        if not self._named(headers.to):
            return Drop("for others")
        to = ReplyTo(headers.request_id, headers.sender, encoding, message.correlation)
        command, wrong = self._parsed(envelope.content, encoding)
        silent = _silent(command, envelope.content)
        request = (
            None
            if command is None
            else Request(headers.request_id, headers.sender, message.topic, None, command)
        )
        try:
            self._permit(headers)
        except Refusal as refusal:
            return Answer(refused(refusal), to, request, silent=silent)
        asks = command is not None and is_query_features(command)
        # changes nothing, so a duplicate may be answered anew: kilobytes not to remember
        memory = None if asks else _memory(message, headers, fingerprint(envelope.content, command))
        known = self._known(message, memory) if memory else None
        if known is not None:
            return Repeat(known, to, request, silent)
        try:
            self._room(headers.sender, len(message.payload))
        except Unavailable as refusal:
            return Answer(refused(refusal), to, request, silent=silent)
        if request is not None:
            return self._command(_Asked(message, headers, request, to, memory, silent))
        told = self._unread(message, envelope, wrong or BadRequest("no command"))
        if told is None:
            return Drop("for another actuator")
        return Answer(refused(told), to, None, memory, silent)

    def _unread(self, message: Inbound, envelope: Envelope, wrong: Refusal) -> Refusal | None:
        """Tell what is wrong with a command; None: it is not ours to tell (AMB-23).

        One that the language does not support is still no reason to answer for another actuator.
        """
        if not (isinstance(wrong, NotSupported) and self._elsewhere(message, envelope.content)):
            return wrong
        directed = self._directed(message, envelope.headers.to)
        return NoMatch("No matching actuator") if directed else None

    def _named(self, to: tuple[str, ...]) -> bool:
        return not to or not self._names.isdisjoint(to)

    def _parsed(
        self, content: Tree, encoding: Encoding
    ) -> tuple[OpenC2Command | None, Refusal | None]:
        try:
            return parse_command(content, encoding, self._dialect), None
        except Refusal as refusal:
            return None, refusal

    def _permit(self, headers: Headers) -> None:
        policy = self._policy
        if policy.producers is not None:
            if headers.sender is None:
                raise Unauthorized("headers.from is missing")
            if headers.sender not in policy.producers:
                raise Forbidden("this Producer may not command this Consumer")
        if policy.max_age is not None:
            created = created_ms(headers.created)
            if created is None:
                raise Forbidden("headers.created is missing")
            if created < self._clock.wall() - policy.max_age * 1000:
                raise Forbidden(f"the command is older than {policy.max_age} seconds")

    def _known(self, message: Inbound, memory: Memory) -> Known | None:
        if memory.key is not None:
            return self._journal.known(memory.key)
        if message.redelivered:
            return self._journal.delivery(memory.packet_id, memory.digest)
        return None

    def _room(self, producer: str | None, size: int) -> None:
        limits = self._limits
        full = self._load.queued() >= limits.queue
        if full or self._load.held() + size > max(_MOST_HELD, limits.payload):
            raise Unavailable("the queue is full")
        share = limits.queue_per_producer
        if share is not None and self._load.queued_by(producer) >= share:
            raise Unavailable("this Producer's share of the queue is full")
        if self._journal.remembered >= limits.remember_count:
            raise Unavailable("too many requests to remember")
        if self._rate is not None and not self._rate.take(self._clock.monotonic()):
            raise Unavailable("rate limit exceeded")

    def _room_to_wait(self, producer: str | None, size: int) -> None:
        """Leave half of the room to what does not wait for a start time: that may be for years."""
        limits, waiting = self._limits, self._load.deferred()
        share = limits.queue_per_producer or limits.queue
        if (
            len(waiting) >= max(1, limits.queue // 2)
            or sum(1 for whose, _ in waiting if whose == producer) >= max(1, share // 2)
            or sum(held for _, held in waiting) + size > max(_MOST_HELD // 2, limits.payload)
        ):
            raise Unavailable("too many commands wait for their start time")

    # -- steps 9 to 12: for which actuator, and can it?

    def _command(self, asked: _Asked) -> Verdict:
        command, to, memory = asked.request.command, asked.to, asked.memory
        request = asked.request
        answer: Refusal
        try:
            choice = self._choice(command, asked)
            if isinstance(choice, Choice) and choice.host is not None:
                request = replace(request, profile=choice.host.nsid)
            if refusal := self._hooks.authorise(request):
                raise refusal
            if not isinstance(choice, Choice):
                raise choice
            if choice.host is None or memory is None:
                response = answer_features(command, self._capabilities)
                return Answer(response, to, request, None, asked.silent)
            return self._admit(asked, request, choice, choice.host, memory)
        except Mismatch:
            if not self._directed(asked.message, asked.headers.to):
                return Drop("for another actuator")
            answer = NoMatch("No matching actuator")
        except Refusal as refusal:
            answer = refusal
        except sqlite3.Error:
            raise
        except BaseException:  # noqa: BLE001 - any plugin, any error
            _log.exception(events.MESSAGE_FAILED, topic=asked.message.topic)
            answer = Failed("internal error")
        kept = None if isinstance(answer, Unavailable) else memory
        return Answer(refused(answer), to, request, kept, asked.silent)

    def _choice(self, command: OpenC2Command, asked: _Asked) -> Choice | Mismatch | Refusal:
        """Choose the actuator before the policy is asked, which comes first with its refusal."""
        try:
            return select(command, asked.to.encoding, asked.message.profile, self._hosted)
        except (Mismatch, Refusal) as error:
            return error

    def _elsewhere(self, message: Inbound, content: Tree) -> bool:
        """Tell whether a command names a profile that is not here, though we cannot read it all."""
        actuator = content.get("actuator") if isinstance(content, dict) else None
        names = set(actuator) if isinstance(actuator, dict) else {message.profile} - {None}
        return bool(names) and names.isdisjoint(self._hosted)

    def _directed(self, message: Inbound, to: tuple[str, ...]) -> bool:
        """Tell whether the sender means this very Consumer, who then owes an answer (AMB-23)."""
        mine = self._names - self._shared
        return message.channel is Channel.DEVICE or not mine.isdisjoint(to)

    def _admit(
        self, asked: _Asked, request: Request, choice: Choice, host: Hosted, memory: Memory
    ) -> Admit:
        command, to = request.command, asked.to
        window = window_of(command.args, self._clock)
        typed = compose(command, to.encoding, host, key="", producer=to.producer, window=window)
        if self._load.stuck(host.nsid):
            raise Unavailable(f"{host.nsid} does not answer")
        if window.stop is not None and self._load.windows() >= _MOST_WINDOWS:
            raise Unavailable("too many time windows are open")
        if window.ahead(self._clock):
            self._room_to_wait(to.producer, len(asked.message.payload))
        return Admit(
            host=host,
            command=typed,
            origin=self._origin(asked.message, to, window),
            to=to,
            request=request,
            response_type=_response_type(command),
            memory=memory,
            reused_id=memory.key is not None and self._journal.id_reused(memory.key),
            guessed=choice.guessed,
        )

    def _origin(self, message: Inbound, to: ReplyTo, window: Window) -> Origin:
        return Origin(
            request_id=to.request_id,
            producer=to.producer,
            topic=message.topic,
            encoding=to.encoding,
            correlation=to.correlation,
            payload=message.payload,
            accepted=self._clock.wall(),
            window=window,
        )


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


def _response_type(command: OpenC2Command) -> ResponseType:
    asked = command.args.response_requested if command.args else None
    return asked or ResponseType.COMPLETE


def _silent(command: OpenC2Command | None, content: Tree) -> bool:
    """Tell whether `response_requested: none` forbids every answer (AMB-17)."""
    if command is not None:
        return _response_type(command) is ResponseType.NONE
    args = content.get("args") if isinstance(content, dict) else None
    return isinstance(args, dict) and args.get("response_requested") == "none"
