"""Address ranges: text in JSON, binary address and prefix in CBOR (LANG-65, LANG-66, AMB-52)."""

from __future__ import annotations

import ipaddress
import re
from typing import Any, ClassVar, Generic, TypeVar

from oc2d.language.codec import Encoding, Tree
from oc2d.language.reading import Reading, Value, shown

__all__ = ["IPv4Net", "IPv6Net"]

_Network = TypeVar("_Network", ipaddress.IPv4Network, ipaddress.IPv6Network)
# Neither zone ids nor netmasks, both of which `ipaddress` would take (LANG-65, LANG-66).
_OCTET = "(?:25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])"
_IPV4_TEXT = re.compile(rf"{_OCTET}(?:\.{_OCTET}){{3}}")
_NET_TEXT = re.compile(r"([0-9A-Fa-f.:]+)(?:/(0|[1-9][0-9]{0,2}))?")


class _Net(Value, Generic[_Network]):
    __slots__ = ("network",)

    network: _Network
    _kind: ClassVar[str]
    _width: ClassVar[int]
    _address: ClassVar[Any]
    _network: ClassVar[Any]

    def __init__(self, network: _Network) -> None:
        object.__setattr__(self, "network", network)

    @classmethod
    def read(cls, tree: Tree, reading: Reading) -> Any:  # noqa: ANN401 - the class itself
        """Read text, or in CBOR `[bstr, uint]`, `[bstr]` or bstr (AMB-52); host bits go."""
        try:
            packed, prefix = cls._parts(tree, reading.encoding)
        except ValueError:
            raise ValueError(f"{cls._kind} expected, not {shown(tree)}") from None
        address = int.from_bytes(packed, "big")
        host_bits = address & ((1 << (cls._width - prefix)) - 1)
        if not host_bits:
            return cls(cls._network((address, prefix)))
        given = f"{cls._address(packed)}/{prefix}"
        if reading.strict_cidr:
            raise ValueError(f"{given} has host bits set")
        made = cls(cls._network((address - host_bits, prefix)))
        reading.masked.append(f"{given} taken as {made}")
        return made

    @classmethod
    def _parts(cls, tree: Tree, encoding: Encoding) -> tuple[bytes, int]:
        """Return address and prefix; raises ValueError."""
        address: Tree
        prefix: Tree = cls._width
        if isinstance(tree, str) and (match := _NET_TEXT.fullmatch(tree)):
            address, prefix = cls._packed(match[1]), int(match[2] or prefix)
        elif encoding is Encoding.JSON:
            raise ValueError
        elif isinstance(tree, list) and 1 <= len(tree) <= 2:  # noqa: PLR2004 - address, prefix
            address, prefix = tree[0], (tree[1] if len(tree) > 1 else prefix)
        else:
            address = tree
        if not (type(address) is bytes and 8 * len(address) == cls._width):
            raise ValueError
        if not (type(prefix) is int and 0 <= prefix <= cls._width):
            raise ValueError
        return address, prefix

    @classmethod
    def _packed(cls, text: str) -> bytes:
        return bytes(cls._address(text).packed)

    def tree(self, encoding: Encoding) -> Tree:
        """Write text, or in CBOR `[bstr, prefix]`."""
        if encoding is not Encoding.JSON:
            return [self.network.network_address.packed, self.network.prefixlen]
        return str(self)

    def __str__(self) -> str:
        prefix = self.network.prefixlen
        text = _address_text(self.network.network_address)
        return text if prefix == self._width else f"{text}/{prefix}"

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"{type(self).__name__} is immutable")

    def __reduce__(self) -> tuple[type, tuple[_Network]]:
        return type(self), (self.network,)

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and bool(self.network == other.network)

    def __hash__(self) -> int:
        return hash(self.network)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self)!r})"


def _address_text(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> str:
    """RFC 5952, section 5 included: all versions of Python alike."""
    mapped = getattr(address, "ipv4_mapped", None)
    return f"::ffff:{mapped}" if mapped is not None else str(address)


class IPv4Net(_Net[ipaddress.IPv4Network]):
    """An IPv4 range (LANG-65): `network`, an `ipaddress.IPv4Network`; one host has no slash."""

    __slots__ = ()
    _kind = "an IPv4 range like 192.0.2.0/24"
    _width = 32
    _address = ipaddress.IPv4Address
    _network = ipaddress.IPv4Network

    @classmethod
    def _packed(cls, text: str) -> bytes:
        """Do the same in a fifth of the time."""
        if not _IPV4_TEXT.fullmatch(text):
            raise ValueError
        return bytes(map(int, text.split(".")))


class IPv6Net(_Net[ipaddress.IPv6Network]):
    """An IPv6 range (LANG-66): `network`, an `ipaddress.IPv6Network`; text as RFC 5952 has it."""

    __slots__ = ()
    _kind = "an IPv6 range like 2001:db8::/32"
    _width = 128
    _address = ipaddress.IPv6Address
    _network = ipaddress.IPv6Network
