"""Stand-in for the language package, as little as slpf needs."""

from __future__ import annotations

from enum import Enum, IntEnum

__all__ = ["CORE_TARGETS", "Action", "L4Protocol", "StatusCode", "nsid_problem"]


class Action(str, Enum):
    """Stand-in."""

    QUERY = "query"
    DENY = "deny"
    ALLOW = "allow"
    UPDATE = "update"
    DELETE = "delete"
    SCAN = "scan"


class StatusCode(IntEnum):
    """Stand-in."""

    PROCESSING = 102
    OK = 200
    BAD_REQUEST = 400
    INTERNAL_ERROR = 500
    NOT_IMPLEMENTED = 501


class L4Protocol(str, Enum):
    """Stand-in."""

    ICMP = "icmp"
    TCP = "tcp"
    UDP = "udp"
    SCTP = "sctp"

    @property
    def number(self) -> int:
        """Stand-in."""
        return {"icmp": 1, "tcp": 6, "udp": 17, "sctp": 132}[self.value]


CORE_TARGETS = frozenset(
    {"ipv4_net", "ipv6_net", "ipv4_connection", "ipv6_connection", "file", "features"}
)


def nsid_problem(nsid: str) -> str | None:
    """Stand-in."""
    return None if nsid == "slpf" or nsid.startswith("x-") else "no NSID"
