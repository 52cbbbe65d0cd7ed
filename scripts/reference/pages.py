"""Manual pages in roff."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from oc2d import __version__
from oc2d.config_keys import KEYS
from reference.commands import Command, Option

__all__ = ["config_page", "daemon_page", "plugin_keys", "producer_page"]

PLUGIN_KEYS = Path(__file__).resolve().parents[2] / "docs/configuration.md"
SECTIONS = {
    "": "the top level",
    "broker": "[broker]",
    "state": "[state]",
    "limits": "[limits]",
    "policy": "[policy]",
    "compat": "[compat]",
    "metrics": "[metrics]",
    "actuators.<nsid>": "[actuators.<nsid>], whatever the profile",
}
PLUGINS = {
    "actuators.slpf": "",
    "actuators.x-log": "",
    "actuators.pf": "In place of [actuators.slpf]: its keys but `update_directories`, and:",
    "plugins.policy": "",
    "plugins.audit": "",
}
CODES = {"0": "fine", "1": "failure", "2": "wrong command line", "78": "bad configuration"}


def plugin_keys(table: str) -> Iterator[tuple[str, str, str, str]]:
    """Yield key, value, default and meaning from the reference: plugins have no table of keys."""
    text = PLUGIN_KEYS.read_text().split(f"### `[{table}]`", 1)[1]
    for row in re.findall(r"^\| `\w+` \|.*\|$", text.split("\n##")[0], re.MULTILINE):
        name, value, default, meaning = (cell.strip() for cell in row.strip("|").split(" | "))
        yield name.strip(" `"), value, default, meaning


def roff(text: str) -> str:
    """Write plain text or a little Markdown as roff: `code` and [links](…)."""
    text = re.sub(r"\[([^]]+)\]\([^)]+\)", r"\1", text)
    text = text.replace("\\", "\\e").replace("-", "\\-").replace("…", "...")
    text = re.sub(r"`([^`]+)`", r"\\fB\1\\fR", text)
    return re.sub(r"^([.'])", r"\\&\1", text, flags=re.MULTILINE)


def page(name: str, number: int, summary: str, parts: Iterable[tuple[str, Iterable[str]]]) -> str:
    """Put a page together from its sections."""
    lines = [
        '.\\" Made by scripts/manuals; do not edit.',
        f'.TH {name.upper()} {number} "" "oc2d {__version__}" "OpenC2 Consumer"',
        ".SH NAME",
        f"{roff(name)} \\- {roff(summary)}",
    ]
    for title, content in parts:
        lines += [f".SH {title}", *content]
    return "\n".join(lines) + "\n"


def item(head: str, text: str) -> list[str]:
    """Write one entry of a list."""
    return [".TP", head, roff(text)]


def paragraphs(*texts: str) -> Iterator[str]:
    """Write plain paragraphs."""
    for text in texts:
        yield from (".PP", roff(" ".join(text.split())))


def code(*lines: str) -> list[str]:
    """Write lines as they are."""
    return [".PP", ".nf", ".RS", *map(roff, lines), ".RE", ".fi"]


def option_items(found: Iterable[Option]) -> Iterator[str]:
    """Write options, or positional arguments."""
    for option in found:
        names = ", ".join(f"\\fB{roff(name)}\\fR" for name in option.names)
        value = f"\\fI{roff(option.value)}\\fR" if option.value else ""
        yield from item(" ".join(filter(None, (names, value))), option.help)


def exits(codes: dict[str, str]) -> Iterator[str]:
    """Write the exit codes."""
    for number, meaning in codes.items():
        yield from item(number, meaning)


def subcommands(command: Command) -> Iterator[str]:
    """Write each command with what only it takes."""
    everywhere = {option.names[0] for option in command.options}
    for sub in command.commands:
        words = " ".join(argument.value for argument in sub.arguments)
        yield f".SS {roff(f'{command.name} {sub.name} {words}'.strip())}"
        yield from paragraphs(f"{sub.help[:1].upper()}{sub.help[1:]}.")
        yield from option_items(argument for argument in sub.arguments if argument.help)
        yield from option_items(o for o in sub.options if o.names[0] not in everywhere)


def _synopsis(sub: Command) -> str:
    words = "".join(f" \\fI{argument.value}\\fR" for argument in sub.arguments)
    return f"\\fBoc2d {roff(sub.name)}\\fR{words} [\\fIoptions\\fR]"


def daemon_page(command: Command) -> str:
    """oc2d(8)."""
    return page(
        "oc2d",
        8,
        "OpenC2 Consumer: carries out commands that arrive over MQTT",
        (
            (
                "SYNOPSIS",
                (
                    ".nf",
                    "\\fBoc2d\\fR [\\fB\\-\\-foreground\\fR] [\\fIoptions\\fR]",
                    *(_synopsis(sub) for sub in command.commands),
                    ".fi",
                ),
            ),
            (
                "DESCRIPTION",
                paragraphs(
                    "`oc2d` takes OpenC2 commands from an MQTT 5 broker, hands each to the plugin "
                    "of the addressed actuator profile, and publishes the response. The profile "
                    "slpf allows and denies traffic in the kernel's packet filter.",
                    "Without a command it runs until a signal ends it, and never puts itself into "
                    "the background. It is ready when its configuration and journal are open and "
                    "its rules are in force; it does not wait for the broker.",
                ),
            ),
            ("OPTIONS", option_items(command.options)),
            (
                "COMMANDS",
                (
                    *paragraphs(
                        "`check`, `plugins` and `status` take `--config`, `--log-format` and "
                        "`--log-level` too, before or after their name."
                    ),
                    *subcommands(command),
                ),
            ),
            (
                "SIGNALS",
                (
                    *item(
                        "SIGTERM, SIGINT",
                        "Finish what is running, disconnect, end. The rules stay in force, unless "
                        "`at_stop` in oc2d.toml(5) says otherwise.",
                    ),
                    *item(
                        "SIGHUP",
                        "Read the configuration and the TLS files again. A wrong configuration "
                        "changes nothing; keys that need a restart are named in the log and by "
                        "`oc2d status`.",
                    ),
                ),
            ),
            ("EXIT STATUS", exits(CODES)),
            (
                "ENVIRONMENT",
                (
                    *item("OC2D_BROKER_PASSWORD", "The password, where no file names one."),
                    *item("CREDENTIALS_DIRECTORY", "Where systemd puts credentials."),
                    *item("NOTIFY_SOCKET, WATCHDOG_USEC, WATCHDOG_PID", "See sd_notify(3)."),
                    *item("NO_COLOR", "No colours, on a terminal either."),
                ),
            ),
            (
                "FILES",
                (
                    *item("/etc/oc2d/oc2d.toml", "The configuration: oc2d.toml(5)."),
                    *item(
                        "/etc/oc2d/credentials/broker-password",
                        "The password, which the service gets as the systemd credential "
                        "`broker-password`; only root may read it.",
                    ),
                    *item("/var/lib/oc2d", "Journal, client id, rules: one daemon to a directory."),
                    *item(
                        "/run/oc2d/status.sock",
                        "Answers `oc2d status` of root and of the directory's group.",
                    ),
                ),
            ),
            (
                "EXAMPLES",
                (
                    *paragraphs("Configured, for the first time and after each change:"),
                    *code(
                        "systemd-ask-password Password: | "
                        "install -m 600 /dev/stdin /etc/oc2d/credentials/broker-password",
                        "oc2d check",
                        "systemctl enable oc2d",
                        "systemctl restart oc2d",
                        "oc2d status",
                    ),
                    *paragraphs("What the rules are in the kernel, and why something happened:"),
                    *code("nft list table inet oc2d", "journalctl -u oc2d"),
                ),
            ),
            ("SEE ALSO", ("oc2ctl(1), oc2d.toml(5), nft(8), systemd.exec(5)",)),
        ),
    )


def producer_page(command: Command) -> str:
    """oc2ctl(1)."""
    return page(
        "oc2ctl",
        1,
        "OpenC2 Producer: sends commands over MQTT and shows the responses",
        (
            (
                "SYNOPSIS",
                ("\\fBoc2ctl\\fR \\fICOMMAND\\fR [\\fIargument\\fR ...] [\\fIoptions\\fR]",),
            ),
            (
                "DESCRIPTION",
                paragraphs(
                    "`oc2ctl` publishes one OpenC2 command over MQTT, prints the responses as they "
                    "arrive, and ends with a status that scripts can use. Every command says to "
                    "whom it goes, by exactly one of `--device`, `--profile`, `--all` and "
                    "`--topic`.",
                    "It ends after responses of `--expect` Consumers (with `--device`: 1), or "
                    "after `--timeout` seconds. Words of a target stand together: options go "
                    "before or after them.",
                ),
            ),
            ("COMMANDS", subcommands(command)),
            ("OPTIONS", option_items(command.options)),
            (
                "EXIT STATUS",
                exits(
                    CODES
                    | {
                        "0": "every response was 2xx, and there were as many as expected",
                        "1": "another status, too few responses, or no link to the broker",
                        "2": "the command line or the command is wrong",
                        "78": "the configuration is wrong, or a secret or TLS file cannot be read",
                    }
                ),
            ),
            (
                "ENVIRONMENT",
                (
                    *item("OC2D_BROKER_PASSWORD", "The password, where no file names one."),
                    *item("NO_COLOR", "No colours, on a terminal either."),
                ),
            ),
            (
                "FILES",
                (
                    *item(
                        "~/.config/oc2d/oc2ctl.toml",
                        "`from`, `namespace` and `[broker]`, as in oc2d.toml(5). For instance:",
                    ),
                    *code(
                        'from = "soc"',
                        "",
                        "[broker]",
                        'host = "mqtt.example.com"',
                        'ca_file = "ca.pem"',
                        'username = "soc"',
                        'password_file = "./soc-password"',
                    ),
                ),
            ),
            (
                "EXAMPLES",
                code(
                    "oc2ctl query features pairs --device fw-7",
                    "oc2ctl deny ipv4_net 203.0.113.0/24 --device fw-7 --duration 2h",
                    "oc2ctl allow ipv4_connection protocol=tcp dst_port=22 --profile slpf",
                    "oc2ctl delete slpf:rule_number 42 --device fw-7",
                ),
            ),
            ("SEE ALSO", ("oc2d(8), oc2d.toml(5)",)),
        ),
    )


def _keys(section: str) -> Iterator[str]:
    for key in KEYS:
        if key.section == section:
            yield from _key(key.name, str(key.kind), key.default, key.meaning)


def _key(name: str, value: str, default: str, meaning: str) -> Iterator[str]:
    told = default if default == "required" else f"default: {default}"
    yield from item(f"\\fB{roff(name)}\\fR", f"{meaning} ({value}; {told})")


def config_page() -> str:
    """oc2d.toml(5)."""
    keys: list[str] = []
    for section, title in SECTIONS.items():
        keys += [f".SS {roff(title)}", *_keys(section)]
    for table, told in PLUGINS.items():
        keys += [f".SS {roff(f'[{table}]')}", *paragraphs(*filter(None, [told]))]
        for row in plugin_keys(table):
            keys += _key(*row)
    return page(
        "oc2d.toml",
        5,
        "configuration of the OpenC2 Consumer oc2d",
        (
            (
                "DESCRIPTION",
                (
                    *paragraphs(
                        "One TOML file, /etc/oc2d/oc2d.toml or the one that `--config` names. A "
                        "key that is not described here is an error. `oc2d check` reports every "
                        "mistake with its place, and changes nothing. The least that is needed:"
                    ),
                    *code(
                        'device_id = "fw-7"',
                        "",
                        "[broker]",
                        'host = "mqtt.example.com"',
                        "",
                        "[actuators.slpf]",
                    ),
                    *paragraphs(
                        'A name without a slash, as in `password_file = "broker-password"`, is a '
                        "systemd credential: the service has this one from "
                        "/etc/oc2d/credentials/broker-password. A path (`./password`) is read as "
                        "the user that the daemon runs as."
                    ),
                ),
            ),
            ("KEYS", keys),
            (
                "RELOADING",
                paragraphs(
                    "On SIGHUP all keys count at once but `device_id`, `namespace`, `from`, those "
                    "of [state] and [metrics], and of the actuators all but `timeout`: these wait "
                    "for a restart."
                ),
            ),
            ("SEE ALSO", ("oc2d(8), oc2ctl(1)",)),
        ),
    )
