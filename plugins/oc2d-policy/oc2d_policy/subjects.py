"""What a target is about: the networks and the domain names in it, whatever its type."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import suppress
from functools import cached_property
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import TypeAlias
from urllib.parse import unquote, urlsplit

import msgspec

from oc2d.language.codec import Encoding
from oc2d.language.command import Target
from oc2d.language.reading import Reading
from oc2d.language.targets import IPv4Connection, IPv6Connection
from oc2d.language.values import IPv4Net, IPv6Net

__all__ = ["DOTS", "Network", "Subjects", "in_ascii"]

Network: TypeAlias = IPv4Network | IPv6Network
_ALL_4, _ALL_6 = IPv4Network("0.0.0.0/0"), IPv6Network("::/0")
_EVERYWHERE: dict[type, tuple[tuple[Network, ...], ...]] = {
    IPv4Connection: ((_ALL_4,),),
    IPv6Connection: ((_ALL_6,),),
}
_OCTETS = 4  # of IPv4
_MAPPED = IPv6Network("::ffff:0:0/96")
# What stands in these is no address, even if it looks like one.
_WITHOUT = frozenset({"artifact", "command", "features", "file", "mac_addr", "process"})
_NAMES = frozenset({"domain_name", "idn_domain_name"})
DOTS = re.compile("[.\u3002\uff0e\uff61]")  # RFC 3490, 3.1
_LONGEST_LABEL = 63  # letters; what is longer is no name, and IDNA takes the square of its length
_MOST_TEXTS = 10_000  # with 100 rules that takes seconds, for which all commands wait
_BEHIND_AT = re.compile(r"@([^@,;?&/#]*)")  # a mailto has several: RFC 6068


class Subjects:
    """The networks and names of one target; looked for when a rule asks."""

    def __init__(self, target: Target) -> None:
        self._target = target

    @property
    def too_many(self) -> bool:
        """Whether it would take too long to look at all that it names."""
        return len(self._texts) > _MOST_TEXTS

    @property
    def has_ends(self) -> bool:
        """Whether it has two, of which each packet has both: a connection."""
        return self._target.name.endswith("connection")

    @cached_property
    def networks(self) -> tuple[tuple[Network, ...], ...]:
        """The networks that are named, each as all that it is: of IPv6, and of the IPv4 inside.

        A connection that names none is about all of them.
        """
        named = tuple(found for text in self._texts if (found := tuple(_networks(text))))
        if named or not self.has_ends:
            return named
        return _EVERYWHERE.get(type(self._target.value), ((_ALL_4,), (_ALL_6,)))

    @cached_property
    def domains(self) -> tuple[str, ...]:
        """The names in ASCII: a domain, the host of a URI, what is behind each @."""
        hosts = (in_ascii(host) for text in self._texts for host in _hosts(text))
        sure = self._target.name in _NAMES  # elsewhere a word without a dot may be anything
        return tuple(h for h in hosts if (sure or "." in h) and not list(_networks(h)))

    @cached_property
    def _texts(self) -> tuple[str, ...]:
        """Every text of a typed target or a tree of a profile, and what CBOR has for one."""
        if self._target.name in _WITHOUT:
            return ()
        found: list[str] = []
        value = self._target.value
        waiting = [msgspec.to_builtins(value, builtin_types=(bytes,), enc_hook=str)]
        while waiting:
            one = waiting.pop()
            if isinstance(one, str):
                found.append(one)
            elif isinstance(one, dict):
                waiting += [*one, *one.values()]
            elif text := _binary_network(one):
                found.append(text)
            elif isinstance(one, list | tuple):
                waiting += one
        return tuple(found)


def _binary_network(tree: object) -> str | None:
    """Read the binary form of a network, with its prefix or without (AMB-52)."""
    match tree:
        case bytes(address) | [bytes(address)] | [bytes(address), int()]:
            kind = IPv4Net if len(address) == _OCTETS else IPv6Net
            with suppress(ValueError):
                return str(kind.read(tree, Reading(Encoding.CBOR)))
    return None


def _networks(text: str) -> Iterator[Network]:
    """Read an address or a network; an IPv4 address inside of an IPv6 one counts as both."""
    try:
        network = ip_network(_host(text).strip("[]"), strict=False)
    except ValueError:
        return
    yield network
    if isinstance(network, IPv6Network) and network.subnet_of(_MAPPED):
        address = network.network_address.packed[12:]
        yield IPv4Network((address, network.prefixlen - _MAPPED.prefixlen))


def _hosts(text: str) -> list[str]:
    host = _host(text)
    return _BEHIND_AT.findall(unquote(host)) or [host]


def _host(text: str) -> str:
    """Find the host of a URI; other text is taken as it is."""
    if "://" not in text:
        return text
    try:
        return unquote(urlsplit(text).hostname or text)
    except ValueError:
        return text


def in_ascii(name: str) -> str:
    """Return the one spelling in which names are compared: in lower case and IDNA (RFC 3490)."""
    return ".".join(map(_label, DOTS.split(name))).rstrip(".").lower()


def _label(text: str) -> str:
    if text.isascii() or len(text) > _LONGEST_LABEL:
        return text
    try:
        return text.encode("idna").decode()
    except UnicodeError:  # no name that could be looked up
        return text
