"""The value types of the language that JSON has no type for (REQUIREMENTS 6.3, LANG-65 to 71).

Each reads itself from a tree (`read`; its `ValueError` says what is wrong), is canonical and
immutable from then on, and writes itself (`tree`). Profiles may use them in their own structures.
"""

from __future__ import annotations

import base64
import re
from typing import Any, ClassVar

from oc2d.language.codec import Encoding, Tree
from oc2d.language.names import (
    IRI,
    URI,
    CommandId,
    DomainName,
    EmailAddr,
    Hostname,
    IDNDomainName,
    IDNEmailAddr,
    IDNHostname,
)
from oc2d.language.networks import IPv4Net, IPv6Net
from oc2d.language.reading import Reading, Value, shown
from oc2d.language.vocabulary import Feature

__all__ = [
    "IRI",
    "MAC",
    "MD5",
    "SHA1",
    "SHA256",
    "URI",
    "Binary",
    "CommandId",
    "DomainName",
    "EmailAddr",
    "Features",
    "Hash",
    "Hostname",
    "IDNDomainName",
    "IDNEmailAddr",
    "IDNHostname",
    "IPv4Net",
    "IPv6Net",
    "Properties",
    "Reading",
    "Value",
    "shown",
]


class Binary(bytes, Value):
    """Octets: base64url without padding in JSON, a byte string in CBOR (LANG-80, AMB-32)."""

    @classmethod
    def read(cls, tree: Tree, reading: Reading) -> Any:  # noqa: ANN401 - the class itself
        """Read base64 of either alphabet, padded or not, or a byte string of CBOR."""
        del reading
        if isinstance(tree, bytes):
            return cls(tree)
        text = tree.rstrip("=") if isinstance(tree, str) else "!"
        text = text.replace("-", "+").replace("_", "/") + "=" * (-len(text) % 4)
        try:
            return cls(base64.b64decode(text, validate=True))
        except ValueError:
            raise ValueError(f"base64url text expected, not {shown(tree)}") from None

    def tree(self, encoding: Encoding) -> Tree:
        """Write a byte string or base64url text."""
        if encoding is not Encoding.JSON:
            return bytes(self)
        return base64.urlsafe_b64encode(self).rstrip(b"=").decode()


class Hash(bytes, Value):
    """A digest: upper-case hex in JSON, a byte string in CBOR (AMB-32)."""

    size: ClassVar[int] = 0

    @classmethod
    def read(cls, tree: Tree, reading: Reading) -> Any:  # noqa: ANN401 - the class itself
        """Read hex of either case or a byte string of CBOR; the length must fit."""
        del reading
        text = tree.hex() if isinstance(tree, bytes) else tree
        if not isinstance(text, str) or not re.fullmatch(r"[0-9A-Fa-f]*", text):
            raise ValueError(f"hex digits expected, not {shown(tree)}")
        if len(text) != 2 * cls.size:
            raise ValueError(f"{cls.__name__} has {2 * cls.size} hex digits, not {len(text)}")
        return cls(bytes.fromhex(text))

    def tree(self, encoding: Encoding) -> Tree:
        """Write a byte string or upper-case hex."""
        return bytes(self) if encoding is not Encoding.JSON else self.hex().upper()


class MD5(Hash):
    """16 octets."""

    size = 16


class SHA1(Hash):
    """20 octets."""

    size = 20


class SHA256(Hash):
    """32 octets."""

    size = 32


_MAC_TEXT = re.compile(r"[0-9A-Fa-f]{2}(?:(?::[0-9A-Fa-f]{2}){5}|(?::[0-9A-Fa-f]{2}){7})")
_MAC_SIZES = (6, 8)


class MAC(bytes, Value):
    """An EUI-48 or EUI-64 address: hex with colons in JSON, a byte string in CBOR (LANG-69)."""

    @classmethod
    def read(cls, tree: Tree, reading: Reading) -> Any:  # noqa: ANN401 - the class itself
        """Read text, or a byte string of CBOR."""
        del reading
        if isinstance(tree, bytes) and len(tree) in _MAC_SIZES:
            return cls(tree)
        if isinstance(tree, str) and _MAC_TEXT.fullmatch(tree):
            return cls(bytes.fromhex(tree.replace(":", "")))
        raise ValueError(f"a MAC address like 8c:85:90:72:31:af expected, not {shown(tree)}")

    def tree(self, encoding: Encoding) -> Tree:
        """Write a byte string or lower-case text."""
        return bytes(self) if encoding is not Encoding.JSON else str(self)

    def __str__(self) -> str:
        return self.hex(":")


class Features(tuple[Feature, ...], Value):
    """What `query features` asks for; repeated names count once (LANG-56, LANG-60)."""

    __slots__ = ()

    @classmethod
    def read(cls, tree: Tree, reading: Reading) -> Any:  # noqa: ANN401 - the class itself
        """Read a list of names of the enumeration."""
        del reading
        if not isinstance(tree, list):
            raise ValueError(f"a list of features expected, not {shown(tree)}")  # noqa: TRY004 - `read` raises ValueError
        for name in tree:
            if not isinstance(name, str) or name not in _FEATURES:
                names = ", ".join(_FEATURES)
                raise ValueError(f"no feature {shown(name)}; there are {names}")
        return cls(dict.fromkeys([_FEATURES[name] for name in tree]))

    def tree(self, encoding: Encoding) -> Tree:
        """Write the list of names."""
        del encoding
        return [feature.value for feature in self]


_FEATURES = {feature.value: feature for feature in Feature}


class Properties(tuple[str, ...], Value):
    """Names of properties: at least one, none twice (LANG-64)."""

    __slots__ = ()

    @classmethod
    def read(cls, tree: Tree, reading: Reading) -> Any:  # noqa: ANN401 - the class itself
        """Read a list of distinct texts."""
        del reading
        if not isinstance(tree, list) or not tree or not all(isinstance(n, str) for n in tree):
            raise ValueError(f"a list of one or more texts expected, not {shown(tree)}")
        if len(set(tree)) != len(tree):
            raise ValueError("a property is named twice")
        return cls(tree)

    def tree(self, encoding: Encoding) -> Tree:
        """Write the list."""
        del encoding
        return list(self)
