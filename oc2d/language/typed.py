"""Between trees and typed values: the targets of the language and the structures of profiles."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any, get_args

import msgspec

from oc2d.errors import BadRequest, NotSupported
from oc2d.language.codec import Encoding, Tree
from oc2d.language.reading import Reading, Value, inside, shown
from oc2d.language.vocabulary import L4Protocol

__all__ = ["decode_extension", "extension_tree", "from_tree", "refuse_nulls"]

_PROTOCOLS = frozenset(protocol.value for protocol in L4Protocol)
_PROTOCOLS_BY_NUMBER = {protocol.number: protocol.value for protocol in L4Protocol}
_LONGEST = 200
_PLACE = re.compile(r" - at `\$(.*)`$")


def decode_extension(tree: Tree, type_: Any, encoding: Encoding, *, path: str) -> Any:  # noqa: ANN401 - whatever the profile declares
    """Read a profile's target, arguments or specifiers into its type.

    `type_` is a msgspec structure or anything else msgspec converts to, and may hold the value
    types of the language. Unknown members and wrong types raise `BadRequest` with the path,
    a protocol that is none of the four `NotSupported` (AMB-33). Host bits are masked (AMB-31).
    """
    if not tree and isinstance(tree, dict) and (shared := _of_nothing(type_)) is not None:
        return shared
    return from_tree(tree, type_, Reading(encoding), path)


@lru_cache(maxsize=256)
def _of_nothing(type_: Any) -> Any:  # noqa: ANN401 - any type
    """Return what `{}` is read as, if that can be shared by all: a structure that nobody changes.

    None: it cannot, as parts of it are made for each, or `{}` is no such structure.
    """
    if not (isinstance(type_, type) and issubclass(type_, msgspec.Struct)):
        return None
    made_anew = hasattr(type_, "__post_init__") or any(
        member.default_factory is not msgspec.NODEFAULT for member in msgspec.structs.fields(type_)
    )
    if made_anew or not type_.__struct_config__.frozen:
        return None
    try:
        return msgspec.convert({}, type_)
    except msgspec.ValidationError:  # who reads `{}` next is told
        return None


def extension_tree(value: Any, encoding: Encoding) -> Tree:  # noqa: ANN401 - whatever the profile declares
    """Write a profile's results, or any value that `decode_extension` reads; None is left out."""
    if isinstance(value, Value):
        return value.tree(encoding)
    tree = msgspec.to_builtins(
        value,
        builtin_types=(bytes,) if encoding is not Encoding.JSON else (),
        enc_hook=lambda own: _write(own, encoding),
    )
    return _without_nulls(tree)


def from_tree(tree: Tree, type_: Any, reading: Reading, path: str) -> Any:  # noqa: ANN401 - of `type_`
    """Read a tree into a type; raises `BadRequest` or `NotSupported` with the place."""
    if isinstance(type_, type) and issubclass(type_, Value):  # no need for msgspec
        try:
            return type_.read(tree, reading)
        except (TypeError, ValueError) as error:
            raise BadRequest(_clean(error)[:_LONGEST], path=path[:_LONGEST]) from None
    unsupported: NotSupported | None = None
    if isinstance(tree, dict) and (names := _members(type_)):
        tree, unsupported = _prepared(tree, names, reading, path)
    try:
        value = msgspec.convert(
            tree, type_, dec_hook=lambda kind, inner: _read(kind, inner, reading)
        )
    except msgspec.ValidationError as error:
        text = _clean(error)
        place = _PLACE.search(text)
        where = path + place[1] if place else path
        what = text[: place.start()] if place else text
        raise BadRequest(what[:_LONGEST], path=where[:_LONGEST]) from None
    if unsupported is not None:
        raise unsupported
    return value


def _clean(error: Exception) -> str:
    return "".join(letter if letter.isprintable() else "?" for letter in str(error))


def refuse_nulls(tree: Tree, path: str) -> None:
    """Refuse null in the language's own structures: what is absent is left out (LANG-18)."""
    if tree is None:
        raise BadRequest("null is no value here; leave the member out", path=path)
    if isinstance(tree, dict):
        for name, inner in tree.items():
            refuse_nulls(inner, inside(path, name))


def _read(kind: Any, tree: Tree, reading: Reading) -> Any:  # noqa: ANN401 - of `kind`
    if isinstance(kind, type) and issubclass(kind, Value):
        return kind.read(tree, reading)
    raise NotImplementedError(f"msgspec cannot convert to {kind!r}")


def _write(own: Any, encoding: Encoding) -> Tree:  # noqa: ANN401 - a value of the language
    if isinstance(own, Value):
        return own.tree(encoding)
    raise NotImplementedError(f"msgspec cannot write {type(own)!r}")


@lru_cache(maxsize=256)
def _members(type_: Any) -> dict[str, bool]:  # noqa: ANN401 - any type
    """Tell the member names of a structure, and which of them are protocols."""
    if not (isinstance(type_, type) and issubclass(type_, msgspec.Struct)):
        return {}
    return {
        member.encode_name: L4Protocol in (member.type, *get_args(member.type))
        for member in msgspec.structs.fields(type_)
    }


def _prepared(
    tree: dict[str, Tree], names: dict[str, bool], reading: Reading, path: str
) -> tuple[dict[str, Tree], NotSupported | None]:
    """Do what msgspec cannot: 501 for other protocols, their numbers in CBOR, unknown members.

    What is malformed besides comes first: an unsupported protocol is handed back, not raised.
    """
    unsupported = None
    for name, value in tree.items():
        if name not in names:
            raise BadRequest(f"there is no member {shown(name)} here", path=path)
        numbered = type(value) is int and reading.encoding is not Encoding.JSON
        if names[name] and (numbered or isinstance(value, str)):
            protocol = _PROTOCOLS_BY_NUMBER.get(value) if numbered else value
            if protocol not in _PROTOCOLS:
                why = f"protocol {shown(value)} not supported"
                unsupported = NotSupported(why, path=f"{path}.{name}")
                protocol = L4Protocol.TCP.value  # any: only the other members are of interest now
            tree = {**tree, name: protocol}
    return tree, unsupported


def _without_nulls(tree: Tree) -> Tree:
    if isinstance(tree, dict):
        return {name: _without_nulls(inner) for name, inner in tree.items() if inner is not None}
    if isinstance(tree, (list, tuple)):
        return [_without_nulls(inner) for inner in tree]
    return tree
