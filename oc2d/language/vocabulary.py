"""Stand-in."""

from __future__ import annotations

from enum import Enum, IntEnum

__all__ = ["CORE_TARGETS", "REGISTERED_NSIDS", "Action", "StatusCode", "nsid_problem"]

Action = Enum(  # type: ignore[misc]
    "Action",
    {
        n.upper(): n
        for n in (
            "scan locate query deny contain allow start stop restart cancel set update redirect "
            "create delete detonate restore copy investigate remediate"
        ).split()
    },
    type=str,
)
CORE_TARGETS = frozenset(
    (
        "artifact command device domain_name email_addr features file idn_domain_name "
        "idn_email_addr ipv4_net ipv6_net ipv4_connection ipv6_connection mac_addr process uri "
        "iri properties"
    ).split()
)
REGISTERED_NSIDS = frozenset(
    "slpf sfpf sbom er hop av ids log swup pf pac hunt blinky".split()
)


class StatusCode(IntEnum):
    """Stand-in."""

    PROCESSING = 102
    OK = 200


def nsid_problem(nsid: str) -> str | None:
    """Stand-in."""
    if not 1 <= len(nsid) <= 16:
        return f"NSID {nsid!r} is not 1 to 16 characters long"
    if nsid not in REGISTERED_NSIDS and not nsid.startswith("x-"):
        return f"NSID {nsid!r} is neither registered nor begins with 'x-'"
    if set(nsid) & set("/+#\0"):
        return f"NSID {nsid!r} is no legal topic level"
    return None
