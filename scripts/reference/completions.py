"""Completion for bash, zsh and fish."""

from __future__ import annotations

import re
from collections.abc import Iterator

from oc2d.language.targets import TARGET_TYPES
from reference.commands import Command, Option, members

__all__ = ["bash", "fish", "zsh"]


def arguments(command: Command) -> list[tuple[int, str, tuple[str, ...]]]:
    """Give place, name and words of positional arguments; the last may be repeated."""
    found = []
    for place, one in enumerate(command.arguments, 1):
        words = one.words
        if one.value == "TARGET" and not words:
            words = (*TARGET_TYPES, "slpf:rule_number")
        found.append((place, "file" if one.takes_file else one.value, words))
    return found


def quoted(text: str) -> str:
    """Quote for a shell."""
    return "'" + text.replace("'", "'\\''") + "'"


BASH = """\
# bash completion of {name}; made by scripts/manuals, do not edit
_{name}() {{
  local line=${{COMP_LINE:0:COMP_POINT}} word sub='' target='' place=0 before='' found=''
  local -a words
  read -ra words <<< "$line"
  [[ $line == *[[:space:]] ]] && words+=('')
  local current=${{words[-1]}}
  for word in "${{words[@]:1:${{#words[@]}}-2}}"; do
    case $before in {valued}) before=''; continue ;; esac
    case $word in -*) before=$word; continue ;; esac
    before=''
    if [ -z "$sub" ]; then sub=$word; else place=$((place + 1)); fi
    case $sub:$place in command:2 | [!c]*:1) target=$word ;; esac
  done
  case $sub:$before in
{values}
  esac
  if [ -z "$found" ]; then
    case $sub:$((place + 1)) in
{places}
    esac
    case $target in
{members}
    esac
    [[ $current == -* || -z $found ]] && case $sub in
{flags}
    esac
  fi
  mapfile -t COMPREPLY < <(compgen -W "$found" -- "$current")
  [[ ${{COMPREPLY[0]-}} == *= ]] && compopt -o nospace
  # readline breaks words at a colon, and wants what follows it only
  [[ $current == *:* ]] && COMPREPLY=("${{COMPREPLY[@]#"${{current%:*}}:"}}")
  return 0
}}
complete -F _{name} {name}
"""


def bash(command: Command) -> str:
    """Make a completion for bash, which needs no bash-completion."""
    every = [(sub, one) for sub in (command, *command.commands) for one in sub.options if one.value]
    return BASH.format(
        name=command.name,
        valued="|".join(sorted({flag for _, one in every for flag in one.names})),
        values="\n".join(_values(every)),
        places="\n".join(_places(command)),
        members="\n".join(
            f"      {target}) found+={quoted(' ' + ' '.join(members(target)))} ;;"
            for target in TARGET_TYPES
            if command.name == "oc2ctl" and members(target)
        ),
        flags="\n".join(
            f"      {'*' if sub is command else sub.name}) found+="
            + quoted(" " + " ".join(flag for one in sub.options for flag in one.names))
            + " ;;"
            for sub in (*command.commands, command)
        ),
    ).replace("\n\n", "\n")


def _values(every: list[tuple[Command, Option]]) -> Iterator[str]:
    """Write what follows an option: what is the same everywhere is written once, and last."""
    known: dict[str, set[tuple[str, ...]]] = {}
    for _, one in every:
        known.setdefault(one.names[-1], set()).add(one.words)
    for sub, one in every:
        if len(known[one.names[-1]]) > 1:
            yield f"    {sub.name}:{one.names[-1]}) found={quoted(' '.join(one.words))} ;;"
    files = {one.names[-1] for _, one in every if one.takes_file}
    for flag, words in known.items():
        if flag in files:
            yield f"    *:{flag}) compopt -o default; return ;;"
        elif len(words) == 1 and words != {()}:
            yield f"    *:{flag}) found={quoted(' '.join(*words))} ;;"
    rest = [flag for flag, words in known.items() if words == {()} and flag not in files]
    if rest:
        yield f"    {' | '.join(f'*:{flag}' for flag in rest)}) return ;;"


def _places(command: Command) -> Iterator[str]:
    """Write what may stand in each place."""
    yield f"      :*) found={quoted(' '.join(sub.name for sub in command.commands))} ;;"
    for sub in command.commands:
        for place, name, words in arguments(sub):
            at = str(place) if name in {"ACTION", "TARGET"} else "*"
            if name == "file":
                yield f"      {sub.name}:{place}) compopt -o default ;;"
            elif words:
                yield f"      {sub.name}:{at}) found={quoted(' '.join(words))} ;;"


def zsh(command: Command) -> str:
    """Make a completion for zsh."""

    def escaped(text: str) -> str:
        return re.sub(r"([\[\]:\\])", r"\\\1", text)

    def option(one: Option) -> Iterator[str]:
        for flag in one.names:
            values = (
                "_files" if one.takes_file else f"({' '.join(one.words)})" if one.words else " "
            )
            value = f":{escaped(one.value)}:{values}" if one.value else ""
            star = "*" if one.repeats else ""
            yield quoted(f"{star}{flag}[{escaped(one.help)}]{value}")

    def argument(place: int, name: str, words: tuple[str, ...], *, last: bool) -> str:
        at = "*" if last and name != "TARGET" else str(place)
        values = f"({' '.join(map(escaped, words))})" if words else " "
        if name in {"VALUE", "NAME=VALUE"}:
            values = f"_{command.name}_members"
        elif name == "file":
            values = "_files"
        return quoted(f"{at}:{escaped(name)}:{values}")

    names = " ".join(f"{c.name}\\:{quoted(escaped(c.help))}" for c in command.commands)
    lines = [
        f"#compdef {command.name}",
        "# Made by scripts/manuals; do not edit.",
        f"_{command.name}() {{",
        "  local context state line",
        "  typeset -A opt_args",
        "  _arguments -C \\",
        *(f"    {text} \\" for one in command.options for text in option(one)),
        f"    {quoted('1:command:((' + names + '))')} \\".replace("'\\''", '"'),
        "    '*::argument:->arguments'",
        "  case $line[1] in",
    ]
    for sub in command.commands:
        found = arguments(sub)
        given = [argument(*one, last=one is found[-1]) for one in found]
        texts = [text for one in sub.options for text in option(one)]
        lines += [
            f"    {sub.name}) _arguments \\",
            *(f"      {text} \\" for text in [*texts, *given]),
        ]
        lines[-1] = lines[-1].removesuffix(" \\") + " ;;"
    lines += ["  esac", "}", *_zsh_members(command), f'_{command.name} "$@"']
    return "\n".join(lines) + "\n"


def _zsh_members(command: Command) -> Iterator[str]:
    """Write what completes the members of the target that is named."""
    if command.name != "oc2ctl":
        return
    yield f"_{command.name}_members() {{"
    yield "  local word"
    yield "  for word in $words; do"
    yield "    case $word in"
    for target in TARGET_TYPES:
        if members(target):
            yield f"      {target}) compadd -S '' -- {' '.join(members(target))} ;;"
    yield from ("    esac", "  done", "}")


def fish(command: Command) -> str:
    """Make a completion for fish."""
    lines = [
        f"# fish completion of {command.name}; made by scripts/manuals, do not edit",
        f"complete -c {command.name} -f",
    ]
    lines += [
        f"complete -c {command.name} -n __fish_use_subcommand -a {sub.name} -d {quoted(sub.help)}"
        for sub in command.commands
    ]
    for sub in (command, *command.commands):
        seen = (
            "__fish_use_subcommand" if sub is command else f"__fish_seen_subcommand_from {sub.name}"
        )
        start = f"complete -c {command.name} -n {quoted(seen)}"
        for one in sub.options:
            flags = " ".join(f"-l {n[2:]}" if n[:2] == "--" else f"-s {n[1:]}" for n in one.names)
            value = " -rF" if one.takes_file else " -x" if one.value else ""
            words = f" -a {quoted(' '.join(one.words))}" if one.words else ""
            lines.append(f"{start} {flags}{value}{words} -d {quoted(one.help)}")
        for _, name, words in arguments(sub):
            if name == "file":
                lines.append(f"{start} -F")
            elif words:
                lines.append(f"{start} -a {quoted(' '.join(words))}")
    return "\n".join(lines) + "\n"
