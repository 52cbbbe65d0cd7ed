"""Tables, chains, rules, sets and elements: the messages that make and remove them. Pure.

Numbers in brackets are those of the attribute in `linux/netfilter/nf_tables.h`; where none is
given they count from 1.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from oc2d_slpf.netlink import CREATE, EXCLUSIVE, Message, attribute, nested, string, u32

__all__ = [
    "DELSETELEM",
    "EARLY",
    "HOOKS",
    "NEWSETELEM",
    "TABLE",
    "TRACKED",
    "base_chain",
    "chain",
    "delete_chain",
    "delete_set",
    "delete_table",
    "elements",
    "flush",
    "hash_map",
    "hash_set",
    "pairs",
    "rule",
    "table",
]

TABLE = "oc2d"
#: Base chains, their NF_INET_* hook and priority: connection tracking is at -200.
HOOKS = {
    "prerouting": (0, -310),
    "input": (1, -310),
    "forward": (2, -310),
    "output": (3, -310),
    "prerouting_tracked": (0, -190),
    "output_tracked": (3, -190),
}
#: Those that are there always, and those that are there while there are rules about connections.
EARLY, TRACKED = list(HOOKS)[:4], list(HOOKS)[4:]

# NFT_MSG_*
NEWTABLE, DELTABLE = 0, 2
NEWCHAIN, DELCHAIN = 3, 5
NEWRULE, DELRULE = 6, 8
NEWSET, DELSET = 9, 11
NEWSETELEM, DELSETELEM = 12, 14

NLM_F_APPEND = 0x800
NF_ACCEPT = 1
NFT_SET_MAP = 8
NFT_DATA_VERDICT = 0xFFFFFF00
_CHUNK = 60_000  # bytes of elements in one message: an nlattr ends at 65 535


def table(flags: int) -> Message:
    """Make the table, or adopt it: NFTA_TABLE_NAME, NFTA_TABLE_FLAGS."""
    return Message(NEWTABLE, string(1, TABLE) + u32(2, flags), CREATE)


def delete_table() -> Message:
    """Remove the table with all that is in it; it must be there."""
    return Message(DELTABLE, string(1, TABLE))


def base_chain(name: str) -> Message:
    """Make a base chain: NFTA_CHAIN_TABLE, _NAME (3), _HOOK (4), _POLICY (5), _TYPE (7)."""
    number, priority = HOOKS[name]
    hook = nested(4, u32(1, number), u32(2, priority))
    body = string(1, TABLE) + string(3, name) + hook + u32(5, NF_ACCEPT) + string(7, "filter")
    return Message(NEWCHAIN, body, CREATE)


def delete_chain(name: str) -> Message:
    """Remove a chain with its rules; none may jump to it any more."""
    return Message(DELCHAIN, string(1, TABLE) + string(3, name))


def delete_set(name: str) -> Message:
    """Remove a set with its elements; no rule may look into it any more."""
    return Message(DELSET, string(1, TABLE) + string(2, name))


def flush(chain: str | None = None) -> Message:
    """Remove all rules of a chain, or of the table: NFTA_RULE_TABLE, NFTA_RULE_CHAIN."""
    return Message(DELRULE, string(1, TABLE) + (string(2, chain) if chain else b""))


def chain(name: str) -> Message:
    """Make a chain to jump to; it may be there."""
    return Message(NEWCHAIN, string(1, TABLE) + string(3, name), CREATE)


def rule(chain: str, expressions: bytes) -> Message:
    """Add a rule at the end: NFTA_RULE_TABLE, _CHAIN, _EXPRESSIONS (4)."""
    body = string(1, TABLE) + string(2, chain) + nested(4, expressions)
    return Message(NEWRULE, body, CREATE | NLM_F_APPEND)


def hash_set(name: str, types: Sequence[int], size: int, room: int = 0) -> Message:
    """Make a set: NFTA_SET_TABLE, _NAME, _FLAGS, _KEY_TYPE, _KEY_LEN, _ID (10), the last unused.

    `room`: the most elements it will hold (NFTA_SET_DESC (9), NFTA_SET_DESC_SIZE); it is filled
    and searched in half the time then. 0: it grows.
    """
    head = string(1, TABLE) + string(2, name) + u32(3, 0)
    return Message(NEWSET, head + _sizes(types, size, room), CREATE)


def hash_map(  # noqa: PLR0913, PLR0917 - what a set has, and a value
    name: str,
    types: Sequence[int],
    size: int,
    values: Sequence[int] | None,
    length: int = 0,
    room: int = 0,
) -> Message:
    """Make a set whose elements stand for something: NFTA_SET_DATA_TYPE (6), _DATA_LEN (7).

    `values`: types of that; None: verdicts.
    """
    kind = NFT_DATA_VERDICT if values is None else _kind(values)
    head = string(1, TABLE) + string(2, name) + u32(3, NFT_SET_MAP)
    value = u32(6, kind) + u32(7, length)
    return Message(NEWSET, head + _sizes(types, size, room) + value, CREATE)


def _sizes(types: Sequence[int], size: int, room: int) -> bytes:
    most = nested(9, u32(1, room)) if room else b""
    return u32(4, _kind(types)) + u32(5, size) + most + u32(10, 1)


def _kind(types: Sequence[int]) -> int:
    kind = 0
    for number in types:
        kind = kind << 6 | number
    return kind


def elements(kind: int, name: str, keys: Sequence[bytes]) -> Iterator[Message]:
    """Add or delete; of what is deleted, the keys are enough.

    Each element is NFTA_LIST_ELEM (NFTA_SET_ELEM_KEY (NFTA_DATA_VALUE)).
    """
    key = nested(1, attribute(1, bytes(len(keys[0]))))
    yield from _listed(kind, name, keys, nested(1, key), 12)


def pairs(
    name: str, keys: Sequence[bytes], values: Sequence[bytes], *, verdicts: bool = False
) -> Iterator[Message]:
    """Add elements with what they stand for: NFTA_SET_ELEM_KEY and NFTA_SET_ELEM_DATA (2).

    Verdicts are given as `expressions.verdict` makes them.
    """
    size = len(keys[0])
    if verdicts:
        for key, value in zip(keys, values, strict=True):
            one = nested(1, nested(1, attribute(1, key)), value)
            yield Message(NEWSETELEM, string(1, TABLE) + string(2, name) + nested(3, one), CREATE)
        return
    value = nested(2, attribute(1, bytes(len(values[0]))))
    one = nested(1, nested(1, attribute(1, bytes(size))), value)
    between = bytes(-size & 3) + value[:8]
    both = [between.join(pair) for pair in zip(keys, values, strict=True)]
    yield from _listed(NEWSETELEM, name, both, one, 12)


def _listed(
    kind: int, name: str, contents: Sequence[bytes], one: bytes, at: int
) -> Iterator[Message]:
    """Put elements into messages: NFTA_SET_ELEM_LIST_TABLE, _SET, _ELEMENTS (3).

    All contents have one length and stand in `one` from `at` on, so everything between two of them
    is the same bytes: Python joins 100 000 of them in 10 ms.
    """
    before, padding = one[:at], one[at + len(contents[0]) :]
    head = string(1, TABLE) + string(2, name)
    # one that is there already means that somebody else was here
    flags = CREATE | EXCLUSIVE if kind == NEWSETELEM else 0
    most = _CHUNK // len(one)
    for start in range(0, len(contents), most):
        joined = before + (padding + before).join(contents[start : start + most]) + padding
        yield Message(kind, head + nested(3, joined), flags)
