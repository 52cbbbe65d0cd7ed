"""The table of all configuration keys: kind, default and meaning, for the loader and the reference.

The defaults are those of the structures in `oc2d.config`, so that they stand in one place only.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path

import msgspec

from oc2d.config import ActuatorTable, Broker, Compat, Config, Limits, Metrics, Policy, State
from oc2d.config_kinds import (
    Choice,
    File,
    Flag,
    Kind,
    Namespace,
    Seconds,
    Secret,
    Text,
    Texts,
    Whole,
    alpn_problem,
    filter_problem,
    host_problem,
    listen_problem,
    namespace_problem,
    plain_problem,
    topic_level_problem,
)

__all__ = ["KEYS", "SECTIONS", "Key"]

#: The class behind each section; "" is the top level, `actuators.<nsid>` what the core reads there.
SECTIONS: dict[str, type] = {
    "": Config,
    "broker": Broker,
    "state": State,
    "limits": Limits,
    "policy": Policy,
    "compat": Compat,
    "metrics": Metrics,
    "actuators.<nsid>": ActuatorTable,
}
_PORTS = 65535
_LARGEST_PACKET = 268_435_455  # MQTT 5.0, 2.1.4
_LONGEST_QUEUE = 10_000  # each may have four responses on their way, of 60 000 packet ids
_FOUR_BYTES = 4_294_967_295  # MQTT 5.0, 3.1.2.11.2


class Key(msgspec.Struct, frozen=True):
    """One key: its TOML path, what it may hold, what it means; `attribute` of the structure."""

    path: str
    kind: Kind
    meaning: str
    unset: str = ""
    """What happens without the key, where the structure cannot tell."""
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
        """The attribute of the section's structure."""
        return self.attribute or self.name

    @property
    def required(self) -> bool:
        """Whether the file must have it."""
        return not self.unset and self._default is msgspec.NODEFAULT

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
        return _defaults(SECTIONS[self.section]).get(self.field, msgspec.NODEFAULT)


@cache
def _defaults(section: type[msgspec.Struct]) -> Mapping[str, object]:
    """Find the defaults; `msgspec.structs.fields` would evaluate annotations, at each start."""
    values = section.__struct_defaults__
    names = section.__struct_fields__
    return dict(zip(names[len(names) - len(values) :], values, strict=True))


_NAME = "a string that is one legal topic level: no `/`, `+`, `#`"

KEYS: tuple[Key, ...] = (
    Key(
        "device_id",
        Text(topic_level_problem, _NAME),
        "The name of this Consumer: it listens on `oc2/cmd/device/<device_id>`.",
    ),
    Key(
        "namespace",
        Namespace(
            namespace_problem,
            "topic levels joined by `/`: none empty, no `+`, `#`, no leading `$`; one trailing `/` "
            "is dropped",
        ),
        "Put in front of every topic: with `vpf`, commands arrive on `vpf/oc2/cmd/all`.",
    ),
    Key(
        "from",
        Text(plain_problem),
        "The identity in responses.",
        unset="the device_id",
        attribute="sender",
    ),
    Key(
        "broker.host",
        Text(host_problem, "a host name or an IP address"),
        "The MQTT broker. With TLS its certificate must carry this name.",
    ),
    Key("broker.port", Whole(1, _PORTS), "TCP port.", unset="8883, or 1883 when tls = false"),
    Key(
        "broker.tls",
        Flag(),
        "Use TLS 1.2 or newer. Without it anybody on the way can command this host: only for "
        "tests, warned of at each start.",
    ),
    Key(
        "broker.ca_file",
        File(),
        "The certificate authorities that may vouch for the broker (PEM).",
        unset="those of the system",
    ),
    Key("broker.cert_file", File(), "Our client certificate with its chain (PEM)."),
    Key("broker.key_file", File(), "Its private key (PEM)."),
    Key("broker.key_password_file", Secret(), "What decrypts the private key."),
    Key(
        "broker.crl_file",
        File(),
        "Certificate revocation lists (PEM); with it every certificate of the chain is checked, so "
        "it needs the list of each authority in it.",
    ),
    Key(
        "broker.tls_verify",
        Flag(),
        "false encrypts without knowing to whom: only for test brokers, warned of at each start.",
    ),
    Key(
        "broker.alpn",
        Text(alpn_problem, "1 to 255 printable ASCII characters"),
        "The protocol name to ask for in the TLS handshake (ALPN), for brokers that share a port "
        "with others: `mqtt` is the registered one.",
    ),
    Key("broker.username", Text(plain_problem), "User name at the broker."),
    Key(
        "broker.password_file",
        Secret(),
        "Where the password for the broker stands.",
        unset="the environment variable OC2D_BROKER_PASSWORD, else none",
    ),
    Key(
        "broker.keep_alive",
        Whole(1, 300),
        "Seconds of silence after which the link counts as broken.",
    ),
    Key(
        "broker.session_expiry",
        Whole(1, _FOUR_BYTES),
        "Seconds the broker keeps our session, and commands for us, while we are away.",
    ),
    Key(
        "broker.protocol",
        Choice(("5", "3.1.1")),
        "MQTT version. 3.1.1 is a degraded mode for old brokers and does not conform to OpenC2.",
    ),
    Key("broker.qos", Choice((1, 2)), "Quality of service of responses."),
    Key(
        "broker.response_topic",
        Choice(("general", "producer", "both")),
        "Answer on `oc2/rsp`, on `oc2/rsp/<producer>`, or on both.",
    ),
    Key(
        "broker.extra_subscriptions",
        Texts(filter_problem, "a list of topic filters"),
        "Further topics to take commands from, for instance `oc2/cmd` of older Producers.",
    ),
    Key(
        "broker.accept_retained",
        Flag(),
        "Carry out retained commands too; the broker repeats them at each subscription.",
    ),
    Key("state.directory", File(), "What must survive a reboot: journal, client id, rules."),
    Key(
        "state.runtime_directory",
        File(),
        "What must not: the status socket, and the mark of this boot, with which rules of "
        "`persistent: false` end.",
    ),
    Key(
        "limits.payload",
        Whole(1, _LARGEST_PACKET),
        "Bytes of one message, inclusive; a larger one is answered 400.",
    ),
    Key(
        "limits.queue",
        Whole(1, _LONGEST_QUEUE),
        "Commands accepted and not yet executed, or 64 MiB of such messages if that is less; "
        "beyond it the answer is 503. Those that wait for their start time may take half of it.",
    ),
    Key(
        "limits.queue_per_producer",
        Whole(1, _LONGEST_QUEUE),
        "One Producer's share of the queue, half of it for those that wait; beyond it the answer "
        "is 503.",
    ),
    Key(
        "limits.rate_per_minute",
        Whole(),
        "Commands per minute: advertised as `rate_limit`; beyond it the answer is 503.",
    ),
    Key(
        "limits.remember",
        Whole(1, _FOUR_BYTES),
        "Seconds for which a request is remembered and a repetition only answered, not executed.",
        unset="twice broker.session_expiry",
    ),
    Key(
        "limits.remember_count",
        Whole(),
        "Requests remembered at most; beyond it new ones are answered 503.",
    ),
    Key(
        "limits.interim_after",
        Seconds(),
        "Seconds after which a command that still runs is answered with an interim 102.",
    ),
    Key(
        "policy.producers",
        Texts(plain_problem, "a list of one or more strings", least=1),
        "Who may command: allowed values of `from`. Without proof by the broker they are claims.",
        unset="anybody",
    ),
    Key(
        "policy.max_age",
        Whole(),
        "Seconds; a command whose `created` is older is refused.",
        unset="any age",
    ),
    Key(
        "policy.order",
        Texts(plain_problem, "a list of profiles (NSIDs) of configured actuators"),
        "Which actuator takes a command that names none and that several could carry out.",
    ),
    Key(
        "policy.report_after_ack",
        Flag(),
        "After a 102 for `response_requested: ack`, answer once more if the command fails.",
    ),
    Key(
        "compat.bare_command",
        Flag(),
        "Take a command without `headers` and `body`, as older tools send it.",
    ),
    Key("compat.profile_field", Flag(), "Take `profile` in place of `actuator`."),
    Key(
        "compat.strict_cidr",
        Flag(),
        "Refuse address ranges with host bits set (`10.1.2.3/8`) instead of masking them.",
    ),
    Key(
        "metrics.listen",
        Text(listen_problem, "a loopback address with its port, or `unix:` and an absolute path"),
        "Where Prometheus on this host may ask for metrics: `127.0.0.1:9464`, `[::1]:9464` or "
        "`unix:/run/oc2d/metrics.sock`.",
        unset="nowhere",
    ),
    Key(
        "actuators.<nsid>.enabled",
        Flag(),
        "false: the table stays, the actuator is off.",
    ),
    Key(
        "actuators.<nsid>.required",
        Flag(),
        "false: start without the actuator, with a warning, if its plugin or table is unusable.",
    ),
    Key(
        "actuators.<nsid>.timeout",
        Seconds(),
        "Seconds one command may take before the actuator counts as stuck.",
    ),
)
