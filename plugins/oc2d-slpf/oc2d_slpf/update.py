"""What an update file holds: a JSON list of allow and deny commands (docs/slpf-update.md). Pure."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from oc2d.actuator import TIMES, Command
from oc2d.errors import BadRequest, Failed, NotSupported, Refusal
from oc2d.language.codec import Encoding, InputLimits, Tree, decode
from oc2d.language.command import Dialect, OpenC2Command, Specified, decode_extension, parse_command
from oc2d.language.vocabulary import Action
from oc2d_slpf.files import MAX_BYTES
from oc2d_slpf.language import IN_USE, NOT_UPDATED, OPTION, Args
from oc2d_slpf.store import Entry

__all__ = ["entries"]

# its size bounds the rest; counting what nests would cost more than to try
_LIMITS = InputLimits(payload=MAX_BYTES, depth=MAX_BYTES, items=MAX_BYTES)
_DIALECT = Dialect(profile_field=False)
_NSID = "slpf"


def entries(
    update: Command,
    content: bytes,
    made: Callable[[Command], Entry],
    is_reserved: Callable[[int], bool],
) -> list[Entry]:
    """Return what `made` makes of the commands of the file, each with a key of its own.

    They come in the order in which they are to take their numbers: chosen ones first, then from the
    last command to the first, because automatic numbers count down and the first is to be evaluated
    first; those have the number 0 still. Raises `Failed`, which names the command that is wrong;
    `made` refuses what cannot work. Of 300 000 commands as such, memory would be short.
    """
    chosen: dict[int, Entry] = {}
    automatic: list[Entry] = []
    for place, tree in enumerate(_trees(content), 1):
        try:
            entry = made(_command(tree, f"{update.key}/{place}", update.producer))
            number = entry.rule.number
            if not number:
                automatic.append(entry)
            elif number in chosen or is_reserved(number):
                raise NotSupported(f"{IN_USE}: {number}")
            else:
                chosen[number] = entry
        except Refusal as refusal:
            raise Failed(f"{NOT_UPDATED}: entry {place}: {refusal.text}") from None
    return [*chosen.values(), *reversed(automatic)]


def _trees(content: bytes) -> list[Tree]:
    try:
        tree = decode(content, Encoding.JSON, _LIMITS)
    except BadRequest as refusal:
        raise Failed(f"{NOT_UPDATED}: {refusal.text}") from None
    except RecursionError:
        raise Failed(f"{NOT_UPDATED}: the file nests too deep") from None
    if not isinstance(tree, list):
        raise Failed(f"{NOT_UPDATED}: the file is not a list of commands")
    return tree


def _command(entry: Tree, key: str, producer: str | None) -> Command:
    """Read one entry; what only concerns its reply is of no interest here."""
    parsed = parse_command(entry, Encoding.JSON, _DIALECT, path="$")
    if parsed.action not in {Action.ALLOW, Action.DENY}:
        raise NotSupported("only allow and deny belong in the file", path="$.action")
    if parsed.actuator not in (None, Specified(_NSID, {})):
        raise NotSupported("the file is for this actuator and no other", path="$.actuator")
    target = parsed.target
    return Command(
        key, producer, parsed.action, target.name, target.value, _args(parsed), notes=parsed.notes
    )


def _args(parsed: OpenC2Command) -> Any:  # noqa: ANN401 - an Args, which msgspec made
    given = parsed.args
    if given is None:
        return Args()
    foreign = {*given.unknown, *given.profiles} - {_NSID}
    if refused := sorted(foreign | {name for name in TIMES if getattr(given, name) is not None}):
        raise NotSupported(f"{OPTION}: {', '.join(refused)}", path="$.args")
    own = given.profiles.get(_NSID, {})
    return decode_extension(own, Args, Encoding.JSON, path=f"$.args.{_NSID}")
