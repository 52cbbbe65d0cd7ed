"""A table of the configuration into a plugin's own structure, with every mistake told at once."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from typing import Any, TypeVar

import msgspec

from oc2d.errors import ConfigError, Problem

__all__ = ["read_table"]

_T = TypeVar("_T", bound=msgspec.Struct)
_PLACE = re.compile(r" - at `\$\.?(.*)`$")


def read_table(table: Mapping[str, Any], type_: type[_T]) -> _T:
    """Turn a table into a msgspec structure; raises `ConfigError` with every mistake and its path.

    What the types cannot say belongs into the structure's `__post_init__` as a ValueError.
    """
    fields = {field.encode_name: field for field in msgspec.structs.fields(type_)}
    problems = [Problem(key, _unknown(key, fields)) for key in table if key not in fields]
    for name, field in fields.items():
        if name in table:
            problems += _problems(name, table[name], field.type)
        elif field.required:
            problems.append(Problem(name, "is needed"))
    if not problems:
        try:
            return msgspec.convert(table, type_)
        except (msgspec.ValidationError, RecursionError) as error:
            problems.append(Problem("", str(error)))
    raise ConfigError(tuple(problems))


def _unknown(key: str, known: Mapping[str, object]) -> str:
    near = difflib.get_close_matches(key, known, 1)
    if near:
        return f"unknown key; did you mean {near[0]}?"
    return f"unknown key; there {'is' if len(known) == 1 else 'are'} {' and '.join(known)}"


def _problems(name: str, value: object, type_: Any) -> list[Problem]:  # noqa: ANN401 - any type
    try:
        msgspec.convert(value, type_)
    except (msgspec.ValidationError, RecursionError) as error:
        place = _PLACE.search(str(error))
        inner = place[1] if place else ""
        text = str(error)[: place.start()] if place else str(error)
        dot = "." if inner and not inner.startswith("[") else ""
        return [Problem(f"{name}{dot}{inner}", text)]
    return []
