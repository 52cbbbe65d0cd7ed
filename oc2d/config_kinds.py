"""What a configuration key may hold: each kind turns a TOML value into the typed one.

A kind raises `ValueError` with words for the user, and describes itself for the reference.
"""

# ruff: noqa: D102 - Kind.parse says it once for all
from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from ipaddress import ip_address
from pathlib import Path
from typing import Any, ClassVar, Protocol

import msgspec

__all__ = [
    "Choice",
    "File",
    "Flag",
    "Kind",
    "Namespace",
    "Seconds",
    "Secret",
    "Text",
    "Texts",
    "Whole",
    "alpn_problem",
    "filter_problem",
    "found",
    "host_problem",
    "listen_problem",
    "namespace_problem",
    "plain_problem",
    "topic_level_problem",
]

_GLANCE = 40
_MANY_DIGITS = 10**_GLANCE  # of thousands Python writes none
_LONGEST_TOPIC = 65535  # MQTT 5.0, 1.5.4: bytes of UTF-8
_LONGEST_PROTOCOL = 255  # RFC 7301

_Check = Callable[[str], "str | None"]


class Kind(Protocol):
    """What a key may hold."""

    def parse(self, value: object, base: Path) -> Any:  # noqa: ANN401 - one type per kind
        """Return the typed value, or raise ValueError; `base` is where relative paths begin."""

    def __str__(self) -> str:
        """Describe the values allowed, for the reference."""


def found(value: object) -> str:
    """Say what stands in the file, without repeating more than a glance of it."""
    names: dict[type, str] = {dict: "a table", list: "a list", float: "the number"}
    names |= {bool: "the boolean", int: "the number", str: "the string"}
    name = names.get(type(value), "a date or time")
    if isinstance(value, bool):
        return f"{name} {str(value).lower()}"
    if isinstance(value, int) and abs(value) >= _MANY_DIGITS:
        return "a number of many digits"
    if isinstance(value, (int, float)):
        return f"{name} {value}"
    if isinstance(value, str):
        return f"{name} {value!r}" if len(value) <= _GLANCE else f"{name} {value[:_GLANCE]!r}..."
    return name


def _wrong(expected: str, value: object) -> ValueError:
    return ValueError(f"expected {expected}, found {found(value)}")


class Flag(msgspec.Struct, frozen=True):
    """A boolean."""

    def parse(self, value: object, _base: Path) -> bool:
        if not isinstance(value, bool):
            raise _wrong("true or false", value)
        return value

    def __str__(self) -> str:
        return "true or false"


class Whole(msgspec.Struct, frozen=True):
    """A whole number in a range; a boolean is none."""

    low: int = 1
    high: int | None = None

    def parse(self, value: object, _base: Path) -> int:
        if not isinstance(value, int) or isinstance(value, bool):
            raise _wrong("a whole number", value)
        if value < self.low or (self.high is not None and value > self.high):
            raise _wrong(str(self), value)
        return value

    def __str__(self) -> str:
        if self.high is None:
            return f"a whole number, {self.low} or more"
        return f"a whole number from {self.low} to {self.high}"


class Seconds(msgspec.Struct, frozen=True):
    """A positive length of time; fractions are allowed."""

    def parse(self, value: object, _base: Path) -> float:
        if not isinstance(value, (int, float)) or isinstance(value, bool):
            raise _wrong("a number of seconds", value)
        if not 0 < value <= sys.float_info.max:
            raise _wrong(str(self), value)
        return float(value)

    def __str__(self) -> str:
        return "seconds, more than 0"


class Choice(msgspec.Struct, frozen=True):
    """One of a few values, of the same type."""

    choices: Sequence[str | int]

    def parse(self, value: object, _base: Path) -> str | int:
        for choice in self.choices:
            if choice == value and type(choice) is type(value):
                return choice
        raise _wrong(str(self), value)

    def __str__(self) -> str:
        shown = [f'"{c}"' if isinstance(c, str) else str(c) for c in self.choices]
        return " or ".join([", ".join(shown[:-1]), shown[-1]])


class Text(msgspec.Struct, frozen=True):
    """A string; `check` says what is wrong with it."""

    check: _Check
    words: str = "a string"

    def parse(self, value: object, _base: Path) -> str:
        if not isinstance(value, str):
            raise _wrong("a string", value)
        if problem := self.check(value):
            raise ValueError(problem)
        return value

    def __str__(self) -> str:
        return self.words


class Namespace(Text, frozen=True):
    """A prefix of topics."""

    def parse(self, value: object, base: Path) -> str:
        # DESIGN 2: one trailing slash is dropped; alone it would be an empty level.
        whole = value.removesuffix("/") if isinstance(value, str) and value != "/" else value
        return super().parse(whole, base)


class Texts(msgspec.Struct, frozen=True):
    """A list of distinct strings, each checked; `least` is how many there must be."""

    check: _Check
    words: str
    least: int = 0

    def parse(self, value: object, base: Path) -> tuple[str, ...]:
        if not isinstance(value, list):
            raise _wrong("a list of strings", value)
        if len(value) < self.least:
            raise ValueError("the list is empty: name at least one, or leave the key out")
        text = Text(self.check)
        problems = []
        for index, item in enumerate(value):
            try:
                text.parse(item, base)
            except ValueError as error:
                problems.append(f"item {index + 1}: {error}")
            if item in value[:index]:
                problems.append(f"item {index + 1}: {item!r} stands there already")
        if problems:
            raise ValueError("; ".join(problems))
        return tuple(value)

    def __str__(self) -> str:
        return self.words


class File(msgspec.Struct, frozen=True):
    """A path, made absolute."""

    words: ClassVar[str] = "a path; a relative one starts at the directory of this file"

    def parse(self, value: object, base: Path) -> Path:
        if not isinstance(value, str):
            raise _wrong("a path (a string)", value)
        if problem := plain_problem(value):
            raise ValueError(problem)
        return base / value

    def __str__(self) -> str:
        return self.words


class Secret(msgspec.Struct, frozen=True):
    """A path, or a bare name: the systemd credential of that name, found when it is read."""

    def parse(self, value: object, base: Path) -> str:
        # What stands here may be the secret itself, put in the wrong place: it is never repeated.
        if not isinstance(value, str):
            raise ValueError(  # noqa: TRY004 - the loader collects it
                "expected a path or the name of a systemd credential (a string)"
            )
        if problem := plain_problem(value):
            raise ValueError(problem)
        return str(base / value) if "/" in value else value

    def __str__(self) -> str:
        return "a path (with a `/` in it), or the name of a systemd credential"


def plain_problem(text: str) -> str | None:
    """Say why `text` is no plain line of text, or None."""
    if not text.strip():
        return "must not be empty"
    if any(ord(char) < 0x20 or 0x7F <= ord(char) < 0xA0 for char in text):  # noqa: PLR2004 - C0, C1
        return "must not hold control characters"
    return None


def topic_level_problem(text: str) -> str | None:
    """Say why `text` cannot be one level of a topic (MQTT-25), or None."""
    if bad := sorted(set(text) & set("/+#")):
        return f"must not hold {' or '.join(bad)}: it becomes one level of a topic"
    if len(text.encode()) > _LONGEST_TOPIC // 2:
        return "is too long for a topic"
    if problem := plain_problem(text):
        return problem
    # nobody could type it, oc2ctl does not address it, and mosquitto ends the link on some
    return None if text.isprintable() else "must not hold characters that cannot be seen"


def namespace_problem(text: str) -> str | None:
    """Say why `text` cannot stand in front of every topic (DESIGN 2), or None."""
    if text.startswith("$"):
        return "must not begin with $: such topics belong to the broker"
    for level in text.split("/") if text else ():
        if not level:
            return "has an empty topic level: no leading, double or second trailing slash"
        if problem := topic_level_problem(level):
            return problem
    return None


def filter_problem(text: str) -> str | None:
    """Check a topic filter (MQTT 5.0, 4.7); `$` is out because `namespace` is put in front."""
    levels = text.split("/")
    if text.startswith("$"):
        return "must not begin with $: no shared subscriptions, no topics of the broker"
    if "#" in "".join(levels[:-1]) or ("#" in levels[-1] and levels[-1] != "#"):
        return "# stands only as the whole last level of a topic filter"
    if any("+" in level and level != "+" for level in levels):
        return "+ stands only as a whole level of a topic filter"
    return plain_problem(text)


def alpn_problem(text: str) -> str | None:
    """Say why `text` is no protocol name for ALPN (RFC 7301), or None."""
    if len(text) > _LONGEST_PROTOCOL or not (text.isascii() and text.isprintable()):
        return f"must be at most {_LONGEST_PROTOCOL} printable ASCII characters"
    return plain_problem(text)


def host_problem(text: str) -> str | None:
    """Say why `text` is no host name or address, or None."""
    if "://" in text:
        return "expected a host name or an address, not a URL; the port goes into broker.port"
    if text.count(":") == 1:
        return "expected a host name or an address only; the port goes into broker.port"
    if any(char.isspace() or char in "/[]" for char in text):
        return "is no host name or address"
    return plain_problem(text)


def listen_problem(text: str) -> str | None:
    """Say why `text` is no place on this host to listen at, or None."""
    if text.startswith("unix:"):
        return None if text.startswith("unix:/") else "expected an absolute path after unix:"
    host, _, port = text.rpartition(":")
    try:
        local = ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return (
            "expected an address with its port, like 127.0.0.1:9464, or unix:/run/oc2d/metrics.sock"
        )
    if not local:
        return "must be a loopback address: whoever asks is not asked who he is"
    if not (port.isascii() and port.isdecimal() and 0 < int(port) < 2**16):
        return f"{port!r} is no port"
    return None if (":" in host) == host.startswith("[") else "write IPv6 as [::1]:9464"
