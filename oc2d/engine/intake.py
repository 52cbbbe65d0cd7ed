"""The order of checks: what becomes of one delivered message (REQUIREMENTS 2.6).

`Gate.judge` reads; it writes nothing. What it returns says all that the engine has to do.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Mapping

import structlog

from oc2d.config import Config, Limits
from oc2d.engine import events
from oc2d.engine.answers import ReplyTo, refused
from oc2d.engine.clock import Clock
from oc2d.engine.hooks import Hooks
from oc2d.engine.journal import Journal
from oc2d.engine.limits import Load, Rate
from oc2d.engine.ports import Channel, Inbound
from oc2d.engine.reader import Asked, Read, Reader, response_type
from oc2d.engine.records import Known, Origin
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
from oc2d.language.codec import Tree
from oc2d.language.command import OpenC2Command
from oc2d.language.features import answer_features
from oc2d.language.ids import Names
from oc2d.language.message import Headers, created_ms

__all__ = ["Gate"]

_log = structlog.get_logger("oc2d.engine")
_MOST_HELD = 64 << 20  # bytes of open requests; what is made of them takes as much again, or twice
_MOST_WINDOWS = 100_000  # about 2 kB each in memory, for as long as they are open


class Gate:
    """Judges messages in order, on the engine's thread."""

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
        self._reader = Reader(id_names, clock)
        self.reread = self._reader.reread
        self._journal = journal
        self._hooks = hooks
        self._clock = clock
        self._load = load
        self._limits = Limits()
        self._rate: Rate | None = None
        self.configure(config, hosted, subscribed)

    def configure(
        self, config: Config, hosted: Mapping[str, Hosted], subscribed: frozenset[str]
    ) -> None:
        """Judge by this from now on; `hosted` in the order in which actuators are asked."""
        self._names = subscribed | {config.device_id, config.sender}
        self._shared = subscribed - {self._device_topic}
        self._reader.configure(config, self._names)
        limits = config.limits
        if limits.rate_per_minute != self._limits.rate_per_minute:
            self._rate = Rate(limits.rate_per_minute) if limits.rate_per_minute else None
        self._limits = limits
        self._policy = config.policy
        self._hosted = hosted
        self._capabilities = capabilities(tuple(hosted.values()), limits.rate_per_minute)

    def read(self, messages: Iterable[Inbound]) -> list[Read]:
        """Find out what messages say, to `judge` them next, before the transaction ends."""
        found = [self._reader.read(message) for message in messages]
        memories = (read.memory for read in found if isinstance(read, Asked))
        self._journal.look_for([one.key for one in memories if one and one.key])
        return found

    def judge(self, read: Read) -> Verdict:
        """Decide what becomes of a message; raises only errors of the journal and `MemoryError`."""
        if not isinstance(read, Asked):
            return read
        try:
            return self._judge(read)
        except (sqlite3.Error, MemoryError):  # a plugin's own is an answer by now
            raise
        except Exception:  # noqa: BLE001 - no input stops the daemon (LANG-44)
            _log.exception(events.MESSAGE_FAILED, topic=read.message.topic)
            return self._reader.undecoded(read.message, Failed("internal error"))

    def taken(self) -> int:
        """A mark in the rate limit: for `untake`, when what was judged could not be kept."""
        return self._rate.total if self._rate else 0

    def untake(self, mark: int) -> None:
        """Take back what was counted since."""
        if self._rate:
            self._rate.back_to(mark)

    # -- steps 5 to 9: who asks, and for what?

    def _judge(self, asked: Asked) -> Verdict:
        headers, to, memory, silent = asked.headers, asked.to, asked.memory, asked.silent
        try:
            self._permit(headers)
        except Refusal as refusal:
            return Answer(refused(refusal), to, asked.request, silent=silent)
        known, reused = self._known(asked.message, memory) if memory else (None, False)
        if known is not None:
            return Repeat(known, to, asked.request, silent)
        try:
            self._room(headers.sender, asked.message.size)
        except Unavailable as refusal:
            return Answer(refused(refusal), to, asked.request, silent=silent)
        if asked.request is not None:
            return self._command(asked, asked.request, reused=reused)
        told = self._unread(asked, asked.wrong or BadRequest("no command"))
        if told is None:
            return Drop("for another actuator")
        return Answer(refused(told), to, None, memory, silent)

    def _unread(self, asked: Asked, wrong: Refusal) -> Refusal | None:
        """Tell what is wrong with a command; None: it is not ours to tell (AMB-23).

        One that the language does not support is still no reason to answer for another actuator.
        """
        if not (isinstance(wrong, NotSupported) and self._elsewhere(asked)):
            return wrong
        return NoMatch("No matching actuator") if self._directed(asked) else None

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

    def _known(self, message: Inbound, memory: Memory) -> tuple[Known | None, bool]:
        """Find out whether it is a duplicate, and if not, whether its id was used before."""
        if memory.key is not None:
            return self._journal.known(memory.key)
        if message.redelivered:
            return self._journal.delivery(memory.packet_id, memory.digest), False
        return None, False

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

    def _command(self, asked: Asked, request: Request, *, reused: bool) -> Verdict:
        command, to, memory = request.command, asked.to, asked.memory
        answer: Refusal
        try:
            choice = self._choice(command, asked)
            if isinstance(choice, Choice) and choice.host is not None:
                request = Request(
                    request.request_id,
                    request.producer,
                    request.topic,
                    choice.host.nsid,
                    command,
                )
            if refusal := self._hooks.authorise(request):
                raise refusal
            if not isinstance(choice, Choice):
                raise choice
            if choice.host is None or memory is None:
                response = answer_features(command, self._capabilities)
                return Answer(response, to, request, None, asked.silent)
            return self._admit(
                asked, request, choice.host, memory, guessed=choice.guessed, reused=reused
            )
        except Mismatch:
            if not self._directed(asked):
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

    def _choice(self, command: OpenC2Command, asked: Asked) -> Choice | Mismatch | Refusal:
        """Choose the actuator before the policy is asked, which comes first with its refusal."""
        try:
            return select(command, asked.to.encoding, asked.message.profile, self._hosted)
        except (Mismatch, Refusal) as error:
            return error

    def _elsewhere(self, asked: Asked) -> bool:
        """Tell whether a command names a profile that is not here, though we cannot read it all."""
        content: Tree = asked.content
        actuator = content.get("actuator") if isinstance(content, dict) else None
        names = set(actuator) if isinstance(actuator, dict) else {asked.message.profile} - {None}
        return bool(names) and names.isdisjoint(self._hosted)

    def _directed(self, asked: Asked) -> bool:
        """Tell whether the sender means this very Consumer, who then owes an answer (AMB-23)."""
        mine = self._names - self._shared
        return asked.message.channel is Channel.DEVICE or not mine.isdisjoint(asked.headers.to)

    def _admit(  # noqa: PLR0913 - what was found out
        self,
        asked: Asked,
        request: Request,
        host: Hosted,
        memory: Memory,
        *,
        guessed: bool,
        reused: bool,
    ) -> Admit:
        command, to = request.command, asked.to
        window = window_of(command.args, self._clock)
        key = self._journal.next_key()
        typed = compose(command, to.encoding, host, key=key, producer=to.producer, window=window)
        if self._load.stuck(host.nsid):
            raise Unavailable(f"{host.nsid} does not answer")
        if window.stop is not None and self._load.windows() >= _MOST_WINDOWS:
            raise Unavailable("too many time windows are open")
        if window.ahead(self._clock):
            self._room_to_wait(to.producer, asked.message.size)
        return Admit(
            host=host,
            command=typed,
            origin=self._origin(asked.message, to, window),
            to=to,
            request=request,
            response_type=response_type(command),
            memory=memory,
            reused_id=reused,
            guessed=guessed,
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
