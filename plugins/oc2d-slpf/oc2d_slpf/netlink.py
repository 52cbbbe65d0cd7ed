"""nfnetlink: messages as bytes and transactions on one socket. Knows nothing of rules.

What is on the wire, in the names of `linux/netlink.h`, `linux/netfilter/nfnetlink.h` and
`nf_tables.h`; host byte order where not said otherwise::

    nlmsghdr    u32 nlmsg_len, u16 nlmsg_type, u16 nlmsg_flags, u32 nlmsg_seq, u32 nlmsg_pid
    nfgenmsg    u8 nfgen_family, u8 version (NFNETLINK_V0), __be16 res_id
    nlattr      u16 nla_len (with its header), u16 nla_type; payload; padded to 4 bytes

A transaction is NFNL_MSG_BATCH_BEGIN (res_id NFNL_SUBSYS_NFTABLES), messages of type
`NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_*`, NFNL_MSG_BATCH_END, in one `sendmsg`: the kernel makes all
of it true at once or none of it. It answers before `sendmsg` returns: one NLMSG_ERROR for each
message it refused, and one with error 0 for the last message, which alone has NLM_F_ACK.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

__all__ = [
    "CREATE",
    "EXCLUSIVE",
    "INET",
    "Message",
    "Netlink",
    "NetlinkError",
    "attribute",
    "attributes",
    "nested",
    "own_addresses",
    "string",
    "u32",
]

NETLINK_ROUTE = 0
NETLINK_NETFILTER = 12
SOL_NETLINK = 270
NETLINK_CAP_ACK = 10  # an error does not carry the message it is about
NETLINK_EXT_ACK = 11  # an error says where in the message
SO_SNDBUFFORCE = 32  # beyond net.core.wmem_max; needs CAP_NET_ADMIN
SO_RCVBUFFORCE = 33

NLMSG_ERROR = 2
NLMSG_DONE = 3
NLM_F_REQUEST = 0x1
NLM_F_ACK = 0x4
NLM_F_DUMP = 0x300
#: NLM_F_CREATE, and NLM_F_EXCL (what is there already is an error) as flags of a `Message`.
CREATE = 0x400
EXCLUSIVE = 0x200
NLA_F_NESTED = 0x8000
NLA_TYPE_MASK = 0x3FFF
NLMSGERR_ATTR_MSG = 1
NLMSGERR_ATTR_OFFS = 2

RTM_NEWADDR, RTM_GETADDR = 20, 22
IFADDRMSG = 8  # bytes
IFA_ADDRESS, IFA_LOCAL = 1, 2

NFNL_MSG_BATCH_BEGIN = 0x10
NFNL_MSG_BATCH_END = 0x11
NFNL_SUBSYS_NFTABLES = 10
NFT_MSG_GETGEN = 16
#: NFPROTO_INET: IPv4 and IPv6 in one table.
INET = 1

_HEADER = struct.Struct("=IHHII")  # nlmsghdr
_GENERIC = struct.Struct(">BBH")  # nfgenmsg
_ATTRIBUTE = struct.Struct("=HH")  # nlattr
_ERROR = struct.Struct("=i")
_BUFFER = 1 << 20
_RECEIVE = 1 << 24  # room for the error of each message of a large batch
_WRAP = 0x3FFFFFFF  # no sequence number wraps within a transaction
_SPARE = 4096  # what the kernel counts against the send buffer beside the bytes


class NetlinkError(OSError):
    """The kernel refused; `errno` is its reason, `index` the message it was about, if it said so.

    The text names the kind of that message and what the kernel told beyond the number.
    """

    def __init__(self, code: int, text: str, index: int | None = None) -> None:
        super().__init__(code, text)
        self.index = index


@dataclass(frozen=True, slots=True)
class Message:
    """One message of a transaction: `kind` is NFT_MSG_*, `body` its attributes."""

    kind: int
    body: bytes
    flags: int = 0


def attribute(kind: int, payload: bytes) -> bytes:
    """Build one nlattr; the length of the payload is at most 65 531 bytes."""
    size = 4 + len(payload)
    return _ATTRIBUTE.pack(size, kind) + payload + b"\0" * (-size & 3)


def nested(kind: int, *parts: bytes) -> bytes:
    """Build an nlattr that holds others."""
    return attribute(kind | NLA_F_NESTED, b"".join(parts))


def string(kind: int, text: str) -> bytes:
    """Build an nlattr that holds a name."""
    return attribute(kind, text.encode() + b"\0")


def u32(kind: int, value: int) -> bytes:
    """Build an nlattr that holds a number in network byte order, as nf_tables wants them."""
    return attribute(kind, (value & 0xFFFFFFFF).to_bytes(4, "big"))


def attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Read what a message or a nested attribute holds: type without flags, and payload."""
    at = 0
    while at + 4 <= len(data):
        size, kind = _ATTRIBUTE.unpack_from(data, at)
        if size < 4:  # noqa: PLR2004 - an nlattr is at least its header
            return
        yield kind & NLA_TYPE_MASK, data[at + 4 : at + size]
        at += size + 3 & ~3


def _received(data: bytes) -> Iterator[tuple[int, int, bytes]]:
    """Read a datagram: kind, sequence and payload of each message."""
    at = 0
    while at + _HEADER.size <= len(data):
        size, kind, _, sequence, _ = _HEADER.unpack_from(data, at)
        yield kind, sequence, data[at + _HEADER.size : at + size]
        at += size + 3 & ~3


def own_addresses() -> Iterator[bytes]:
    """Ask for the addresses of this network namespace, of both families. Raises OSError."""
    kind = socket.SOCK_RAW | socket.SOCK_CLOEXEC
    with socket.socket(socket.AF_NETLINK, kind, NETLINK_ROUTE) as asked:
        size, flags = _HEADER.size + IFADDRMSG, NLM_F_REQUEST | NLM_F_DUMP
        asked.send(_HEADER.pack(size, RTM_GETADDR, flags, 1, 0) + bytes(IFADDRMSG))
        while True:
            for answer, _, payload in _received(asked.recv(_BUFFER)):
                if answer != RTM_NEWADDR:
                    return
                if payload[0] in (socket.AF_INET, socket.AF_INET6):  # MCTP has some of one byte
                    found = dict(attributes(payload[IFADDRMSG:]))
                    # IFA_ADDRESS is the other end's on a link from point to point
                    yield found.get(IFA_LOCAL) or found[IFA_ADDRESS]


class Netlink:
    """One socket for everything that is written: a table with an owner belongs to its socket.

    Raises OSError when it cannot be opened. One thread only.
    """

    def __init__(self) -> None:
        kind = socket.SOCK_RAW | socket.SOCK_CLOEXEC
        self._socket = socket.socket(socket.AF_NETLINK, kind, NETLINK_NETFILTER)
        self._sequence = 1
        self._room = 0
        self.transactions = 0
        """How many were carried out."""
        try:
            self._socket.bind((0, 0))
            for option in (NETLINK_CAP_ACK, NETLINK_EXT_ACK):
                self._socket.setsockopt(SOL_NETLINK, option, 1)
            self._room = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF)
        except BaseException:
            self._socket.close()
            raise

    @property
    def port(self) -> int:
        """The netlink port id, by which the kernel tells who changed something."""
        return int(self._socket.getsockname()[0])

    def close(self) -> None:
        """Close the socket: a table it owned becomes an orphan, which anybody may adopt."""
        self._socket.close()

    def transact(self, messages: Sequence[Message], *, try_only: bool = False) -> None:
        """Have all of it done at once, or tried: without BATCH_END the kernel only looks whether.

        Raises `NetlinkError`, and then nothing was changed.
        """
        begin = self._sequence = self._sequence & _WRAP
        batch = [self._pack(NFNL_MSG_BATCH_BEGIN, 0, b"", NFNL_SUBSYS_NFTABLES)]
        last = len(messages) - 1
        for index, message in enumerate(messages):
            kind = NFNL_SUBSYS_NFTABLES << 8 | message.kind
            flags = message.flags | (NLM_F_ACK if index == last else 0)
            batch.append(self._pack(kind, flags, message.body))
        if not try_only:
            batch.append(self._pack(NFNL_MSG_BATCH_END, 0, b"", NFNL_SUBSYS_NFTABLES))
        self._send(b"".join(batch))
        answers = [(sequence - begin - 1, code, told) for sequence, code, told in self._answers()]
        for index, code, told in answers:
            if code and index >= 0:
                where = f"message {index} (NFT_MSG {messages[index].kind})"
                text = ": ".join(filter(None, (where, os.strerror(code), told)))
                raise NetlinkError(code, text, index)
            if code and index == -1:
                raise NetlinkError(code, f"transaction: {os.strerror(code)}")
        if (last, 0, "") not in answers:
            raise NetlinkError(0, "no answer from the kernel")
        self.transactions += not try_only

    def dump(self, kind: int) -> list[dict[int, bytes]]:
        """Return all objects of one kind (NFT_MSG_GET*) in family inet, each by its attributes."""
        found: list[dict[int, bytes]] = []
        for kind_, payload in self._asked(kind, NLM_F_DUMP):
            if kind_ == NLMSG_DONE:
                break
            found.append(dict(attributes(payload[4:])))
        return found

    def generation(self) -> int:
        """Return the number that grows by one with each transaction (NFTA_GEN_ID)."""
        _, payload = next(self._asked(NFT_MSG_GETGEN, 0))
        return int.from_bytes(dict(attributes(payload[4:]))[1], "big")

    def _asked(self, kind: int, flags: int) -> Iterator[tuple[int, bytes]]:
        """Ask, and read kind and payload of the answers; it does not end by itself."""
        self._drain()
        asked = self._sequence
        self._send(self._pack(NFNL_SUBSYS_NFTABLES << 8 | kind, flags, b""))
        while True:
            for answer, sequence, payload in self._receive():
                if sequence != asked:
                    continue
                if answer == NLMSG_ERROR:
                    (code,) = _ERROR.unpack_from(payload)
                    raise NetlinkError(-code, os.strerror(-code))
                yield answer, payload

    def _drain(self) -> None:
        """Drop what a transaction with more errors than fit left: it keeps new answers out."""
        while True:
            try:
                if not self._receive(socket.MSG_DONTWAIT):
                    return
            except NetlinkError as error:
                if error.errno != errno.ENOBUFS:
                    raise

    def _pack(self, kind: int, flags: int, body: bytes, resource: int = 0) -> bytes:
        sequence = self._sequence
        self._sequence += 1
        family = 0 if resource else INET
        size = 20 + len(body)
        header = _HEADER.pack(size, kind, NLM_F_REQUEST | flags, sequence, 0)
        return header + _GENERIC.pack(family, 0, resource) + body

    def _send(self, data: bytes) -> None:
        if len(data) + _SPARE > self._room:
            self._grow(len(data) + _SPARE)
        try:
            self._socket.sendall(data)
        except OSError as error:
            raise NetlinkError(error.errno or 0, str(error)) from error

    def _grow(self, size: int) -> None:
        """Let one message be so long: a transaction cannot be cut in two."""
        for level, wanted in ((SO_SNDBUFFORCE, size), (SO_RCVBUFFORCE, _RECEIVE)):
            try:
                self._socket.setsockopt(socket.SOL_SOCKET, level, wanted)
            except PermissionError:
                # only in a user namespace; up to net.core.wmem_max and rmem_max then
                plain = socket.SO_SNDBUF if level == SO_SNDBUFFORCE else socket.SO_RCVBUF
                self._socket.setsockopt(socket.SOL_SOCKET, plain, wanted)
        self._room = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF)

    def _answers(self) -> Iterator[tuple[int, int, str]]:
        """Read sequence, errno and text of each answer; they are all there already."""
        while received := self._receive(socket.MSG_DONTWAIT):
            for kind, sequence, payload in received:
                if kind == NLMSG_ERROR:
                    (code,) = _ERROR.unpack_from(payload)
                    yield sequence, -code, _told(payload[20:]) if code else ""

    def _receive(self, flags: int = 0) -> list[tuple[int, int, bytes]]:
        """Read one datagram: kind, sequence and payload of each message; none: nothing waits."""
        try:
            data = self._socket.recv(_BUFFER, flags)
        except BlockingIOError:
            return []
        except OSError as error:  # ENOBUFS: more errors than fit
            raise NetlinkError(error.errno or 0, str(error)) from error
        return list(_received(data))


def _told(data: bytes) -> str:
    """Read NETLINK_EXT_ACK: what the kernel says about an error."""
    found = dict(attributes(data))
    words = []
    if NLMSGERR_ATTR_MSG in found:
        words.append(found[NLMSGERR_ATTR_MSG].rstrip(b"\0").decode(errors="replace"))
    if NLMSGERR_ATTR_OFFS in found:
        words.append(f"at byte {int.from_bytes(found[NLMSGERR_ATTR_OFFS], sys.byteorder)}")
    return " ".join(words)
