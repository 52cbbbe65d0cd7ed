"""The closed word lists of OpenC2 v1.0 and the rules for names (LANG-12, LANG-33, LANG-43, 6.2).

Everything that both the wire forms and the rest of the house call by name is here, so that the
modules above it need no strings.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from enum import Enum, IntEnum
from types import MappingProxyType

__all__ = [
    "CORE_TARGETS",
    "LANGUAGE_VERSIONS",
    "REGISTERED_NSIDS",
    "Action",
    "Feature",
    "L4Protocol",
    "ResponseType",
    "StatusCode",
    "nsid_problem",
]


class Action(str, Enum):
    """What a command asks for; never extended by any profile (LANG-13)."""

    SCAN = "scan"
    LOCATE = "locate"
    QUERY = "query"
    DENY = "deny"
    CONTAIN = "contain"
    ALLOW = "allow"
    START = "start"
    STOP = "stop"
    RESTART = "restart"
    CANCEL = "cancel"
    SET = "set"
    UPDATE = "update"
    REDIRECT = "redirect"
    CREATE = "create"
    DELETE = "delete"
    DETONATE = "detonate"
    RESTORE = "restore"
    COPY = "copy"
    INVESTIGATE = "investigate"
    REMEDIATE = "remediate"


class ResponseType(str, Enum):
    """Which replies the Producer wants (REQUIREMENTS 2.4)."""

    NONE = "none"
    ACK = "ack"
    STATUS = "status"
    COMPLETE = "complete"


class StatusCode(IntEnum):
    """How a command fared; an integer on the wire, never text (LANG-78)."""

    PROCESSING = 102
    OK = 200
    BAD_REQUEST = 400
    UNAUTHORIZED = 401
    FORBIDDEN = 403
    NOT_FOUND = 404
    INTERNAL_ERROR = 500
    NOT_IMPLEMENTED = 501
    SERVICE_UNAVAILABLE = 503


class Feature(str, Enum):
    """What `query features` may ask for (LANG-60)."""

    VERSIONS = "versions"
    PROFILES = "profiles"
    PAIRS = "pairs"
    RATE_LIMIT = "rate_limit"


class L4Protocol(str, Enum):
    """The protocols of a connection; any other name is answered 501 (AMB-33)."""

    ICMP = "icmp"
    TCP = "tcp"
    UDP = "udp"
    SCTP = "sctp"

    @property
    def number(self) -> int:
        """The IANA protocol number; in an IPv6 target `icmp` means 58 (AMB-46), told there."""
        return _PROTOCOL_NUMBERS[self.value]


_PROTOCOL_NUMBERS = {"icmp": 1, "tcp": 6, "udp": 17, "sctp": 132}

#: The targets of the language and their ids (6.2); the ids matter to concise CBOR only.
CORE_TARGETS: Mapping[str, int] = MappingProxyType(
    {
        "artifact": 1,
        "command": 2,
        "device": 3,
        "domain_name": 7,
        "email_addr": 8,
        "features": 9,
        "file": 10,
        "idn_domain_name": 11,
        "idn_email_addr": 12,
        "ipv4_net": 13,
        "ipv6_net": 14,
        "ipv4_connection": 15,
        "ipv6_connection": 16,
        "mac_addr": 17,
        "process": 18,
        "uri": 19,
        "iri": 20,
        "properties": 25,
    }
)

#: Profiles that the technical committee has registered (LANG-83).
REGISTERED_NSIDS = frozenset(
    {
        "av",
        "blinky",
        "er",
        "hop",
        "hunt",
        "ids",
        "log",
        "pac",
        "pf",
        "sbom",
        "sfpf",
        "slpf",
        "swup",
    }
)

#: The language versions that oc2d speaks (LANG-48).
LANGUAGE_VERSIONS = ("1.0",)

_NSID_LENGTH = 16
_PRIVATE_NSID = re.compile(r"x-[A-Za-z0-9][A-Za-z0-9_-]*")


def nsid_problem(nsid: str) -> str | None:
    """Tell what is wrong with a namespace identifier, or None (LANG-72, LANG-83, MQTT-25).

    The characters of a private one are those that are safe as a topic level, before the colon of
    a target name and as a file name.
    """
    if nsid in REGISTERED_NSIDS:
        return None
    if not 1 <= len(nsid) <= _NSID_LENGTH:
        return f"an NSID has 1 to {_NSID_LENGTH} characters, not {len(nsid)}"
    if not nsid.startswith("x-"):
        return f"{nsid!r} is no registered NSID; a private one starts with x-"
    if not _PRIVATE_NSID.fullmatch(nsid):
        return f"{nsid!r}: after x- come letters, digits, _ and -, a letter or digit first"
    return None
