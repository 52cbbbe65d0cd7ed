"""What is said with the broker: deliveries in, responses out, over as many links as it takes.

Runs on the network thread only. Knows packets and the engine's doors, no sockets and no clock of
its own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final

import msgspec
import structlog
from paho.mqtt.packettypes import PacketTypes

from oc2d.engine.ports import Inbound, Intake, Outgoing, Token
from oc2d.mqtt import events
from oc2d.mqtt.client import PROTOCOL_ERROR, Link, LinkLost
from oc2d.mqtt.inbox import Inbox
from oc2d.mqtt.outbox import Entry, Outbox, Stage
from oc2d.mqtt.packets import Ack, Connack, Kind, Packet, Suback, reason_text
from oc2d.mqtt.properties import Delivery, encode_publish, properties
from oc2d.mqtt.settings import LinkSettings
from oc2d.mqtt.status import ServerLimits
from oc2d.mqtt.topics import classifier, matcher

__all__ = ["ROOM", "Conversation", "Shorten"]

#: Not the broker's to give: the engine makes it by deciding.
ROOM: Final = "room for deliveries"

#: Makes a response fit: called with it and the largest payload the broker takes, in bytes.
Shorten = Callable[[Outgoing, int], "Outgoing | None"]

_ERROR: Final = 0x80
_ID_UNKNOWN: Final = 0x92
_UNMATCHED: Final = 0x10  # no matching subscribers
_ID_IN_USE: Final = 0x91
_QUOTA: Final = 0x97
_IMPLEMENTATION: Final = 0x83
_LARGEST: Final = 0x0FFFFFFF + 5  # bytes of a packet, whatever the broker says (MQTT 5.0, 1.5.5)
_BACKLOG: Final = 1 << 20  # bytes built ahead of the socket
_MOST_HELD: Final = 64 << 20  # bytes of deliveries that are not decided


class Conversation:
    """The MQTT session with the broker, as far as it outlives a connection."""

    def __init__(self, settings: LinkSettings, intake: Intake, shorten: Shorten | None) -> None:
        self.inbox = Inbox()
        self.outbox = Outbox()
        self.limits: ServerLimits | None = None
        self.session_present: bool | None = None
        self.subscriptions: Mapping[str, int | str] = {}
        self.received = self.published = self.refused = self.unmatched = 0
        self._intake = intake
        self._shorten = shorten
        self._link: Link | None = None
        self._subscribing: int | None = None
        self._asked: tuple[str, ...] = ()  # by that SUBSCRIBE
        self._awaiting_release: set[int] = set()  # inbound QoS 2: PUBREC sent, PUBREL to come
        self._passing_over = False  # of this link: we read, but take no more deliveries
        self._passed_over = 0
        self.configure(settings)

    def configure(self, settings: LinkSettings) -> None:
        """Use these settings from now on."""
        self._settings = settings
        dots = settings.protocol == "3.1.1"
        self._classify = classifier(settings.namespace, settings.device_id, dots_are_slashes=dots)
        self._wanted = matcher(settings.subscriptions, dots_are_slashes=dots)

    @property
    def paused(self) -> bool:
        """Whether more is undecided than we allowed the broker, or can hold; then do not read.

        What may be of earlier connections; the answer to CONNECT is read all the same.
        """
        return self._link is not None and not self._passing_over and self._full

    @property
    def _full(self) -> bool:
        return self.inbox.undecided > self._settings.receive_maximum or self.inbox.held > _MOST_HELD

    @property
    def expected(self) -> str | None:
        """What we wait for: an answer of the broker, or `ROOM` while we do not read."""
        if self.paused:
            return ROOM
        if not self.subscribed:
            return "SUBACK"
        return "PINGRESP" if self._link is not None and self._link.awaiting_pong else None

    def pass_over(self) -> None:
        """Read on though there is no room: what has to be decided may wait for what we would read.

        The engine judges no more while too many responses are unacknowledged, and only the broker's
        next packets acknowledge them. Deliveries are left to the broker until there is room.
        """
        self._passing_over = True

    def take_up(self) -> None:
        """Take deliveries again once all are decided; raises LinkLost if some were passed over."""
        if not self._passing_over or self.inbox.undecided:
            return
        self._passing_over = False
        if self._passed_over:
            raise LinkLost("to have delivered again what we had no room for", _QUOTA)

    @property
    def subscribed(self) -> bool:
        """Whether the broker has answered our SUBSCRIBE on this connection."""
        return self._link is not None and self._subscribing is None

    @property
    def healthy(self) -> bool:
        """Whether every subscription stands at QoS 1 or 2."""
        return self.subscribed and all(isinstance(qos, int) for qos in self.subscriptions.values())

    @property
    def suspicion(self) -> str:
        """Why the broker may have closed the link: a forbidden topic, which MQTT 3.1.1 cannot say.

        Some brokers say it so (AMB-14). Empty where there is nothing to suspect.
        """
        if self._settings.protocol == "5" or self._link is None:
            return ""
        if not self.subscribed:
            return "; it may not let us read one of our topics"
        return "; it may not let us publish there" if self.outbox.in_flight else ""

    # -- the link comes and goes

    def begin(self, link: Link, connack: Connack) -> None:
        """Go on over `link`, which the broker has just accepted (MQTT-12 to 14)."""
        limits = connack.limits
        if limits.maximum_qos == 0:
            raise LinkLost("the broker takes QoS 0 only, which OpenC2 forbids", _IMPLEMENTATION)
        if limits.session_expiry < self._settings.session_expiry:
            _log.warning(
                events.SESSION_SHORTENED,
                asked=self._settings.session_expiry,
                granted=limits.session_expiry,
            )
        self._link = link
        self.limits = limits
        if not connack.session_present:
            if self.session_present is not None:  # else it may be the first ever
                _log.warning(events.SESSION_LOST, advice="commands sent meanwhile may be lost")
            self._awaiting_release.clear()
            self._intake.session_lost()
        self.session_present = connack.session_present
        for handle in self.outbox.begin(
            session_present=connack.session_present, window=limits.receive_maximum
        ):
            link.acknowledge(Kind.PUBREL, handle)
        self._subscribing = None
        self.subscriptions = {}
        if self._settings.subscriptions:
            self._subscribe(link, self._settings.subscriptions)

    def _subscribe(self, link: Link, filters: tuple[str, ...]) -> None:
        self._asked = filters
        self._subscribing = link.subscribe_all(filters)

    def resubscribe(self) -> None:
        """Ask again for what was refused: the broker may have changed its mind."""
        refused = tuple(one for one, qos in self.subscriptions.items() if isinstance(qos, str))
        if self._link is not None and refused:
            self._subscribe(self._link, refused)

    def end(self) -> None:
        """Go on without a link; nothing that came over it can be acknowledged any more."""
        self._link = None
        self.inbox.begin()
        self._subscribing = None
        self._passing_over, self._passed_over = False, 0

    # -- what comes in

    def handle(self, packets: Sequence[Packet], *, deliver: bool) -> None:
        """Act on packets of the current link; deliveries are left unanswered unless `deliver`."""
        inbound: list[Inbound] = []
        sent: list[int] = []
        taken: list[int] = []
        try:
            for packet in packets:
                if isinstance(packet, Delivery):
                    if deliver and (message := self._arrive(packet)) is not None:
                        inbound.append(message)
                elif isinstance(packet, Ack):
                    self._acknowledged(packet, sent, taken)
                elif isinstance(packet, Suback):
                    self._suback(packet)
                elif isinstance(packet, Connack):
                    raise LinkLost("the broker sent CONNACK twice", PROTOCOL_ERROR)
        finally:  # inbox and outbox have noted these already, whatever came after them
            if taken:
                self._intake.taken(taken)
            if sent:
                self.published += len(sent)
                self._intake.sent(sent)
            if inbound:
                self.received += len(inbound)
                self._intake.received(inbound)

    def _arrive(self, delivery: Delivery) -> Inbound | None:
        if self._passing_over:
            self._passed_over += delivery.qos > 0  # the broker has no other
            return None
        token = self.inbox.arrived(delivery.packet_id, delivery.qos, delivery.size)
        if token is None:
            if not delivery.dup:
                raise LinkLost("the broker used a packet identifier twice", PROTOCOL_ERROR)
            _log.debug(
                events.DELIVERY_ODD, packet_id=delivery.packet_id, what="sent again too early"
            )
            return None
        if not self._wanted(delivery.topic):
            # the broker's session still has a filter that the configuration has no more
            _log.info(events.DELIVERY_ODD, topic=delivery.topic, what="not subscribed any more")
            self.acknowledge([token])
            return None
        channel, profile = self._classify(delivery.topic)
        return Inbound(
            token=token,
            topic=delivery.topic,
            channel=channel,
            profile=profile,
            payload=delivery.payload,
            retained=delivery.retain,
            redelivered=delivery.dup,
            message_type=delivery.message_type,
            encoding=delivery.encoding,
            content_type=delivery.content_type,
            payload_is_text=delivery.payload_is_text,
            correlation=delivery.correlation,
            response_topic=delivery.response_topic,
            properties=self._settings.protocol == "5",
        )

    def acknowledge(self, tokens: Sequence[Token]) -> None:
        """Acknowledge what is decided, in order of arrival (MQTT-54)."""
        ready = self.inbox.decided(tokens)
        if (link := self._link) is None:
            return
        for token in ready:
            if token.qos == 1:
                link.acknowledge(Kind.PUBACK, token.packet_id)
            else:
                self._awaiting_release.add(token.packet_id)
                link.acknowledge(Kind.PUBREC, token.packet_id)

    def _acknowledged(self, ack: Ack, sent: list[int], taken: list[int]) -> None:
        assert self._link is not None  # noqa: S101  packets come from it
        handle = ack.packet_id
        self.unmatched += ack.reason == _UNMATCHED  # of a PUBACK or PUBREC only
        if ack.kind is Kind.PUBREL:
            known = handle in self._awaiting_release
            self._awaiting_release.discard(handle)
            self._link.acknowledge(Kind.PUBCOMP, handle, 0 if known else _ID_UNKNOWN)
        elif ack.kind is Kind.PUBREC and ack.reason < _ERROR:
            stage = self.outbox.taken(handle)
            if stage is Stage.SENT:
                taken.append(handle)
            elif stage is not Stage.TAKEN:  # else its release is under way
                reason = 0 if stage is Stage.RELEASED else _ID_UNKNOWN
                self._link.acknowledge(Kind.PUBREL, handle, reason)
        elif ack.reason < _ERROR or (ack.kind is Kind.PUBCOMP and ack.reason == _ID_UNKNOWN):
            if self.outbox.done(handle):
                sent.append(handle)
        else:
            self._refused(ack, sent)

    def _refused(self, ack: Ack, sent: list[int]) -> None:
        """Deal with an error: try later where that can help, else have done with it.

        A broker that is out of room, or holds the identifier from an exchange of its own memory,
        may take the message later. Any other error would come again, also after a restart.
        """
        handle = ack.packet_id
        again = ack.kind is not Kind.PUBCOMP and ack.reason in {_QUOTA, _ID_IN_USE}
        self.refused += 1
        _log.error(
            events.RESPONSE_REFUSED,
            handle=handle,
            reason=reason_text(_PACKET_TYPES[ack.kind], ack.reason),
            retry_in=self._settings.retry_after if again else None,
        )
        if again:
            self.outbox.refused(handle)
        elif self.outbox.done(handle):
            sent.append(handle)

    def _suback(self, suback: Suback) -> None:
        if suback.packet_id != self._subscribing:
            return
        if len(suback.codes) != len(self._asked):
            raise LinkLost("the broker's SUBACK does not fit our SUBSCRIBE", PROTOCOL_ERROR)
        self._subscribing = None
        granted = dict(self.subscriptions)
        for topic, code in zip(self._asked, suback.codes, strict=True):
            if code in {1, 2}:
                granted[topic] = code
                continue
            wrong = "granted QoS 0 only" if code == 0 else reason_text(PacketTypes.SUBACK, code)
            if granted.get(topic) != wrong:  # news
                _log.error(events.SUBSCRIPTION_FAILED, filter=topic, reason=wrong)
            granted[topic] = wrong
        if granted != self.subscriptions:
            _log.info(events.SUBSCRIBED, subscriptions=granted)
        self.subscriptions = granted

    # -- what goes out

    def send(self, messages: Sequence[Outgoing]) -> None:
        """Publish these when the link and the window allow."""
        self._released(self.outbox.add(messages))

    def release(self, handles: Sequence[int]) -> None:
        """Go on with these QoS 2 exchanges."""
        self._released(self.outbox.release(handles))

    def _released(self, handles: Sequence[int]) -> None:
        if self._link is not None:
            for handle in handles:
                self._link.acknowledge(Kind.PUBREL, handle)

    def pump(self) -> None:
        """Publish what may go out now."""
        if (link := self._link) is None:
            return
        dropped: list[int] = []
        while link.wants_write < _BACKLOG and (entry := self.outbox.take()) is not None:
            packet = self._fit(entry)
            if packet is not None:
                link.queue(packet)
            elif self.outbox.done(entry.message.handle):
                dropped.append(entry.message.handle)
        if dropped:
            self._intake.sent(dropped)

    def _fit(self, entry: Entry) -> bytes | None:
        """Build the packet, with a shorter message where the broker takes no larger one."""
        assert self.limits is not None  # noqa: S101  there is a link
        most = self.limits.maximum_packet_size or _LARGEST
        packet = self._packet(entry)
        if len(packet) <= most:
            return packet
        message = entry.message
        room = most - (len(packet) - len(message.payload))
        _log.error(events.RESPONSE_TOO_LARGE, handle=message.handle, size=len(packet), maximum=most)
        shorter = self._shorten(message, room) if self._shorten is not None and room > 0 else None
        if shorter is not None:
            entry.message = msgspec.structs.replace(shorter, handle=message.handle)
            packet = self._packet(entry)
            if len(packet) <= most:
                return packet
        self.refused += 1
        return None

    def _packet(self, entry: Entry) -> bytes:
        assert self.limits is not None  # noqa: S101  there is a link
        message, settings = entry.message, self._settings
        packed = b""
        if settings.protocol == "5":
            packed = properties(settings.message_type, message.encoding, message.correlation)
        qos = min(settings.qos, self.limits.maximum_qos) if message.durable else 1
        return encode_publish(
            message.topic,
            message.payload,
            packed,
            packet_id=message.handle,
            qos=qos,
            dup=entry.dup,
        )


_log = structlog.get_logger("oc2d.mqtt")
_PACKET_TYPES: Final = {
    Kind.PUBACK: PacketTypes.PUBACK,
    Kind.PUBREC: PacketTypes.PUBREC,
    Kind.PUBREL: PacketTypes.PUBREL,
    Kind.PUBCOMP: PacketTypes.PUBCOMP,
}
