"""One connection: paho's packet codec over a socket that is ours to read and write.

All use of paho's private names is here, each with its reason; `tests/unit/mqtt/test_client.py`
fails when an upgrade of paho changes one. A Link lives as long as its socket, so nothing sticks
from one connection to the next (Server Keep Alive, acknowledgements, half a packet). Used by one
thread only. What a packet means is not decided here.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import struct
import time
from collections.abc import Sequence
from typing import Any, Final

from paho.mqtt import _packet
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode, MQTTProtocolVersion
from paho.mqtt.exception import MalformedPacket, MQTTException
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.subscribeoptions import SubscribeOptions

from oc2d.mqtt.framing import whole
from oc2d.mqtt.packets import Ack, Connack, Disconnect, Kind, Packet, Pong, Suback, reason_text
from oc2d.mqtt.paho_client import paho
from oc2d.mqtt.properties import decode_publish
from oc2d.mqtt.settings import LARGEST_PACKET, LinkSettings
from oc2d.mqtt.status import ServerLimits
from oc2d.mqtt.tls_failure import tls_failure

__all__ = ["PROTOCOL_ERROR", "Link", "LinkLost"]

_CHUNK: Final = 1 << 16
_MOST_PER_FILL: Final = 4 * _CHUNK
_MOST_UNTAKEN: Final = 64 << 20  # bytes that wait to be sent while we go on answering
_FIRST_OWN_ID: Final = 60_001  # SUBSCRIBE; below are the handles of responses
_LAST_ID: Final = 65_535
_LARGEST: Final = 65_535  # Receive Maximum when the broker names none
_WINDOW_311: Final = 100  # MQTT 3.1.1 has no Receive Maximum
_PING_AT: Final = 0.95  # of the keep-alive (MQTT-52)
_LATENESS: Final = 0.1  # seconds that a wake-up may come late
_PINGRESP: Final = b"\xd0\x00"

#: The reason code for a peer that breaks the protocol.
PROTOCOL_ERROR: Final = 0x82
_ERROR: Final = 0x80
_MALFORMED: Final = 0x81
_TOO_LARGE: Final = 0x95
_WHO_WE_ARE: Final = {4, 5, 0x86, 0x87}  # CONNACK: name or password wrong, not authorised


class LinkLost(Exception):  # noqa: N818  an event rather than a mistake
    """The connection is of no use any more; `code` is what to tell the broker, if anything."""

    def __init__(self, text: str, code: int | None = None) -> None:
        super().__init__(text)
        self.code = code


class _Given(Properties):
    """What a CONNACK says; paho refuses a Maximum Packet Size above that of any packet."""

    def __setattr__(self, name: str, value: Any) -> None:  # noqa: ANN401 - of any property
        if name == "Maximum Packet Size":
            value = min(value, LARGEST_PACKET)
        super().__setattr__(name, value)  # type: ignore[no-untyped-call]


class Link(paho.Client):
    """A connected socket and what is said on it; CONNECT is queued at once.

    `keep_alive` is the interval in force, in seconds; `wants_write` and `has_input` tell the loop
    what to wait for. `last_brought` is when something came in that is more than a PINGRESP.
    """

    def __init__(self, settings: LinkSettings, sock: socket.socket, password: str | None) -> None:
        self.v5 = settings.protocol == "5"
        super().__init__(
            CallbackAPIVersion.VERSION2,
            client_id=settings.client_id,
            clean_session=None if self.v5 else False,
            protocol=MQTTProtocolVersion.MQTTv5 if self.v5 else MQTTProtocolVersion.MQTTv311,
            reconnect_on_failure=False,  # else a refused 3.1.1 goes on with 3.1
        )
        self.settings = settings
        self.keep_alive = settings.keep_alive
        self.last_sent = self.last_received = self.last_brought = time.monotonic()
        self.awaiting_pong = False
        self._buffer = b""
        self._at = 0
        self._outgoing = bytearray()
        self._packets: list[Packet] = []
        # paho wants 0 for "only the first time", which is its default for MQTT 5.0 (MQTT-2)
        self._clean_start = False
        # subscription ids are made here, clear of the handles of responses
        self._last_mid = _FIRST_OWN_ID - 1
        if settings.username is not None:
            self.username_pw_set(settings.username, password)
        if self.v5:
            offer = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
            offer.SessionExpiryInterval = settings.session_expiry
            offer.ReceiveMaximum = settings.receive_maximum
            offer.MaximumPacketSize = settings.maximum_packet_size
            self._connect_properties = offer  # connect() would dial
        sock.settimeout(0)
        self.sock = sock
        self._send_connect(settings.keep_alive)  # builds the packet; connect() would dial

    # -- reading

    @property
    def has_input(self) -> bool:
        """Whether there is something to read that the socket will not signal."""
        return self._at < len(self._buffer) or (
            isinstance(self.sock, ssl.SSLSocket) and self.sock.pending() > 0
        )

    def fill(self) -> None:
        """Take what the socket holds, bounded; raises LinkLost at its end."""
        if self._at < len(self._buffer):
            return  # first decode what is here
        chunks = []
        size = 0
        while size < _MOST_PER_FILL:
            try:
                chunk = self.sock.recv(_CHUNK)
            except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
                break
            except ssl.SSLError as error:  # with TLS 1.3 the broker judges us after our handshake
                raise LinkLost(tls_failure(error)) from error
            except OSError as error:
                raise LinkLost(f"read failed: {error.strerror or error}") from error
            if not chunk:
                if size:
                    break  # what came before the end counts; the next fill finds it again
                raise LinkLost("the broker closed the connection")
            chunks.append(chunk)
            size += len(chunk)
            if len(chunk) < _CHUNK and not isinstance(self.sock, ssl.SSLSocket):
                break
        self._buffer = b"".join(chunks)
        self._at = 0
        if size:
            self._came_in()

    def _came_in(self) -> None:
        self.last_received = time.monotonic()
        if self._buffer != _PINGRESP:
            self.last_brought = self.last_received
        # a broker without TCP_NODELAY holds the next packet back until this one is acknowledged,
        # which the kernel would put off by 40 ms; it forgets the option each time
        with contextlib.suppress(OSError):
            self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)

    def packets(self, most: int) -> list[Packet]:
        """Decode up to `most` packets of what was read; raises LinkLost on a malformed one."""
        self._packets = []
        while self._at < len(self._buffer) and len(self._packets) < most:
            try:
                if self._packet_whole():
                    continue
                # paho's framing: it asks _sock_recv for bytes and calls _packet_handle
                rc = self._packet_read()
            except MalformedPacket as error:
                raise LinkLost(f"malformed packet from the broker: {error}", _TOO_LARGE) from error
            if rc not in {MQTTErrorCode.MQTT_ERR_SUCCESS, MQTTErrorCode.MQTT_ERR_AGAIN}:
                raise LinkLost("malformed packet from the broker", _MALFORMED)
        return self._packets

    def _packet_whole(self) -> bool:
        """Decode one packet without paho's framing, if it is small and all of it is here."""
        most = self.settings.maximum_packet_size
        if self._in_packet["command"] or not (found := whole(self._buffer, self._at, most)):
            return False
        first, (start, self._at) = self._buffer[self._at], found
        try:
            self._handle(first, self._buffer[start : self._at])
        except MalformedPacket as error:
            raise LinkLost(f"malformed packet from the broker: {error}", _MALFORMED) from error
        return True

    def _sock_recv(self, bufsize: int) -> bytes:
        """Feed paho from our buffer in place of the socket."""
        most = self.settings.maximum_packet_size
        publish = self._in_packet["command"] >> 4 == PacketTypes.PUBLISH
        if bufsize > most and not publish:
            raise MalformedPacket(f"{bufsize} bytes, more than we allowed")
        data = self._buffer[self._at : self._at + bufsize]
        if not data:
            raise BlockingIOError
        self._at += len(data)
        if len(self._in_packet["packet"]) > most:
            # MQTT 3.1.1 cannot forbid it, some brokers do not heed it, and would deliver it again
            # for ever: keep the beginning, which is too large to be carried out and enough to be
            # acknowledged
            self._in_packet["to_process"] -= len(data) - 1
            return data[-1:]
        return data

    def _packet_handle(self) -> MQTTErrorCode:
        """Decode one packet in place of paho's handlers, which act on it at once."""
        self._handle(self._in_packet["command"], bytes(self._in_packet["packet"]))
        return MQTTErrorCode.MQTT_ERR_SUCCESS

    def _handle(self, first: int, body: bytes) -> None:
        try:
            self._packets.append(self._decode(first >> 4, first, body))
        except (ValueError, LookupError, MQTTException, struct.error) as error:
            raise MalformedPacket(str(error)) from error

    def _decode(self, kind: int, first: int, body: bytes) -> Packet:
        if kind == PacketTypes.PUBLISH:
            intact = len(body) <= self.settings.maximum_packet_size
            # of one that is cut the properties may be cut as well: it is payload from there on
            return decode_publish(first, body, v5=self.v5 and intact)
        if Kind.PUBACK <= kind <= Kind.PUBCOMP:
            (packet_id,) = struct.unpack_from("!H", body)
            return Ack(Kind(kind), packet_id, body[2] if len(body) > 2 else 0)  # noqa: PLR2004  the id
        if kind == PacketTypes.PINGRESP:
            self.awaiting_pong = False
            return Pong()
        if kind == PacketTypes.SUBACK:
            suback = _packet.decode_suback(first, body, self._protocol)
            return Suback(suback.mid, tuple(code.value for code in suback.reason_codes))
        if kind == PacketTypes.DISCONNECT and self.v5:
            code = body[0] if body else 0
            return Disconnect(reason_text(PacketTypes.DISCONNECT, code))
        if kind == PacketTypes.CONNACK:
            return self._connack(first, body)
        raise ValueError(f"packet type {kind} is not for a client")

    def _connack(self, first: int, body: bytes) -> Connack:
        if self.v5 and len(body) > 1 and body[1] >= _ERROR:
            # paho knows fewer reasons than a broker may have
            return self._refused(reason_text(PacketTypes.CONNACK, body[1]), body[1])
        given = None
        if self.v5 and body[1:2] == b"\0":
            given = _Given(PacketTypes.CONNACK)  # type: ignore[no-untyped-call]
            given.unpack(body[2:])  # type: ignore[no-untyped-call]
        else:
            connack = _packet.decode_connack(first, body, self._protocol)
            if connack.rc:
                return self._refused(f"{connack.reason} ({int(connack.rc):#04x})", int(connack.rc))
        limits = self._limits(given)
        self.keep_alive = limits.keep_alive
        return Connack(bool(body[0] & 1), None, limits)

    def _refused(self, reason: str, code: int) -> Connack:
        hint = ": see broker.username and broker.password_file" if code in _WHO_WE_ARE else ""
        refusal = f"the broker refused us: {reason}{hint}"
        return Connack(session_present=False, refusal=refusal, limits=self._limits(None))

    def _limits(self, given: Properties | None) -> ServerLimits:
        ours = self.settings
        return ServerLimits(
            # 0 would switch the mechanism off (MQTT-5), and more than ours miss that the broker is
            # gone; asking more often than it wants does no harm
            keep_alive=min(
                getattr(given, "ServerKeepAlive", 0) or ours.keep_alive, ours.keep_alive
            ),
            session_expiry=getattr(given, "SessionExpiryInterval", ours.session_expiry),
            receive_maximum=getattr(given, "ReceiveMaximum", _LARGEST if self.v5 else _WINDOW_311),
            maximum_packet_size=getattr(given, "MaximumPacketSize", None),
            maximum_qos=getattr(given, "MaximumQoS", 2),
        )

    # -- writing

    @property
    def wants_write(self) -> int:
        """How many bytes wait to be sent."""
        return len(self._outgoing)

    def queue(self, packet: bytes) -> None:
        """Send this with the next flush."""
        self._outgoing += packet

    def acknowledge(self, kind: Kind, packet_id: int, reason: int = 0) -> None:
        """Queue PUBACK, PUBREC, PUBREL or PUBCOMP; MQTT 3.1.1 knows no reasons.

        Raises LinkLost when too much is queued: the broker makes us answer and does not read.
        """
        if len(self._outgoing) > _MOST_UNTAKEN:
            raise LinkLost("the broker takes nothing of what we send")
        first = kind << 4 | (2 if kind is Kind.PUBREL else 0)
        if reason and self.v5:
            self._outgoing += struct.pack("!BBHB", first, 3, packet_id, reason)
        else:
            self._outgoing += struct.pack("!BBH", first, 2, packet_id)

    def subscribe_all(self, filters: Sequence[str]) -> int:
        """Queue one SUBSCRIBE, options 0x0E for each filter (MQTT-47, 48); returns its id."""
        options = SubscribeOptions(qos=2, noLocal=True, retainAsPublished=True, retainHandling=0)
        wanted = [(text.encode(), options if self.v5 else 2) for text in filters]
        # subscribe() would refuse while paho's own state machine, which we do not use, is offline
        return self._send_subscribe(0, wanted)[1]

    def ping(self) -> None:
        """Queue PINGREQ; counts as sent, also when the socket takes nothing."""
        self._outgoing += b"\xc0\x00"
        self.last_sent = time.monotonic()
        self.awaiting_pong = True

    def ping_due(self) -> float:
        """When PINGREQ must go out unless something else does (MQTT-52).

        Also when nothing came in for as long: a dead peer takes what we send for many minutes.
        """
        idle_since = self.last_sent
        if not self.awaiting_pong:
            idle_since = min(idle_since, self.last_received)
        return idle_since + _PING_AT * self.keep_alive - _LATENESS

    def flush(self) -> None:
        """Send what the socket takes; raises LinkLost."""
        while self._outgoing:
            try:
                sent = self.sock.send(self._outgoing)
            except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
                return
            except OSError as error:
                raise LinkLost(f"write failed: {error.strerror or error}") from error
            del self._outgoing[:sent]
            self.last_sent = time.monotonic()

    def _packet_queue(
        self,
        command: int,  # noqa: ARG002  paho's signature
        packet: bytes | bytearray,
        mid: int,  # noqa: ARG002  paho's signature
        qos: int,  # noqa: ARG002  paho's signature
        info: paho.MQTTMessageInfo | None = None,  # noqa: ARG002  paho's signature
    ) -> MQTTErrorCode:
        """Take what paho built; its own queue would write at once, packet by packet."""
        self._outgoing += packet
        return MQTTErrorCode.MQTT_ERR_SUCCESS

    def _mid_generate(self) -> int:
        self._last_mid = self._last_mid + 1 if self._last_mid < _LAST_ID else _FIRST_OWN_ID
        return self._last_mid

    # -- the end

    def farewell(self, code: int, seconds: float) -> None:
        """Send what is queued and DISCONNECT, read to the end, close; all within `seconds`.

        Closing with unread input would make the kernel reset the connection, and the broker might
        never see the DISCONNECT.
        """
        if code and self.v5:
            self._outgoing += struct.pack("!BBB", 0xE0, 1, code)
        else:
            self._outgoing += b"\xe0\x00"
        deadline = time.monotonic() + seconds
        with contextlib.suppress(OSError, ValueError):
            self.sock.settimeout(seconds)
            self.sock.sendall(self._outgoing)
            self.sock.shutdown(socket.SHUT_WR)
            while (left := deadline - time.monotonic()) > 0:
                self.sock.settimeout(left)
                if not self.sock.recv(_CHUNK):
                    break
        self.close()

    def close(self) -> None:
        """Close the socket; paho never had it."""
        self.sock.close()
