"""Words of the command line to the tree of a command.

A value after `=` is text where the language wants text, and a number where it wants one; what
belongs to a profile (its arguments and targets) is read as JSON where it looks like it. After `:=`
stands JSON in any case. A dot goes one object deeper: `hashes.md5=…`.
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Callable, Iterable, Sequence

from oc2d.errors import BadRequest, UsageError
from oc2d.language.codec import Encoding, InputLimits, Tree, decode
from oc2d.language.targets import TARGET_TYPES, Members

__all__ = ["actuator_tree", "args_tree", "duration_ms", "target_tree", "time_ms"]

_ASSIGNMENT = re.compile(r"([^=:]+)(:?=)(.*)", re.DOTALL)
_NUMBER = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?")
_WHOLE = re.compile(r"-?(0|[1-9][0-9]*)")
_NUMBERS = frozenset({"src_port", "dst_port", "pid"})  # the only ones in the targets of OpenC2
_DURATION = re.compile(r"([0-9]+)(ms|s|m|h|d)")
_UNITS = {"ms": 1, "s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}

_Read = Callable[[str, str], Tree]  # name, text


def target_tree(name: str, words: Sequence[str]) -> Tree:
    """Build `{name: value}` from the words after the target's name; raises `UsageError`."""
    return {name: _target_value(name, words)}


def _target_value(name: str, words: Sequence[str]) -> Tree:
    if name in {"features", "properties"}:
        return list(words)
    if len(words) == 1 and words[0][:1] in {"{", "[", '"'}:
        return _json(words[0])
    core = TARGET_TYPES.get(name)
    if isinstance(core, type) and issubclass(core, Members):
        if not words:
            members = ", ".join(f"{member}=…" for member in core.__struct_fields__)
            raise UsageError(f"{name} needs one or more of {members}")
        return _assignments(words, _by_name)
    if core is None and words and all("=" in word for word in words):
        return _assignments(words, _guessed)
    if len(words) != 1:
        empty = "" if words or core is not None else "; for an empty structure write '{}'"
        raise UsageError(f"{name} takes one value, not {len(words)}{empty}")
    return words[0] if core is not None else _guessed(name, words[0])


def args_tree(words: Iterable[str]) -> dict[str, Tree]:
    """Build the arguments of profiles from `NSID.NAME=VALUE`; raises `UsageError`."""
    words = list(words)
    for word in words:
        if "." not in word.partition("=")[0]:
            raise UsageError(f"{word!r} is no NSID.NAME=VALUE, like slpf.direction=ingress")
    return _assignments(words, _guessed)


def actuator_tree(words: Sequence[str]) -> dict[str, Tree]:
    """Build `{nsid: specifiers}` from `NSID [NAME=TEXT …]`; specifiers are text."""
    nsid, *specifiers = words
    return {nsid: _assignments(specifiers, lambda _, text: text)}


def _assignments(words: Iterable[str], read: _Read) -> dict[str, Tree]:
    tree: dict[str, Tree] = {}
    for word in words:
        match = _ASSIGNMENT.fullmatch(word)
        if match is None:
            raise UsageError(f"{word!r} is no NAME=VALUE")
        path, sign, text = match.groups()
        *outer, name = path.split(".")
        inner = tree
        for step in outer:
            inner = inner.setdefault(step, {})
            if not isinstance(inner, dict):
                raise UsageError(f"{word!r}: {step} has a value already")
        if name in inner:
            raise UsageError(f"{path} is given twice")
        inner[name] = read(name, text) if sign == "=" else _json(text)
    return tree


def _by_name(name: str, text: str) -> Tree:
    return int(text) if name in _NUMBERS and _WHOLE.fullmatch(text) else text


def _guessed(_: str, text: str) -> Tree:
    if text[:1] in {"{", "[", '"'} or text in {"true", "false"} or _NUMBER.fullmatch(text):
        return _json(text)
    return text


def _json(text: str) -> Tree:
    try:
        return decode(text.encode(errors="surrogateescape"), Encoding.JSON, InputLimits())
    except BadRequest as error:
        raise UsageError(f"{text!r}: {error.text.replace('the payload', 'this')}") from None


def duration_ms(text: str) -> int:
    """Read `500ms`, `30s`, `10m`, `2h`, `1d`; raises `UsageError`."""
    match = _DURATION.fullmatch(text)
    if match is None:
        raise UsageError(f"{text!r} is no duration: a whole number with ms, s, m, h or d, like 30s")
    return int(match[1]) * _UNITS[match[2]]


def time_ms(text: str, now: int) -> int:
    """Read a time: milliseconds since 1970, `+30s` from `now`, or ISO 8601 (local without zone).

    Raises `UsageError`.
    """
    if text.startswith("+"):
        return now + duration_ms(text[1:])
    if text.isascii() and text.isdecimal():
        return int(text)
    try:
        # Before Python 3.11 the Z is not understood.
        time = dt.datetime.fromisoformat(re.sub("[zZ]$", "+00:00", text))
        return int(time.timestamp() * 1000)
    except (ValueError, OverflowError):
        raise UsageError(
            f"{text!r} is no time: +30s, 2030-01-31T12:00:00Z, or milliseconds since 1970"
        ) from None
