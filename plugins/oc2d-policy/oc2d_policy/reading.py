"""The policy file (TOML) to a `Policy`, or all that is wrong with it, each with its place."""

from __future__ import annotations

import re
import stat
import sys
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime, timezone, tzinfo
from datetime import time as Time  # noqa: N812 - `time` is the module elsewhere
from difflib import get_close_matches
from fnmatch import translate
from ipaddress import ip_network
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

from oc2d.errors import ConfigError, Problem
from oc2d.language.vocabulary import CORE_TARGETS, Action, nsid_problem
from oc2d_policy.judge import Effect, Hours, Policy, Rule
from oc2d_policy.subjects import DOTS, Network, in_ascii

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # type: ignore[import-not-found,unused-ignore]

__all__ = ["parse_policy", "read_policy"]

_DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_ACTIONS = frozenset(action.value for action in Action)
_PROFILE_TARGET = re.compile(r"([^:]+):[A-Za-z0-9*?][\w*?-]*")
_WILD = frozenset("*?[")
_CLASS = _WILD | {"]"}
_TOP = ("default", "timezone", "rules")
_HOURS = ("days", "from", "to")


def read_policy(path: Path) -> Policy:
    """Read and check the file; raise `ConfigError` with every problem found in it."""
    try:
        with path.open("rb") as stream:
            mode = path.stat().st_mode
            tree: dict[str, Any] = tomllib.load(stream)
    except OSError as error:
        raise _wrong(f"{path} cannot be read: {error.strerror}") from None
    except (UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError) as error:
        raise _wrong(f"{path} is not TOML: {error}") from None
    if mode & stat.S_IWOTH:
        raise _wrong(f"{path} may be changed by everybody: chmod o-w it")
    return parse_policy(tree)


def _wrong(message: str) -> ConfigError:
    return ConfigError((Problem("", message),))


def parse_policy(tree: Mapping[str, Any]) -> Policy:
    """Turn the tree into rules; raise `ConfigError` with every problem."""
    reader = _Reader()
    policy = reader.policy(tree)
    if reader.problems:
        raise ConfigError(tuple(reader.problems))
    return policy


class _Reader:
    """Walks the tree once and collects problems."""

    def __init__(self) -> None:
        self.problems: list[Problem] = []

    def policy(self, tree: Mapping[str, Any]) -> Policy:
        self._known("", tree, _TOP)
        if "default" not in tree:
            self._problem("default", "is required: what no rule matches, deny or allow")
        default = self._effect("default", tree.get("default", "deny"))
        zone = self._zone(tree.get("timezone", "UTC"))
        rules = tree.get("rules", [])
        if not isinstance(rules, list):
            self._problem("rules", "expected [[rules]]")
            rules = []
        return Policy(
            default, tuple(self._rule(f"rules[{n}]", rule) for n, rule in enumerate(rules)), zone
        )

    def _rule(self, path: str, tree: object) -> Rule:
        if not isinstance(tree, dict):
            self._problem(path, "expected a table: [[rules]]")
            return Rule(Effect.DENY)
        self._known(path, tree, _RULE)
        if "effect" not in tree:
            self._problem(f"{path}.effect", "is required: allow or deny")
        values: dict[str, Any] = {}
        for key, (field, parse) in _CONDITIONS.items():
            if key in tree:
                items = self._list(f"{path}.{key}", tree[key])
                values[field] = tuple(
                    self._item(f"{path}.{key}[{n}]", item, parse) for n, item in enumerate(items)
                )
        if "when" in tree:
            windows = enumerate(self._list(f"{path}.when", tree["when"]))
            values["hours"] = tuple(self._hours(f"{path}.when[{n}]", one) for n, one in windows)
        for key in ("not_before", "not_after"):
            if key in tree:
                values[key] = self._item(f"{path}.{key}", tree[key], _moment)
        name = self._item(f"{path}.name", tree.get("name", ""), _text)
        return Rule(self._effect(f"{path}.effect", tree.get("effect", "deny")), name, **values)

    def _hours(self, path: str, tree: object) -> Hours:
        if not isinstance(tree, dict):
            self._problem(path, 'expected a table, as { days = ["mon"], from = 08:00:00 }')
            return Hours(frozenset(), Time(), Time())
        self._known(path, tree, _HOURS)
        days = self._list(f"{path}.days", tree.get("days", [*_DAYS]))
        places = (self._item(f"{path}.days[{n}]", day, _day) for n, day in enumerate(days))
        return Hours(
            frozenset(places),
            self._item(f"{path}.from", tree.get("from", Time()), _clock),
            self._item(f"{path}.to", tree.get("to", Time()), _clock),
        )

    def _zone(self, name: object) -> tzinfo:
        if name == "UTC":
            return timezone.utc  # needs no data of the host
        try:
            return ZoneInfo(_text(name))
        except (ValueError, OSError, LookupError):
            self._problem("timezone", f"this host knows no time zone {name!r}, as Europe/Berlin")
            return timezone.utc

    def _effect(self, path: str, value: object) -> Effect:
        try:
            return Effect(value)
        except ValueError:
            self._problem(path, f"expected allow or deny, found {value!r}")
            return Effect.DENY

    def _list(self, path: str, value: object) -> list[Any]:
        """Read a list with something in it: an empty one would match nothing or everything."""
        if isinstance(value, list) and value:
            return value
        self._problem(path, "expected a list of one or more")
        return []

    def _item(self, path: str, value: object, parse: Callable[[object], Any]) -> Any:  # noqa: ANN401 - what parse returns
        try:
            return parse(value)
        except ValueError as error:
            self._problem(path, str(error))
            return None

    def _known(self, path: str, table: Mapping[str, Any], keys: tuple[str, ...]) -> None:
        for key in table:
            if key not in keys:
                hint = _hint(key, keys)
                self._problem(f"{path}.{key}" if path else key, f"unknown key{hint}")

    def _problem(self, path: str, message: str) -> None:
        self.problems.append(Problem(path, message))


def _text(value: object) -> str:
    if isinstance(value, str):
        return value
    raise ValueError(f"expected text, found {value!r}")


def _pattern(value: object) -> re.Pattern[str]:
    if text := _text(value):
        return re.compile(translate(text))
    raise ValueError("empty text matches nobody")


def _action(value: object) -> re.Pattern[str]:
    if (text := _text(value)) not in _ACTIONS:
        raise ValueError(f"{text!r} is no action of OpenC2{_hint(text, _ACTIONS)}")
    return _pattern(text)


def _target(value: object) -> re.Pattern[str]:
    text = _text(value)
    if not (text in CORE_TARGETS or _WILD & set(text) or _PROFILE_TARGET.fullmatch(text)):
        raise ValueError(f"{text!r} is no target{_hint(text, CORE_TARGETS)}")
    return _pattern(text)


def _profile(value: object) -> re.Pattern[str]:
    text = _text(value)
    if not _WILD & set(text) and (problem := nsid_problem(text)):
        raise ValueError(problem)
    return _pattern(text)


def _hint(text: str, names: Iterable[str]) -> str:
    near = get_close_matches(text, list(names), 1)
    return f"; did you mean {near[0]}?" if near else ""


def _net(value: object) -> Network:
    text = _text(value)
    try:
        return ip_network(text)
    except ValueError as error:
        raise ValueError(f"{text!r} is no network: {error}") from None


def _domain(value: object) -> re.Pattern[str]:
    text = _text(value)
    if any(not label.isascii() and _CLASS & set(label) for label in DOTS.split(text)):
        raise ValueError(f"{text!r}: a label is either a pattern or beyond ASCII; write xn--...")
    return _pattern(in_ascii(text))


def _day(value: object) -> int:
    if (text := _text(value).lower()) in _DAYS:
        return _DAYS.index(text)
    raise ValueError(f"{value!r} is none of {', '.join(_DAYS)}")


def _clock(value: object) -> Time:
    if isinstance(value, str) and re.fullmatch(r"\d\d:\d\d(:\d\d)?", value):
        return Time.fromisoformat(value)
    if isinstance(value, Time):
        return value
    raise ValueError(f"expected a time of day as 08:00, found {value!r}")


def _moment(value: object) -> datetime:
    if isinstance(value, datetime) and value.tzinfo is not None:
        return value
    raise ValueError("expected a moment with its offset, as 2026-12-24T18:00:00Z")


_CONDITIONS: dict[str, tuple[str, Callable[[object], Any]]] = {
    "from": ("producers", _pattern),
    "topics": ("topics", _pattern),
    "profiles": ("profiles", _profile),
    "actions": ("actions", _action),
    "targets": ("targets", _target),
    "nets": ("nets", _net),
    "domains": ("domains", _domain),
}
_RULE = ("name", "effect", *_CONDITIONS, "when", "not_before", "not_after")
