"""A name server with a zone that tests write: A and AAAA records, times to live, aliases."""

from __future__ import annotations

import contextlib
import socket
import threading
from ipaddress import ip_address

import dns.flags
import dns.message
import dns.rcode
import dns.rrset
import pytest


class Zone:
    """Answers on a UDP socket; `records`: name → (seconds to live, addresses); `mute` or not."""

    def __init__(self, listening: socket.socket) -> None:
        self.records: dict[str, tuple[int, tuple[str, ...]]] = {}
        self.aliases: dict[str, tuple[int, str]] = {}
        self.mute = False
        self.asked = 0
        self._socket = listening
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def close(self) -> None:
        with contextlib.suppress(OSError):  # not connected, and yet it ends the wait in recvfrom
            self._socket.shutdown(socket.SHUT_RDWR)
        self._thread.join(5)
        self._socket.close()

    def _serve(self) -> None:
        while True:
            question, asker = self._socket.recvfrom(4000)
            if not question:
                return
            self.asked += 1
            if not self.mute:
                self._socket.sendto(self._answer(dns.message.from_wire(question)).to_wire(), asker)

    def _answer(self, query: dns.message.Message) -> dns.message.Message:
        reply = dns.message.make_response(query)
        reply.flags |= dns.flags.RA
        name = query.question[0].name.to_text(omit_final_dot=True)
        kind = query.question[0].rdtype
        if name in self.aliases:
            lifetime, name = self.aliases[name]
            owner = query.question[0].name
            reply.answer.append(dns.rrset.from_text(owner, lifetime, "IN", "CNAME", f"{name}."))
        if name not in self.records:
            reply.set_rcode(dns.rcode.NXDOMAIN)
            return reply
        lifetime, addresses = self.records[name]
        version = {1: 4, 28: 6}.get(kind)
        texts = [one for one in addresses if ip_address(one).version == version]
        if texts:
            word = "A" if version == 4 else "AAAA"
            reply.answer.append(dns.rrset.from_text(f"{name}.", lifetime, "IN", word, *texts))
        return reply


@pytest.fixture
def make_zone():
    """A function that has a UDP socket answered as a name server does."""
    made = []

    def make(listening):
        made.append(Zone(listening))
        return made[-1]

    yield make
    for zone in made:
        zone.close()
