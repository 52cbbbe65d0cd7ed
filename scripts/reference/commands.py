"""Command lines as data: what argparse knows, and what the language knows of targets."""

from __future__ import annotations

import argparse
import re
from dataclasses import dataclass

from oc2d.language.targets import TARGET_TYPES, Members

__all__ = ["Command", "Option", "members", "read"]


@dataclass(frozen=True)
class Option:
    """One option or positional argument; `words` are the values it is known to take."""

    names: tuple[str, ...]
    value: str
    words: tuple[str, ...]
    help: str
    repeats: bool

    @property
    def takes_file(self) -> bool:
        """Whether its value is a path."""
        return self.value == "FILE"


@dataclass(frozen=True)
class Command:
    """One command line: a program, or one of its commands."""

    name: str
    help: str
    options: tuple[Option, ...]
    arguments: tuple[Option, ...]
    commands: tuple[Command, ...] = ()


def read(parser: argparse.ArgumentParser, name: str = "", text: str = "") -> Command:
    """Read a parser and those of its commands."""
    found, commands = [], []
    for action in parser._actions:  # noqa: SLF001 - argparse has no other door
        if isinstance(action, argparse._SubParsersAction):  # noqa: SLF001 - the same
            texts = {choice.dest: choice.help or "" for choice in action._choices_actions}  # noqa: SLF001
            commands = [read(sub, key, texts[key]) for key, sub in action.choices.items()]
        else:
            found.append(_option(action))
    return Command(
        name or parser.prog,
        text or parser.description or "",
        tuple(option for option in found if option.names),
        tuple(option for option in found if not option.names),
        tuple(commands),
    )


def _option(action: argparse.Action) -> Option:
    metavar = action.metavar
    value = " ".join(metavar) if isinstance(metavar, tuple) else metavar or ""
    words = tuple(map(str, action.choices or getattr(action.type, "names", ())))
    if not value and action.nargs != 0:
        value = "|".join(words) or action.dest.upper()
    if action.dest == "words" and action.help and re.fullmatch(r"\w+(, \w+)+", action.help):
        words = tuple(action.help.split(", "))
    repeats = action.nargs in {"*", "+"} or isinstance(action, argparse._AppendAction)  # noqa: SLF001
    names = tuple(action.option_strings)
    return Option(names, value if action.nargs != 0 else "", words, _help(action), repeats)


def _help(action: argparse.Action) -> str:
    if action.help == "show this help message and exit":
        return "show a summary and exit"
    return action.help or ", ".join(map(str, action.choices or ()))


def members(target: str) -> tuple[str, ...]:
    """Name the members of a target of the language, if it is made of some."""
    kind = TARGET_TYPES.get(target)
    is_structure = isinstance(kind, type) and issubclass(kind, Members)
    return tuple(f"{name}=" for name in kind.__struct_fields__) if is_structure else ()
