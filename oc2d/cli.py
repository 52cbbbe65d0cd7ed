"""The command line of `oc2d`: arguments, then one function call.

Imports stay inside the functions: `oc2d --version` must not load the transfer or the engine.
Exit codes: 0 fine, 1 failure, 2 usage, 78 bad configuration (DESIGN 2).
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import NoReturn, cast

from oc2d import __version__
from oc2d.errors import ConfigError, Oc2dError, Problem
from oc2d.terminal import fill_closed, painted

__all__ = ["DEFAULT_CONFIG", "build_parser", "main", "program"]

DEFAULT_CONFIG = Path("/etc/oc2d/oc2d.toml")
_GUIDE = "the guide for authors of plugins is docs/plugins.md"


def program() -> NoReturn:
    """Be the program `oc2d`: it ends when its work is done, whatever threads plugins have begun."""
    code = main()
    if threading.active_count() > 1:
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


def main(argv: Sequence[str] | None = None) -> int:
    """Run `oc2d` with these arguments (default: the process's own) and return the exit code."""
    fill_closed()
    options = build_parser().parse_args(argv)
    command = cast(Callable[[argparse.Namespace], int], options.run)
    try:
        code = command(options)
        sys.stdout.flush()
    except ConfigError as error:
        for problem in error.problems:
            _complain(problem)
        if any(problem.path for problem in error.problems):
            sys.stderr.write(f"oc2d: the configuration is {options.config}\n")
        return error.exit_code
    except Oc2dError as error:
        _complain(error)
        return error.exit_code
    except KeyboardInterrupt:
        return Oc2dError.exit_code
    except BrokenPipeError:
        # Whoever read our output has seen enough; the interpreter must not flush it again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return Oc2dError.exit_code
    return code


def _complain(message: Oc2dError | Problem) -> None:
    sys.stderr.write(f"{painted('oc2d:', 'red', sys.stderr)} {message}\n")


def build_parser() -> argparse.ArgumentParser:
    """Build the parser; the namespace it makes has `run`, which takes it and returns the code."""
    parser = argparse.ArgumentParser(
        prog="oc2d",
        description="OpenC2 Consumer: carries out OpenC2 commands that arrive over MQTT.",
        epilog="Without a command: run the Consumer.",
        allow_abbrev=False,
    )
    parser.set_defaults(
        run=_run,
        config=DEFAULT_CONFIG,
        foreground=False,
        log_format=None,
        log_level="info",
        json=False,
    )
    _add_common(parser)
    parser.add_argument(
        "--version",
        action="version",
        version=f"%(prog)s {__version__}",
        help="print the version and exit",
    )
    parser.add_argument(
        "--foreground",
        action="store_true",
        help="log for people on stderr; no service manager is needed",
    )
    commands = parser.add_subparsers(title="commands", metavar="{check,plugins,status,new-plugin}")
    for name, command, text in (
        ("check", _check, "report everything that is wrong with the configuration; change nothing"),
        ("plugins", _plugins, "list the plugins that are installed, and why one is not in use"),
        ("status", _status, "ask the running daemon how it is"),
    ):
        sub = commands.add_parser(name, help=text, description=text, allow_abbrev=False)
        sub.set_defaults(run=command)
        _add_common(sub)
        if name == "check":
            continue  # argparse cannot tell the usage of a group without members
        forms = sub.add_mutually_exclusive_group()
        forms.add_argument("--json", action="store_true", help="print JSON")
        if name == "status":
            forms.add_argument(
                "--watch", action="store_true", help="show it anew each second, until q or Ctrl-C"
            )
    text = "make the package of a new actuator profile, with tests that pass, to start from"
    sub = commands.add_parser("new-plugin", help=text, description=text, allow_abbrev=False)
    sub.set_defaults(run=_new_plugin)
    sub.add_argument("nsid", metavar="NSID", help="the name of the profile, as x-door")
    sub.add_argument(
        "--directory",
        type=Path,
        metavar="DIR",
        default=Path(),
        help="where to make it (default: here)",
    )
    return parser


def _add_common(parser: argparse.ArgumentParser) -> None:
    """Add what may stand before and after the command; absent, it must not undo the other."""
    parser.add_argument(
        "--config",
        type=Path,
        metavar="FILE",
        default=argparse.SUPPRESS,
        help=f"the configuration (default: {DEFAULT_CONFIG})",
    )
    parser.add_argument(
        "--log-format",
        choices=("console", "journal", "json"),
        default=argparse.SUPPRESS,
        help="how to log (default: console in the foreground, else journal)",
    )
    parser.add_argument(
        "--log-level",
        choices=("debug", "info", "warning", "error"),
        default=argparse.SUPPRESS,
        help="the least that is logged (default: info)",
    )


def _configure_logs(options: argparse.Namespace, default: str) -> None:
    from oc2d import logs  # noqa: PLC0415 - see the module's docstring

    mode = cast(logs.Format, options.log_format or default)
    logs.configure(mode, options.log_level)
    logs.keep()


def _run(options: argparse.Namespace) -> int:
    from oc2d.daemon import run  # noqa: PLC0415 - see the module's docstring

    _configure_logs(options, "console" if options.foreground else "journal")
    # absolute: a reload reads it again, and a plugin may have gone elsewhere
    return run(options.config.absolute(), foreground=options.foreground)


def _check(options: argparse.Namespace) -> int:
    from oc2d.checks import prepare  # noqa: PLC0415 - see the module's docstring

    _configure_logs(options, "console")
    prepared = prepare(options.config, by_hand=True)
    for warning in prepared.warnings:
        sys.stderr.write(f"{painted('oc2d: warning:', 'yellow', sys.stderr)} {warning}\n")
    sys.stdout.write(painted("configuration OK", "green", sys.stdout) + "\n")
    return 0


def _plugins(options: argparse.Namespace) -> int:
    from oc2d.plugin_list import as_json, list_plugins, render  # noqa: PLC0415 - see the module's docstring
    from oc2d.plugin_search import places  # noqa: PLC0415 - the same

    _configure_logs(options, "console")
    with redirect_stdout(sys.stderr):  # a plugin may print
        rows = list_plugins(options.config)
    told = json.dumps(as_json(rows), indent=2) if options.json else render(rows, places())
    sys.stdout.write(told + "\n")
    return 0


def _new_plugin(options: argparse.Namespace) -> int:
    from oc2d.new_plugin import make_plugin  # noqa: PLC0415 - see the module's docstring

    root = make_plugin(options.nsid, options.directory)
    sys.stdout.write(f"{root}: start with its README.md; {_GUIDE}\n")
    return 0


def _status(options: argparse.Namespace) -> int:
    from oc2d.config import State  # noqa: PLC0415 - see the module's docstring
    from oc2d.config_file import inspect  # noqa: PLC0415 - the same
    from oc2d.status import SOCKET_NAME, fetch  # noqa: PLC0415 - the same
    from oc2d.status_text import render  # noqa: PLC0415 - the same
    from oc2d.status_watch import watch  # noqa: PLC0415 - the same

    # A daemon goes on after its file was broken or taken away, and can be asked then too.
    findings = inspect(options.config)
    state = findings.state or (State() if options.config == DEFAULT_CONFIG else None)
    if state is None:
        raise ConfigError(findings.problems)
    socket = state.runtime_directory / SOCKET_NAME

    def told() -> str:
        found = fetch(socket)
        try:
            return json.dumps(found, indent=2) + "\n" if options.json else render(found)
        except RecursionError:
            raise Oc2dError(f"the answer on {socket} is nested too deep to be shown") from None

    if options.watch:
        return watch(told)
    sys.stdout.write(told())
    return 0
