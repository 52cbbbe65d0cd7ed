"""Values that no plugin expects, put into every place of a command."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from types import UnionType
from typing import Annotated, Any, Union, cast, get_args, get_origin

import msgspec

__all__ = ["HOSTILE", "SETTINGS", "STRANGER", "fields_of", "mutations", "with_stranger"]

#: What a Producer may send instead of anything; what is no I-JSON never reaches a plugin.
HOSTILE: Sequence[Any] = (
    *(None, True, False, 0, -1, 1, 2**53 - 1, -(2**53) + 1, 0.5, 1e300),
    *("", " ", "x", "x" * 20_000, "\0", "a\nb", "\u202etxt.exe", "\x1b[2J", "é" * 300),
    *("../../etc/passwd", "/dev/zero", "$(id)", "`id`", "; true", "%s%n", "' OR 1=1 --", "-rf"),
    *("0", "-1", "1e9", "NaN", "true", "null", "192.0.2.1/33", "::ffff:192.0.2.1"),
    *([], {}, [[]], [None], {"": ""}, {"a": {"b": {"c": 1}}}, ["x"] * 2000, [[[[[[1]]]]]]),
)
#: What an administrator may write instead of anything.
SETTINGS: Sequence[Any] = (
    *(True, 0, -1, 2**70, 0.5, float("nan"), "", "x", "\0", "a\nb", "x" * 5000, "../.."),
    *([], {}, [1], [""], [[]], [{}], {"a": 1}, {"": {}}, ["x"] * 100),
)
STRANGER = "oc2d_unknown"


def mutations(tree: Any, values: Sequence[Any]) -> Iterator[Any]:  # noqa: ANN401 - a tree of JSON
    """Yield the tree with each of the values in each place; the tree itself is a place."""
    yield from values
    if isinstance(tree, Mapping):
        for name, member in tree.items():
            for changed in mutations(member, values):
                yield {**tree, name: changed}
    elif isinstance(tree, list):
        for index, member in enumerate(tree):
            for changed in mutations(member, values):
                yield [*tree[:index], changed, *tree[index + 1 :]]


def with_stranger(tree: Any, kind: object) -> Iterator[Any]:  # noqa: ANN401 - a tree of JSON
    """Yield the tree with a member that nobody knows in each of its objects, going by its type.

    A `dict` in the type takes any names, so nothing is put into it.
    """
    kinds = list(_alternatives(kind))
    if isinstance(tree, Mapping):
        for struct in (one for one in kinds if fields_of(one)):
            yield {**tree, STRANGER: 1}
            types = {f.encode_name: f.type for f in msgspec.structs.fields(cast(Any, struct))}
            for name, member in tree.items():
                for changed in with_stranger(member, types.get(name)):
                    yield {**tree, name: changed}
    elif isinstance(tree, list):
        for inner in (argument for one in kinds for argument in get_args(one)):
            for index, member in enumerate(tree):
                for changed in with_stranger(member, inner):
                    yield [*tree[:index], changed, *tree[index + 1 :]]


def _alternatives(kind: object) -> Iterator[object]:
    """Look into unions and annotations."""
    if get_origin(kind) in {Union, UnionType}:
        for one in get_args(kind):
            yield from _alternatives(one)
    elif get_origin(kind) is Annotated:
        yield from _alternatives(get_args(kind)[0])
    else:
        yield kind


def fields_of(kind: object) -> list[str]:
    """Return the members of a struct as they are written; nothing of what is no struct."""
    if not (isinstance(kind, type) and issubclass(kind, msgspec.Struct)):
        return []
    return [field.encode_name for field in msgspec.structs.fields(kind)]
