"""Concise CBOR (JADN 4.4) to the trees that the other forms have, and back (AMB-52 b).

Only keys, names and arrays of records change. What comes in wrong is not refused here but handed
on, an unknown id as the text of its number: so all forms are refused by the same code, with the
same status and place, and a command for a profile that is not here stays one for somebody else.
Where an id or a position belongs, the name is taken as well.
"""

from __future__ import annotations

from typing import Any

from oc2d.errors import BadRequest
from oc2d.language.ids import NUMBER, Names

__all__ = ["named", "numbered"]


def named(tree: Any, names: Names | None) -> Any:  # noqa: ANN401 - a tree
    """Put names for ids; raises `BadRequest` where a map has the same member by both."""
    if type(tree) is dict:
        made: dict[str, Any] = {}
        for key, value in tree.items():
            name = _name(key, names)
            if name in made:
                raise BadRequest(f"the member {name[:64]!r} occurs twice in one map")
            made[name] = named(value, names.inner.get(name) if names else None)
        return made
    if type(tree) is list:
        if names is not None and names.record:
            present = {at: value for at, value in enumerate(tree, 1) if value is not None}
            return named(present, names)
        return [named(item, names) for item in tree]
    if names is NUMBER:
        return int(tree) if type(tree) is float and tree.is_integer() else tree
    return _name(tree, names) if names is not None and type(tree) is int else tree


def _name(key: int | str, names: Names | None) -> str:
    if isinstance(key, str):
        return key
    return (names.by_id.get(key) if names else None) or str(key)


def numbered(tree: Any, names: Names | None) -> Any:  # noqa: ANN401 - a tree
    """Put ids for names that have one."""
    if isinstance(tree, dict):
        ids, inner = (names.ids, names.inner) if names else ({}, {})
        made: dict[int | str, Any] = {
            ids.get(name, name): numbered(own, inner.get(name)) for name, own in tree.items()
        }
        return _array(made) if names is not None and names.record else made
    if isinstance(tree, (list, tuple)):
        return [numbered(item, names) for item in tree]
    if names is NUMBER and type(tree) is int:
        return float(tree)
    return names.ids.get(tree, tree) if names and isinstance(tree, str) else tree


def _array(members: dict[int | str, Any]) -> list[Any] | dict[int | str, Any]:
    """Line up the members of a record: null for what is absent, nothing after the last.

    With a member that has no position (an extension of somebody's) it stays a map.
    """
    positions = [position for position in members if isinstance(position, int)]
    if len(positions) < len(members):
        return members
    return [members.get(position) for position in range(1, max(positions, default=0) + 1)]
