"""`oc2ctl`: one run, one request and its responses, or a look at the traffic (DESIGN 2).

Exit codes: 0 fine, 1 failure, 2 usage, 78 bad configuration.
"""

from __future__ import annotations

import argparse
import io
import logging
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import structlog

from oc2d.engine.ports import Inbound
from oc2d.errors import ConfigError, Oc2dError, Problem, Refusal, UsageError
from oc2d.language.codec import Tree
from oc2d.language.vocabulary import ResponseType
from oc2d.mqtt.tls import link_problems
from oc2d.producer.client import Producer
from oc2d.producer.messages import Request, command_topic, compose, compose_file, compose_raw
from oc2d.producer.options import build_parser
from oc2d.producer.replies import Reply, consumers
from oc2d.producer.rules import checked
from oc2d.producer.screen import Screen
from oc2d.producer.settings import ProducerSettings, load_settings, producer_link
from oc2d.producer.text import reply_object, to_json, traffic_line, traffic_object
from oc2d.producer.wire import Wire
from oc2d.producer.words import actuator_tree, args_tree, duration_ms, target_tree, time_ms
from oc2d.terminal import fill_closed, painted, printable

__all__ = ["main"]

_TIMEOUT = 5.0


def main(argv: Sequence[str] | None = None) -> int:
    """Run `oc2ctl` with these arguments (default: the process's own) and return the exit code."""
    fill_closed()
    options = build_parser().parse_args(argv)
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(
            logging.DEBUG if options.verbose else logging.CRITICAL
        ),
        logger_factory=lambda *_: structlog.PrintLogger(sys.stderr),
    )
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # Consumers may use any script
    try:
        _refuse_surrogates(sys.argv[1:] if argv is None else argv)
        code = _watch(options) if options.subcommand == "watch" else _ask(options)
        sys.stdout.flush()
    except ConfigError as error:
        for problem in error.problems:
            _say(problem)
        return error.exit_code
    except Refusal as error:  # by the language's own types: the command line was wrong
        _say(error)
        return UsageError.exit_code
    except Oc2dError as error:
        _say(error)
        return error.exit_code
    except KeyboardInterrupt:
        return 0 if options.subcommand == "watch" else Oc2dError.exit_code
    except BrokenPipeError:
        # Whoever read our output has seen enough; the interpreter must not flush it again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return Oc2dError.exit_code
    return code


def _refuse_surrogates(argv: Sequence[str]) -> None:
    try:
        "".join(argv).encode()
    except UnicodeEncodeError:  # neither JSON nor MQTT could carry it
        raise UsageError("the command line is not UTF-8 text") from None


def _say(message: Oc2dError | Problem | str) -> None:
    text = "\n".join(map(printable, str(message).splitlines()))
    sys.stderr.write(f"{painted('oc2ctl:', 'bold', sys.stderr)} {text}\n")


def _warn(message: str) -> None:
    _say(f"warning: {message}")


def _settings(options: argparse.Namespace) -> ProducerSettings:
    given: dict[str, Any] = {}
    if "broker" in options:
        given["broker.host"], port = options.broker
        if port is not None:
            given["broker.port"] = port
    if "no_tls" in options:
        given["broker.tls"] = False
    for name in ("ca_file", "cert_file", "key_file", "password_file", "username"):
        if name in options:
            given[f"broker.{name}"] = getattr(options, name)
    if "sender" in options:
        given["from"] = options.sender
    if "namespace" in options:
        given["namespace"] = options.namespace
    settings = load_settings(options.config, given)
    if problems := tuple(link_problems(settings.broker)):
        raise ConfigError(problems)
    return settings


def _warn_of(settings: ProducerSettings) -> None:
    """Say at each run what protects the link too little (MQTT-57, 67)."""
    if not settings.broker.tls:
        _warn("no TLS, for tests only: anybody on the way can read and command")
    elif not settings.broker.tls_verify:
        _warn("the broker is not verified, for tests only: anybody can pose as it")


# -- commands


def _ask(options: argparse.Namespace) -> int:
    settings = _settings(options)
    request = _request(options, settings)
    if request.sender is not None:
        settings = replace(settings, sender=request.sender)
    _warn_of(settings)
    timeout = options.timeout or _TIMEOUT
    expect = options.expect or (1 if options.device is not None else None)
    replies = []
    with Producer(settings, timeout=timeout) as producer:
        for warning in producer.warnings:
            _warn(warning)
        producer.publish(request)
        screen = Screen()
        if request.response is not ResponseType.NONE:
            screen.wait(request.topic, expect, timeout)
        try:
            for reply in producer.replies(request, expect=expect, timeout=timeout):
                _show(reply, screen, as_json=options.json)
                replies.append(reply)
        finally:
            screen.close()
        lost, broken = producer.unmatched, producer.last_loss
    if request.response is ResponseType.NONE:
        if lost:
            _say(_LOST)
        return 0
    why = None
    if broken and not lost:
        why = _BROKEN.format(broken)
    elif not replies:
        why = _LOST if lost else _why_silent(options.device)
    return _verdict(replies, request.response, expect, timeout, why)


_LOST = "the broker says that nobody has subscribed to this topic: the command is lost"


_BROKEN = (
    "the link to the broker was lost meanwhile ({}): responses may be missing, and the command may "
    "have taken effect"
)


def _why_silent(device: str | None) -> str:
    who = "no Consumer" if device is None else f"no Consumer with device_id {device}"
    return (
        f"either {who} has ever subscribed here: then the command is lost; or it is away: then the "
        "broker keeps the command, and it takes effect later; `oc2d status` on the Consumer tells"
    )


def _request(options: argparse.Namespace, settings: ProducerSettings) -> Request:
    encoding, sender, to = options.encoding, settings.sender, tuple(options.to or ())
    topic = options.topic or command_topic(
        settings.namespace, device=options.device, profile=options.profile
    )
    if options.subcommand != "send":
        command = checked(_command(options), encoding, _warn)
        return compose(command, topic, sender=sender, to=to, encoding=encoding)
    data = _read(options.file)
    if options.raw:
        return compose_raw(data, topic, encoding=encoding)

    def check(tree: Tree) -> Tree:
        return checked(tree, encoding, _warn)

    return compose_file(data, topic, sender=sender, to=to, encoding=encoding, check=check)


def _read(file: str) -> bytes:
    try:
        return sys.stdin.buffer.read() if file == "-" else Path(file).read_bytes()
    except OSError as error:
        raise UsageError(f"cannot read {file}: {error.strerror}") from error


def _command(options: argparse.Namespace) -> Tree:
    """Build the command that the options describe; nothing is checked yet."""
    args = args_tree(options.arg)
    slpf = {
        name: value
        for name in ("direction", "drop_process", "insert_rule", "persistent")
        if (value := getattr(options, name, None)) is not None
    }
    if slpf:
        args["slpf"] = {**args.get("slpf", {}), **slpf}
    now = time.time_ns() // 1_000_000
    for name in ("start_time", "stop_time"):
        if (text := getattr(options, name)) is not None:
            args[name] = time_ms(text, now)
    if options.duration is not None:
        args["duration"] = duration_ms(options.duration)
    # One argument of the language itself is always there (AMB-26), `complete` by default (SLPF-27).
    args["response_requested"] = options.response.value
    command: dict[str, Tree] = {
        "action": getattr(options, "action", options.subcommand),
        "target": target_tree(options.target, options.words),
        "args": args,
    }
    if options.actuator is not None:
        member = "profile" if options.profile_field else "actuator"
        command[member] = actuator_tree(options.actuator)
    return command


def _show(reply: Reply, screen: Screen, *, as_json: bool) -> None:
    if as_json:
        screen.clear()
        print(to_json(reply_object(reply)), flush=True)  # noqa: T201 - what the program is for
        return
    screen.show(reply)
    for warning in reply.warnings:
        screen.clear()
        _warn(f"{reply.sender or '?'}: {warning}")


def _verdict(
    replies: Sequence[Reply],
    wanted: ResponseType | None,
    expect: int | None,
    timeout: float,
    why: str | None,
) -> int:
    """Turn the statuses into the exit code (LANG-41), and say what is missing and perhaps why."""
    acknowledged = wanted is ResponseType.ACK
    final = [reply for reply in replies if acknowledged or not reply.interim]
    if consumers(final) < (expect or 1):
        if final:
            _say(f"{consumers(final)} of {expect} responses within {timeout:g} s")
        elif replies:
            _say(f"accepted, not finished within {timeout:g} s")
        else:
            _say(f"no response within {timeout:g} s")
        if why is not None:
            _say(why)
        return 1
    good = all(reply.succeeded or (acknowledged and reply.interim) for reply in final)
    return 0 if good else 1


# -- watch


def _watch(options: argparse.Namespace) -> int:
    settings = _settings(options)
    _warn_of(settings)
    topic = f"{settings.namespace}/oc2/#" if settings.namespace else "oc2/#"
    timeout = options.timeout or _TIMEOUT
    link = producer_link(settings, (topic,), timeout)
    deadline = None if options.timeout is None else time.monotonic() + timeout
    shown = 0
    with Wire(link, timeout, lambda reason: _warn(f"link lost: {reason}")) as wire:
        if isinstance(granted := wire.subscribed[topic], str):
            raise Oc2dError(f"the broker does not let us read {topic}: {granted}")
        while options.expect is None or shown < options.expect:
            message = wire.receive(deadline)
            if message is None:
                return 0 if options.expect is None else 1
            _show_traffic(message, as_json=options.json)
            shown += 1
    return 0


def _show_traffic(message: Inbound, *, as_json: bool) -> None:
    now = time.time()
    line = to_json(traffic_object(message, now)) if as_json else traffic_line(message, now)
    print(line, flush=True)  # noqa: T201 - what the program is for
