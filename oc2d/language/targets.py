"""One frozen type for each target of the language (REQUIREMENTS 6.2, 6.3, LANG-62 to 71).

A structure is refused when it has no member at all, and when it has one that is not in its table:
dropping an unknown restriction would widen a firewall rule (LANG-17).
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Any

import msgspec

from oc2d.language.values import (
    IRI,
    MAC,
    MD5,
    SHA1,
    SHA256,
    URI,
    Binary,
    CommandId,
    DomainName,
    EmailAddr,
    Features,
    Hostname,
    IDNDomainName,
    IDNEmailAddr,
    IDNHostname,
    IPv4Net,
    IPv6Net,
    Properties,
)
from oc2d.language.vocabulary import L4Protocol

__all__ = [
    "TARGET_TYPES",
    "Artifact",
    "Device",
    "File",
    "Hashes",
    "IPv4Connection",
    "IPv6Connection",
    "Members",
    "Payload",
    "Port",
    "Process",
]

Port = Annotated[int, msgspec.Meta(ge=0, le=65535)]
_Natural = Annotated[int, msgspec.Meta(ge=0)]


class Members(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A structure of optional members of which at least one is there; absent ones are None."""

    def __post_init__(self) -> None:
        names = self.__struct_fields__
        if all(getattr(self, name) is None for name in names):
            raise ValueError(f"at least one member is needed of {', '.join(names)}")


class Hashes(Members, frozen=True):
    """Digests of the same content."""

    md5: MD5 | None = None
    sha1: SHA1 | None = None
    sha256: SHA256 | None = None


class Payload(Members, frozen=True):
    """The content of an artifact, or where it is: exactly one of the two."""

    bin: Binary | None = None
    url: URI | None = None

    def __post_init__(self) -> None:
        if (self.bin is None) == (self.url is None):
            raise ValueError("exactly one of bin and url is needed")


class Artifact(Members, frozen=True):
    """Some content."""

    mime_type: str | None = None
    payload: Payload | None = None
    hashes: Hashes | None = None


class Device(Members, frozen=True):
    """A machine."""

    hostname: Hostname | None = None
    idn_hostname: IDNHostname | None = None
    device_id: str | None = None


class File(Members, frozen=True):
    """A file by name, place or content."""

    name: str | None = None
    path: str | None = None
    hashes: Hashes | None = None


class IPv4Connection(Members, frozen=True):
    """The five-tuple; what is absent may be anything (AMB-55)."""

    src_addr: IPv4Net | None = None
    src_port: Port | None = None
    dst_addr: IPv4Net | None = None
    dst_port: Port | None = None
    protocol: L4Protocol | None = None


class IPv6Connection(Members, frozen=True):
    """The five-tuple; what is absent may be anything, `icmp` is ICMPv6 (AMB-46, AMB-55)."""

    src_addr: IPv6Net | None = None
    src_port: Port | None = None
    dst_addr: IPv6Net | None = None
    dst_port: Port | None = None
    protocol: L4Protocol | None = None


class Process(Members, frozen=True):
    """A running program."""

    pid: _Natural | None = None
    name: str | None = None
    cwd: str | None = None
    executable: File | None = None
    parent: Process | None = None
    command_line: str | None = None


#: The type of the value of every core target.
TARGET_TYPES: Mapping[str, Any] = MappingProxyType(
    {
        "artifact": Artifact,
        "command": CommandId,
        "device": Device,
        "domain_name": DomainName,
        "email_addr": EmailAddr,
        "features": Features,
        "file": File,
        "idn_domain_name": IDNDomainName,
        "idn_email_addr": IDNEmailAddr,
        "ipv4_net": IPv4Net,
        "ipv6_net": IPv6Net,
        "ipv4_connection": IPv4Connection,
        "ipv6_connection": IPv6Connection,
        "mac_addr": MAC,
        "process": Process,
        "uri": URI,
        "iri": IRI,
        "properties": Properties,
    }
)
