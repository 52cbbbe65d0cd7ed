"""The ids of all names (REQUIREMENTS part 6), by the place where they stand: for concise CBOR.

The same id means another name at another place, so the table has the shape of a message.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from oc2d.language.vocabulary import CORE_TARGETS, Feature, L4Protocol, ResponseType

__all__ = ["NUMBER", "PUBLISHED", "SLPF", "Names", "ProfileIds", "command_names", "message_names"]


@dataclass(frozen=True, eq=False)
class Names:
    """The names that may stand at one place, and their ids.

    They are those of an enumeration's values or of the members of a choice, a map or a record; a
    list has the names of its elements. `inner` has the places within by the name of the member;
    a record is an array, and its ids are the positions in it, from 1.
    """

    ids: Mapping[str, int]
    inner: Mapping[str, Names] = field(default_factory=lambda: MappingProxyType({}))
    record: bool = False
    by_id: Mapping[int, str] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "by_id", {own: name for name, own in self.ids.items()})


_NOTHING = Names({})


@dataclass(frozen=True, eq=False)
class ProfileIds:
    """The ids of one actuator profile: what `Actuator.ids` may declare.

    `profile` stands for the NSID in `actuator`, `args` and `results`; None for a private profile,
    which has none. `targets` names the targets without the prefix. What is not declared keeps its
    name; an id that the language or an earlier profile uses at the same place is not used.
    """

    profile: int | None = None
    targets: Names = _NOTHING
    args: Names = _NOTHING
    specifiers: Names = _NOTHING
    results: Names = _NOTHING


def _counted(*names: str, record: bool = False, start: int = 1, **inner: Names) -> Names:
    return Names({name: own for own, name in enumerate(names, start)}, inner, record)


#: A Number: in concise CBOR always a double.
NUMBER = Names({})

_ACTION = Names(
    {
        "scan": 1,
        "locate": 2,
        "query": 3,
        "deny": 6,
        "contain": 7,
        "allow": 8,
        "start": 9,
        "stop": 10,
        "restart": 11,
        "cancel": 14,
        "set": 15,
        "update": 16,
        "redirect": 18,
        "create": 19,
        "delete": 20,
        "detonate": 22,
        "restore": 23,
        "copy": 28,
        "investigate": 30,
        "remediate": 32,
    }
)
_RESPONSE_TYPE = _counted(*(kind.value for kind in ResponseType), start=0)
_PROTOCOL = Names({protocol.value: protocol.number for protocol in L4Protocol})
_HASHES = _counted("md5", "sha1", "sha256")
_FILE = _counted("name", "path", "hashes", hashes=_HASHES)
_CONNECTION = _counted(
    "src_addr", "src_port", "dst_addr", "dst_port", "protocol", record=True, protocol=_PROTOCOL
)
_IN_PROCESS = {"executable": _FILE}
_PROCESS = Names(
    _counted("pid", "name", "cwd", "executable", "parent", "command_line").ids, _IN_PROCESS
)
_IN_PROCESS["parent"] = _PROCESS
_IN_TARGET: Mapping[str, Names] = {
    "artifact": _counted(
        "mime_type",
        "payload",
        "hashes",
        record=True,
        payload=_counted("bin", "url"),
        hashes=_HASHES,
    ),
    "device": _counted("hostname", "idn_hostname", "device_id"),
    "features": _counted(*(feature.value for feature in Feature)),
    "file": _FILE,
    "ipv4_connection": _CONNECTION,
    "ipv6_connection": _CONNECTION,
    "process": _PROCESS,
}
_ARGS = _counted(
    "start_time", "stop_time", "duration", "response_requested", response_requested=_RESPONSE_TYPE
)

#: Stateless Packet Filtering (6.4).
SLPF = ProfileIds(
    profile=1024,
    targets=Names({"rule_number": 1024}),
    args=_counted(
        "drop_process",
        "persistent",
        "direction",
        "insert_rule",
        start=1024,
        drop_process=_counted("none", "reject", "false_ack"),
        direction=_counted("both", "ingress", "egress"),
    ),
    specifiers=_counted("hostname", "named_group", "asset_id", "asset_tuple"),
    results=Names({"rule_number": 1024}),
)

#: The profiles whose texts define ids, by NSID: for who has no plugin at hand to ask.
PUBLISHED: Mapping[str, ProfileIds] = MappingProxyType({"slpf": SLPF})


def message_names(profiles: Mapping[str, ProfileIds]) -> Names:
    """Give the names of a whole message, with those of these profiles (by NSID) in their places."""
    target = _joined(
        Names(CORE_TARGETS, _IN_TARGET),
        (
            (f"{nsid}:{name}", own, ids.targets.inner.get(name))
            for nsid, ids in profiles.items()
            for name, own in ids.targets.ids.items()
        ),
    )
    pairs = Names(_ACTION.ids, dict.fromkeys(_ACTION.ids, Names(target.ids)))
    results = _counted(
        "versions", "profiles", "pairs", "rate_limit", pairs=pairs, rate_limit=NUMBER
    )
    command = _counted(
        "action",
        "target",
        "args",
        "actuator",
        "command_id",
        record=True,
        action=_ACTION,
        target=target,
        args=_joined(_ARGS, ((n, ids.profile, ids.args) for n, ids in profiles.items())),
        actuator=_joined(
            _NOTHING, ((n, ids.profile, ids.specifiers) for n, ids in profiles.items())
        ),
    )
    response = _counted(
        "status",
        "status_text",
        "results",
        results=_joined(results, ((n, ids.profile, ids.results) for n, ids in profiles.items())),
    )
    content = _counted("request", "response", "notification", request=command, response=response)
    return _counted(
        "headers",
        "body",
        "signature",
        record=True,
        headers=_counted("request_id", "created", "from", "to"),
        body=_counted("openc2", openc2=content),
    )


def command_names(message: Names) -> Names:
    """Give the names of a command, out of those of a whole message."""
    return message.inner["body"].inner["openc2"].inner["request"]


def _joined(core: Names, added: Iterable[tuple[str, int | None, Names | None]]) -> Names:
    """Add names with their ids, as far as these are free, and the places within."""
    ids, inner = dict(core.ids), dict(core.inner)
    for name, own, within in added:
        if own is not None and own not in ids.values():
            ids[name] = own
        if within is not None:
            inner[name] = within
    return Names(ids, inner)
