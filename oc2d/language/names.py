"""Text of a certain form: names, addresses for mail, identifiers (LANG-6, LANG-71)."""

from __future__ import annotations

import re
from typing import Any, ClassVar

from oc2d.language.codec import Encoding, Tree
from oc2d.language.reading import Reading, Value, shown

__all__ = [
    "IRI",
    "URI",
    "CommandId",
    "DomainName",
    "EmailAddr",
    "Hostname",
    "IDNDomainName",
    "IDNEmailAddr",
    "IDNHostname",
]


class _Text(str, Value):
    """Text of a certain form; canonical is what was sent."""

    __slots__ = ()
    kind: ClassVar[str]

    @classmethod
    def read(cls, tree: Tree, reading: Reading) -> Any:  # noqa: ANN401 - the class itself
        """Read text of this form."""
        del reading
        if not isinstance(tree, str) or not cls.legal(tree):
            raise ValueError(f"{cls.kind} expected, not {shown(tree)}")
        return cls(tree)

    @classmethod
    def legal(cls, text: str) -> bool:
        """Tell whether the text has this form."""
        raise NotImplementedError

    def tree(self, encoding: Encoding) -> Tree:
        """Write the text."""
        del encoding
        return str(self)


_LABEL = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?")
_LABEL_LENGTH = 63
_NAME_LENGTH = 253
_ASCII_SPECIALS = re.compile(r"[\x00-,./:-@\[-`{-\x7f]")


def _is_label(label: str, *, international: bool) -> bool:
    if label.isascii():
        return len(label) <= _LABEL_LENGTH and bool(_LABEL.fullmatch(label))
    wire_length = len("xn--") + len(label.encode("punycode")) if len(label) <= _LABEL_LENGTH else 64
    return (
        international
        and wire_length <= _LABEL_LENGTH
        and label.isprintable()
        and not _ASCII_SPECIALS.search(label)
        and "-" not in {label[0], label[-1]}
    )


def _is_name(text: str, *, international: bool, rooted: bool = True) -> bool:
    name = text.removesuffix(".") if rooted else text
    return len(name) <= _NAME_LENGTH and all(
        _is_label(label, international=international) for label in name.split(".")
    )


class Hostname(_Text):
    """RFC 1123: letters, digits and hyphens."""

    __slots__ = ()
    kind = "a host name"

    @classmethod
    def legal(cls, text: str) -> bool:
        """Tell whether the text has this form."""
        return _is_name(text, international=False, rooted=False)


class IDNHostname(_Text):
    """RFC 5890: labels may hold letters of any script."""

    __slots__ = ()
    kind = "an internationalised host name"

    @classmethod
    def legal(cls, text: str) -> bool:
        """Tell whether the text has this form."""
        return _is_name(text, international=True, rooted=False)


class DomainName(_Text):
    """RFC 1034, preferred syntax; a final dot is allowed."""

    __slots__ = ()
    kind = "a domain name"

    @classmethod
    def legal(cls, text: str) -> bool:
        """Tell whether the text has this form."""
        return _is_name(text, international=False)


class IDNDomainName(_Text):
    """RFC 5890."""

    __slots__ = ()
    kind = "an internationalised domain name"

    @classmethod
    def legal(cls, text: str) -> bool:
        """Tell whether the text has this form."""
        return _is_name(text, international=True)


_ATOM = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]"
_LOCAL = re.compile(rf"{_ATOM}+(?:\.{_ATOM}+)*|\"(?:[ !#-\[\]-~]|\\[ -~])*\"")
_IDN_ATOM = r"[^\x00- \"(),.:;<>@\[\\\]\x7f\s]"
_IDN_LOCAL = re.compile(rf"{_IDN_ATOM}+(?:\.{_IDN_ATOM}+)*")
_LOCAL_LENGTH = 64


class EmailAddr(_Text):
    """RFC 5322 `addr-spec` without comments and folding."""

    __slots__ = ()
    kind = "an email address"

    @classmethod
    def legal(cls, text: str) -> bool:
        """Tell whether the text has this form."""
        local, at, domain = text.rpartition("@")
        return (
            at != ""
            and len(local) <= _LOCAL_LENGTH
            and bool(_LOCAL.fullmatch(local))
            and _is_name(domain, international=False, rooted=False)
        )


class IDNEmailAddr(_Text):
    """RFC 6531: letters of any script on both sides."""

    __slots__ = ()
    kind = "an internationalised email address"

    @classmethod
    def legal(cls, text: str) -> bool:
        """Tell whether the text has this form."""
        local, at, domain = text.rpartition("@")
        return EmailAddr.legal(text) or (
            at != ""
            and len(local.encode()) <= _LOCAL_LENGTH
            and bool(_IDN_LOCAL.fullmatch(local))
            and _is_name(domain, international=True, rooted=False)
        )


_URI = re.compile(
    r"[A-Za-z][A-Za-z0-9+.-]*:(?:[A-Za-z0-9._~:/?#\[\]@!$&'()*+,;=-]|%[0-9A-Fa-f]{2})*"
)


class URI(_Text):
    """RFC 3986, with a scheme."""

    __slots__ = ()
    kind = "a URI with a scheme"

    @classmethod
    def legal(cls, text: str) -> bool:
        """Tell whether the text has this form."""
        return text.count("#") <= 1 and bool(_URI.fullmatch(text))


class IRI(_Text):
    """RFC 3987: a URI that may hold printable characters beyond ASCII."""

    __slots__ = ()
    kind = "an IRI with a scheme"

    @classmethod
    def legal(cls, text: str) -> bool:
        """Tell whether the text has this form."""
        return text.isprintable() and URI.legal(re.sub(r"[^\x00-\x7f]", "_", text))


class CommandId(_Text):
    """Up to 36 characters without white space (LANG-6)."""

    __slots__ = ()
    kind = "up to 36 characters without white space"

    @classmethod
    def legal(cls, text: str) -> bool:
        """Tell whether the text has this form."""
        return re.fullmatch(r"\S{0,36}", text) is not None
