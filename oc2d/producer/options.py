"""The command line of `oc2ctl`, as argparse wants it."""

from __future__ import annotations

import argparse
import contextlib
import ipaddress
import math
from enum import Enum
from pathlib import Path
from typing import Generic, NoReturn, TypeVar

from oc2d import __version__
from oc2d.language.codec import Encoding
from oc2d.language.vocabulary import Action, Feature, ResponseType
from oc2d.producer.settings import DEFAULT_FILE

__all__ = ["build_parser"]

_E = TypeVar("_E", bound=Enum)

_FILTER_TARGETS = ("ipv4_net", "ipv6_net", "ipv4_connection", "ipv6_connection")
_LONGEST = 1e9  # seconds; much more is too long for the clock of a wait
_COMPLETE = (ResponseType.COMPLETE,)
_UPDATE = (ResponseType.COMPLETE, ResponseType.ACK, ResponseType.NONE)
_WORDS = "VALUE, or NAME=VALUE …; JSON in one word ('{…}') is taken too"


def build_parser() -> argparse.ArgumentParser:
    """Build the parser; the namespace it makes has `subcommand` and what that one takes."""
    parser = _Parser(
        prog="oc2ctl",
        description="OpenC2 Producer: sends commands over MQTT and shows the responses.",
        epilog="Exit status: 0 all succeeded, 1 not all or no response, 2 usage, 78 configuration.",
        parents=[_common()],
        allow_abbrev=False,
    )
    parser.add_argument(
        "--version",
        action="version",
        version=f"%(prog)s {__version__}",
        help="print the version and exit",
    )
    parser.set_defaults(
        timeout=None, expect=None, json=False, verbose=False, encoding=Encoding.JSON, config=None
    )
    commands = parser.add_subparsers(dest="subcommand", metavar="COMMAND", required=True)

    def add(name: str, text: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(
            name, help=text, description=text, parents=[_common()], allow_abbrev=False
        )
        sub.set_defaults(words=[], response=ResponseType.COMPLETE, arg=[], actuator=None)
        sub.set_defaults(profile_field=False, start_time=None, stop_time=None, duration=None)
        return sub

    _add_query(add("query", "ask what Consumers can do"))
    for action in ("allow", "deny"):
        _add_filter(add(action, f"{action} traffic"), drops=action == "deny")
    delete = add("delete", "delete a rule")
    delete.add_argument("target", metavar="TARGET", choices=("slpf:rule_number",))
    delete.add_argument("words", nargs=1, metavar="NUMBER")
    update = add("update", "make Consumers load a file")
    update.add_argument("target", metavar="TARGET", choices=("file",))
    update.add_argument("words", nargs="+", metavar="NAME=VALUE", help="name=…, path=…")
    general = add("command", "send any command")
    general.add_argument("action", metavar="ACTION", choices=[action.value for action in Action])
    general.add_argument("target", metavar="TARGET")
    general.add_argument("words", nargs="*", metavar="VALUE", help=_WORDS)
    for sub, responses in ((delete, _COMPLETE), (update, _UPDATE), (general, tuple(ResponseType))):
        _add_response(sub, responses)
        _add_specifics(sub)
        _add_topics(sub)
    _add_window(general)
    send = add("send", "send a command or a whole message from a file")
    send.add_argument("file", metavar="FILE", help="JSON; - for standard input")
    send.add_argument("--raw", action="store_true", help="publish the bytes as they are, unchecked")
    _add_topics(send)
    add("watch", "show all OpenC2 traffic, until interrupted")
    return parser


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line: the usage is a screen of options that nobody asked for."""

    def error(self, message: str) -> NoReturn:
        if message.startswith("argument TARGET: invalid choice"):
            message += f"; for any other: {_with_command(self.prog)} TARGET …"
        self.exit(2, f"{self.prog}: {message}\n(see {self.prog} --help)\n")


def _with_command(prog: str) -> str:
    name, _, action = prog.rpartition(" ")
    return f"{name} command {action}"


def _add_query(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("target", metavar="TARGET", choices=("features",), help="features")
    sub.add_argument(
        "words",
        nargs="*",
        default=[],  # or argparse calls it required
        metavar="FEATURE",
        help=", ".join(feature.value for feature in Feature),
    )
    _add_specifics(sub, args=False)
    _add_topics(sub)


def _add_filter(sub: argparse.ArgumentParser, *, drops: bool) -> None:
    sub.add_argument(
        "target",
        type=_filter_target,
        metavar="TARGET",
        choices=_FILTER_TARGETS,
        help=", ".join(_FILTER_TARGETS),
    )
    sub.add_argument(
        "words",
        nargs="+",
        metavar="VALUE",
        help="a range (203.0.113.0/24), or src_addr=… src_port=… dst_addr=… dst_port=… protocol=…",
    )
    slpf = sub.add_argument_group("packet filter (slpf)")
    slpf.add_argument(
        "--direction",
        choices=("both", "ingress", "egress"),
        help="packets that arrive (ingress), that leave (egress), or both, the default",
    )
    if drops:
        slpf.add_argument(
            "--drop-process",
            choices=("none", "reject", "false_ack"),
            help="what the sender hears: nothing, a refusal, or a false acceptance",
        )
    slpf.add_argument("--insert-rule", type=int, metavar="N", help="the rule number to use")
    slpf.add_argument(
        "--persistent", action=argparse.BooleanOptionalAction, help="keep it over a reboot"
    )
    _add_window(sub)
    _add_response(sub, tuple(ResponseType))
    _add_specifics(sub)
    _add_topics(sub)


def _add_window(sub: argparse.ArgumentParser) -> None:
    when = "+30s, 2030-01-31T12:00:00Z, or milliseconds since 1970"
    group = sub.add_argument_group("time window (two of the three at most)")
    group.add_argument("--start-time", metavar="TIME", help=when)
    group.add_argument("--stop-time", metavar="TIME", help=when)
    group.add_argument("--duration", metavar="TIME", help="500ms, 30s, 10m, 2h, 1d")


def _add_response(sub: argparse.ArgumentParser, allowed: tuple[ResponseType, ...]) -> None:
    names = ", ".join(kind.value for kind in allowed)
    sub.add_argument(
        "--response",
        type=_OneOf(allowed),
        metavar="KIND",
        help=f"which responses to ask for: {names} (default: complete)",
    )


def _add_specifics(sub: argparse.ArgumentParser, *, args: bool = True) -> None:
    if args:
        sub.add_argument(
            "--arg",
            action="append",
            metavar="NSID.NAME=VALUE",
            help="an argument of a profile; repeatable",
        )
    sub.add_argument(
        "--actuator",
        nargs="+",
        metavar=("NSID", "NAME=TEXT"),
        help="the profile that shall act, and its specifiers",
    )
    sub.add_argument(
        "--profile-field",
        action="store_true",
        help="name the member `profile` in place of `actuator`, for Consumers that want it",
    )


def _add_topics(sub: argparse.ArgumentParser) -> None:
    group = sub.add_argument_group("to whom (exactly one of --all, --profile, --device, --topic)")
    one = group.add_mutually_exclusive_group(required=True)
    one.add_argument("--all", action="store_true", help="every Consumer")
    one.add_argument("--profile", metavar="NSID", help="every Consumer with this actuator profile")
    one.add_argument("--device", metavar="ID", help="this Consumer")
    one.add_argument(
        "--topic", type=_topic, help="another topic than OpenC2 has, whole: no namespace is added"
    )
    group.add_argument(
        "--to", action="append", metavar="NAME", help="only who has this name; repeatable"
    )


def _common() -> _Parser:
    """Make what may stand before and after the subcommand; absent, one must not undo the other."""
    common = _Parser(add_help=False, allow_abbrev=False, argument_default=argparse.SUPPRESS)
    link = common.add_argument_group("broker and identity (default: as the file says)")
    link.add_argument(
        "--config", type=Path, metavar="FILE", help=f"the file (default: {DEFAULT_FILE})"
    )
    link.add_argument("--broker", type=_broker, metavar="HOST[:PORT]")
    link.add_argument("--no-tls", action="store_true", help="for tests only: no TLS")
    for name, text in (
        ("--ca-file", "who may vouch for the broker (PEM)"),
        ("--cert-file", "our client certificate (PEM)"),
        ("--key-file", "its key (PEM)"),
        ("--password-file", "the broker's password for us; or set $OC2D_BROKER_PASSWORD"),
    ):
        link.add_argument(name, type=Path, metavar="FILE", help=text)
    link.add_argument("--username", help="our name at the broker")
    link.add_argument("--from", dest="sender", metavar="NAME", help="who we say we are")
    link.add_argument("--namespace", metavar="LEVELS", help="what stands before every topic")
    output = common.add_argument_group("messages")
    output.add_argument(
        "--encoding",
        type=_OneOf(tuple(Encoding)),
        metavar="KIND",
        help="json, cbor or cbor-concise",
    )
    output.add_argument(
        "--timeout", type=_seconds, metavar="SECONDS", help="how long to wait (default: 5)"
    )
    output.add_argument(
        "--expect",
        type=_count,
        metavar="N",
        help="end after responses of N Consumers; fewer are a failure (default with --device: 1)",
    )
    output.add_argument("--json", action="store_true", help="print one JSON object a line")
    output.add_argument("--verbose", action="store_true", help="log what the link does")
    return common


def _filter_target(text: str) -> str:
    """Leave a name to `choices`; a value in its place is the mistake of whoever is new."""
    with contextlib.suppress(ValueError):
        version = ipaddress.ip_network(text, strict=False).version
        raise argparse.ArgumentTypeError(f"say what {text} is: ipv{version}_net {text}")
    return text


class _OneOf(Generic[_E]):
    """Reads one of these members; `names` are their values, for completion."""

    def __init__(self, allowed: tuple[_E, ...]) -> None:
        self._members = {str(member.value): member for member in allowed}
        self.names = tuple(self._members)

    def __call__(self, text: str) -> _E:
        if text not in self._members:
            raise argparse.ArgumentTypeError(f"{text!r} is none of {', '.join(self.names)}")
        return self._members[text]


def _broker(text: str) -> tuple[str, int | None]:
    """Split HOST, HOST:PORT, [ADDRESS]:PORT; an IPv6 address alone needs no brackets."""
    host, colon, port = text.rpartition(":")
    if not colon or (text.count(":") > 1 and not host.endswith("]")):
        return text.strip("[]"), None
    if not (port.isascii() and port.isdecimal()):
        raise argparse.ArgumentTypeError(f"{port!r} is no port")
    return host.strip("[]"), int(port)


def _topic(text: str) -> str:
    """Take what can be published on; an unset variable of a script must not mean everybody."""
    if not text or set(text) & {"+", "#"}:
        raise argparse.ArgumentTypeError(f"{text!r} is no topic to publish on")
    return text


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds < _LONGEST:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds")
    return seconds


def _count(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and int(text) > 0):
        raise argparse.ArgumentTypeError(f"{text!r} is no count")
    return int(text)
