"""The table of all configuration keys: kind, default and meaning, for the loader and the reference.

A kind turns a TOML value into the typed one and raises `ValueError` with words for the user. The
defaults are those of the dataclasses in `oc2d.config`, so that they stand in one place only.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any, ClassVar, Protocol

from oc2d.config import ActuatorTable, Broker, Compat, Config, Limits, Policy, State

__all__ = ["KEYS", "SECTIONS", "Key", "Kind", "found", "topic_level_problem"]

#: The class behind each section; "" is the top level, `actuators.<nsid>` what the core reads there.
SECTIONS: dict[str, type] = {
    "": Config,
    "broker": Broker,
    "state": State,
    "limits": Limits,
    "policy": Policy,
    "compat": Compat,
    "actuators.<nsid>": ActuatorTable,
}
_GLANCE = 40
_LONGEST_TOPIC = 65535  # MQTT 5.0, 1.5.4: bytes of UTF-8
_PORTS = 65535
_LARGEST_PACKET = 268_435_455  # MQTT 5.0, 2.1.4
_FOUR_BYTES = 4_294_967_295  # MQTT 5.0, 3.1.2.11.2

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
    if isinstance(value, (int, float)):
        return f"{name} {value}"
    if isinstance(value, str):
        return f"{name} {value!r}" if len(value) <= _GLANCE else f"{name} {value[:_GLANCE]!r}..."
    return name


def _wrong(expected: str, value: object) -> ValueError:
    return ValueError(f"expected {expected}, found {found(value)}")


@dataclass(frozen=True, slots=True)
class _Flag:
    def parse(self, value: object, _base: Path) -> bool:
        if not isinstance(value, bool):
            raise _wrong("true or false", value)
        return value

    def __str__(self) -> str:
        return "true or false"


@dataclass(frozen=True, slots=True)
class _Whole:
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


@dataclass(frozen=True, slots=True)
class _Seconds:
    def parse(self, value: object, _base: Path) -> float:
        if not isinstance(value, (int, float)) or isinstance(value, bool):
            raise _wrong("a number of seconds", value)
        if not (value > 0 and math.isfinite(value)):
            raise _wrong(str(self), value)
        return float(value)

    def __str__(self) -> str:
        return "seconds, more than 0"


@dataclass(frozen=True, slots=True)
class _Choice:
    choices: Sequence[str | int]

    def parse(self, value: object, _base: Path) -> str | int:
        for choice in self.choices:
            if choice == value and type(choice) is type(value):
                return choice
        raise _wrong(str(self), value)

    def __str__(self) -> str:
        shown = [f'"{c}"' if isinstance(c, str) else str(c) for c in self.choices]
        return " or ".join([", ".join(shown[:-1]), shown[-1]])


@dataclass(frozen=True, slots=True)
class _Text:
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


@dataclass(frozen=True, slots=True)
class _Namespace(_Text):
    def parse(self, value: object, base: Path) -> str:
        # DESIGN 2: one trailing slash is dropped; alone it would be an empty level. Slots and a
        # zero-argument super() do not go together before Python 3.14.
        whole = value.removesuffix("/") if isinstance(value, str) and value != "/" else value
        return _Text.parse(self, whole, base)


@dataclass(frozen=True, slots=True)
class _Texts:
    check: _Check
    words: str
    least: int = 0

    def parse(self, value: object, base: Path) -> tuple[str, ...]:
        if not isinstance(value, list):
            raise _wrong("a list of strings", value)
        if len(value) < self.least:
            raise ValueError("the list is empty: name at least one, or leave the key out")
        text = _Text(self.check)
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


@dataclass(frozen=True, slots=True)
class _File:
    words: ClassVar[str] = "a path; a relative one starts at the directory of this file"

    def parse(self, value: object, base: Path) -> Path:
        if not isinstance(value, str):
            raise _wrong("a path (a string)", value)
        if problem := _plain(value):
            raise ValueError(problem)
        return base / value

    def __str__(self) -> str:
        return self.words


@dataclass(frozen=True, slots=True)
class _Secret:
    """A path, or a bare name: the systemd credential of that name, found when it is read."""

    def parse(self, value: object, base: Path) -> str:
        # What stands here may be the secret itself, put in the wrong place: it is never repeated.
        if not isinstance(value, str):
            raise ValueError(  # noqa: TRY004 - the loader collects it
                "expected a path or the name of a systemd credential (a string)"
            )
        if problem := _plain(value):
            raise ValueError(problem)
        return str(base / value) if "/" in value else value

    def __str__(self) -> str:
        return "a path (with a `/` in it), or the name of a systemd credential"


def _plain(text: str) -> str | None:
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
    return _plain(text)


def _namespace_problem(text: str) -> str | None:
    if text.startswith("$"):
        return "must not begin with $: such topics belong to the broker"
    for level in text.split("/") if text else ():
        if not level:
            return "has an empty topic level: no leading, double or second trailing slash"
        if problem := topic_level_problem(level):
            return problem
    return None


def _filter_problem(text: str) -> str | None:
    """Check a topic filter (MQTT 5.0, 4.7); `$` is out because `namespace` is put in front."""
    levels = text.split("/")
    if text.startswith("$"):
        return "must not begin with $: no shared subscriptions, no topics of the broker"
    if "#" in "".join(levels[:-1]) or ("#" in levels[-1] and levels[-1] != "#"):
        return "# stands only as the whole last level of a topic filter"
    if any("+" in level and level != "+" for level in levels):
        return "+ stands only as a whole level of a topic filter"
    return _plain(text)


def _host_problem(text: str) -> str | None:
    if "://" in text:
        return "expected a host name or an address, not a URL; the port goes into broker.port"
    if text.count(":") == 1:
        return "expected a host name or an address only; the port goes into broker.port"
    if any(char.isspace() or char in "/[]" for char in text):
        return "is no host name or address"
    return _plain(text)


@dataclass(frozen=True, slots=True)
class Key:
    """One key: its TOML path, what it may hold, what it means; `attribute` of the dataclass."""

    path: str
    kind: Kind
    meaning: str
    unset: str = ""
    """What happens without the key, where the dataclass cannot tell."""
    attribute: str = ""

    @property
    def section(self) -> str:
        """The table that holds the key; "" is the top level."""
        return self.path.rpartition(".")[0]

    @property
    def name(self) -> str:
        """The key within its table."""
        return self.path.rpartition(".")[2]

    @property
    def field(self) -> str:
        """The attribute of the section's dataclass."""
        return self.attribute or self.name

    @property
    def required(self) -> bool:
        """Whether the file must have it."""
        return not self.unset and self._default is MISSING

    @property
    def default(self) -> str:
        """What holds without the key, for the reference."""
        value = self._default
        if self.required:
            return "required"
        if self.unset:
            return self.unset
        if isinstance(value, bool):
            return str(value).lower()
        if isinstance(value, (str, Path)):
            return f'"{value}"' if str(value) else "none"
        if isinstance(value, tuple):
            return "[]"
        return "none" if value is None else f"{value:g}" if isinstance(value, float) else str(value)

    @property
    def _default(self) -> object:
        return next(f.default for f in fields(SECTIONS[self.section]) if f.name == self.field)


_NAME = "a string that is one legal topic level: no `/`, `+`, `#`"

KEYS: tuple[Key, ...] = (
    Key(
        "device_id",
        _Text(topic_level_problem, _NAME),
        "The name of this Consumer: it listens on `oc2/cmd/device/<device_id>`.",
    ),
    Key(
        "namespace",
        _Namespace(
            _namespace_problem,
            "topic levels joined by `/`: none empty, no `+`, `#`, no leading `$`; one trailing `/` "
            "is dropped",
        ),
        "Put in front of every topic: with `vpf`, commands arrive on `vpf/oc2/cmd/all`.",
    ),
    Key(
        "from",
        _Text(_plain),
        "The identity in responses.",
        unset="the device_id",
        attribute="sender",
    ),
    Key(
        "broker.host",
        _Text(_host_problem, "a host name or an IP address"),
        "The MQTT broker. With TLS its certificate must carry this name.",
    ),
    Key("broker.port", _Whole(1, _PORTS), "TCP port.", unset="8883, or 1883 when tls = false"),
    Key(
        "broker.tls",
        _Flag(),
        "Use TLS 1.2 or newer. Without it anybody on the way can command this host: only for "
        "tests, warned of at each start.",
    ),
    Key(
        "broker.ca_file",
        _File(),
        "The certificate authorities that may vouch for the broker (PEM).",
        unset="those of the system",
    ),
    Key("broker.cert_file", _File(), "Our client certificate with its chain (PEM)."),
    Key("broker.key_file", _File(), "Its private key (PEM)."),
    Key("broker.key_password_file", _Secret(), "What decrypts the private key."),
    Key(
        "broker.crl_file",
        _File(),
        "Certificate revocation lists (PEM); with it every certificate of the chain is checked.",
    ),
    Key(
        "broker.tls_verify",
        _Flag(),
        "false encrypts without knowing to whom: only for test brokers, warned of at each start.",
    ),
    Key("broker.username", _Text(_plain), "User name at the broker."),
    Key(
        "broker.password_file",
        _Secret(),
        "Where the password for the broker stands.",
        unset="the environment variable OC2D_BROKER_PASSWORD, else none",
    ),
    Key(
        "broker.keep_alive",
        _Whole(1, 300),
        "Seconds of silence after which the link counts as broken.",
    ),
    Key(
        "broker.session_expiry",
        _Whole(1, _FOUR_BYTES),
        "Seconds the broker keeps our session, and commands for us, while we are away.",
    ),
    Key(
        "broker.protocol",
        _Choice(("5", "3.1.1")),
        "MQTT version. 3.1.1 is a degraded mode for old brokers and does not conform to OpenC2.",
    ),
    Key("broker.qos", _Choice((1, 2)), "Quality of service of responses."),
    Key(
        "broker.response_topic",
        _Choice(("general", "producer", "both")),
        "Answer on `oc2/rsp`, on `oc2/rsp/<producer>`, or on both.",
    ),
    Key(
        "broker.extra_subscriptions",
        _Texts(_filter_problem, "a list of topic filters"),
        "Further topics to take commands from, for instance `oc2/cmd` of older Producers.",
    ),
    Key(
        "broker.accept_retained",
        _Flag(),
        "Carry out retained commands too; the broker repeats them at each subscription.",
    ),
    Key("state.directory", _File(), "What must survive a reboot: journal, client id, rules."),
    Key(
        "state.runtime_directory",
        _File(),
        "What must not: the status socket, rules with `persistent: false`.",
    ),
    Key(
        "limits.payload",
        _Whole(1, _LARGEST_PACKET),
        "Bytes of one message, inclusive; a larger one is answered 400.",
    ),
    Key(
        "limits.queue",
        _Whole(),
        "Commands accepted and not yet executed; beyond it the answer is 503.",
    ),
    Key(
        "limits.queue_per_producer",
        _Whole(),
        "One Producer's share of the queue; beyond it the answer is 503.",
    ),
    Key(
        "limits.rate_per_minute",
        _Whole(),
        "Commands per minute: advertised as `rate_limit`; beyond it the answer is 503.",
    ),
    Key(
        "limits.remember",
        _Whole(),
        "Seconds for which a request is remembered and a repetition only answered, not executed.",
        unset="twice broker.session_expiry",
    ),
    Key(
        "limits.remember_count",
        _Whole(),
        "Requests remembered at most; beyond it new ones are answered 503.",
    ),
    Key(
        "limits.interim_after",
        _Seconds(),
        "Seconds after which a command that still runs is answered with an interim 102.",
    ),
    Key(
        "policy.producers",
        _Texts(_plain, "a list of one or more strings", least=1),
        "Who may command: allowed values of `from`. Without proof by the broker they are claims.",
        unset="anybody",
    ),
    Key(
        "policy.max_age",
        _Whole(),
        "Seconds; a command whose `created` is older is refused.",
        unset="any age",
    ),
    Key(
        "policy.order",
        _Texts(_plain, "a list of profiles (NSIDs) of configured actuators"),
        "Which actuator takes a command that names none and that several could carry out.",
    ),
    Key(
        "policy.report_after_ack",
        _Flag(),
        "After a 102 for `response_requested: ack`, answer once more if the command fails.",
    ),
    Key(
        "compat.bare_command",
        _Flag(),
        "Take a command without `headers` and `body`, as older tools send it.",
    ),
    Key("compat.profile_field", _Flag(), "Take `profile` in place of `actuator`."),
    Key(
        "compat.strict_cidr",
        _Flag(),
        "Refuse address ranges with host bits set (`10.1.2.3/8`) instead of masking them.",
    ),
    Key(
        "actuators.<nsid>.enabled",
        _Flag(),
        "false: the table stays, the actuator is off.",
    ),
    Key(
        "actuators.<nsid>.required",
        _Flag(),
        "false: start without the actuator, with a warning, if its plugin or table is unusable.",
    ),
    Key(
        "actuators.<nsid>.timeout",
        _Seconds(),
        "Seconds one command may take before the actuator counts as stuck.",
    ),
)
