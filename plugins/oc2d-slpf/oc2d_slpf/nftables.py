"""The nftables back end: operations become text for `nft -f -`, one transaction a call.

Everything is in the table `inet oc2d`; no other table is read or written. Its chains run at
priority -310, ahead of connection tracking, so that a rule cuts established flows too, and sees
addresses before translation. Two lists hold the numbered rules: `ingress` (called from prerouting)
and `egress` (called from output and forward), each a jump per tier. What the daemon needs itself is
accepted ahead of both.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterable, Iterator, Sequence
from ipaddress import IPv4Address, IPv6Address

from oc2d.errors import StateError
from oc2d_slpf.backend import BackendError, Permit, Step, Unpermit
from oc2d_slpf.rules import PORT_PROTOCOLS, Direction, Key, Network, Shape, Verdict, unpack
from oc2d_slpf.tiers import (
    AddKeys,
    DropKeys,
    DropSet,
    DropTier,
    Fill,
    MakeSet,
    MakeTier,
    Order,
    SetId,
)

__all__ = ["Nftables", "script"]

_TABLE = "inet oc2d"
_TIMEOUT = 30.0  # seconds; 100 000 rules take well under one
_CHUNK = 5000  # elements in one statement: keeps nft's memory and lines small
_LISTS = {"in": (Direction.INGRESS, Direction.BOTH), "out": (Direction.EGRESS, Direction.BOTH)}
_CHAINS = {"in": "ingress", "out": "egress"}
_VERDICTS = {Verdict.ALLOW: "accept", Verdict.DROP: "drop", Verdict.REJECT: "jump refuse"}
_IP = {4: "ip", 6: "ip6"}

# `refuse`: the answer of a reject rule leaves through the egress list itself. Where a rule of
# direction both matches its own answer, the answer passes, or the reject would be a silent drop.
_BASE = """\
add table {table}
delete table {table}
table {table} {{
  set never4 {{ type ipv4_addr; flags interval; {never4} }}
  set never6 {{ type ipv6_addr; flags interval; {never6} }}
  set broker4 {{ type ipv4_addr . inet_proto . inet_service; }}
  set broker6 {{ type ipv6_addr . inet_proto . inet_service; }}
  chain refuse {{
    icmp type destination-unreachable icmp code host-unreachable fib saddr type local accept
    icmpv6 type destination-unreachable icmpv6 code addr-unreachable fib saddr type local accept
    reject with icmpx type host-unreachable
  }}
  chain ingress {{ }}
  chain egress {{ }}
  chain prerouting {{
    type filter hook prerouting priority -310; policy accept;
    iif lo accept
    ip saddr . meta l4proto . th sport @broker4 fib daddr type local accept
    ip6 saddr . meta l4proto . th sport @broker6 fib daddr type local accept
    ip saddr @never4 accept
    ip6 saddr @never6 accept
    ip daddr @never4 fib daddr type != local accept
    ip6 daddr @never6 fib daddr type != local accept
    ip6 hoplimit 255 icmpv6 type 133-136 accept
    jump ingress
  }}
  chain output {{
    type filter hook output priority -310; policy accept;
    oif lo accept
    ip daddr . meta l4proto . th dport @broker4 accept
    ip6 daddr . meta l4proto . th dport @broker6 accept
    ip daddr @never4 accept
    ip6 daddr @never6 accept
    ip6 hoplimit 255 icmpv6 type 133-136 accept
    jump egress
  }}
  chain forward {{
    type filter hook forward priority -310; policy accept;
    ip saddr @never4 accept
    ip6 saddr @never6 accept
    ip daddr @never4 accept
    ip6 daddr @never6 accept
    jump egress
  }}
}}
"""


class Nftables:
    """Rules through the `nft` command; `never_block` are collapsed networks of both families."""

    def __init__(self, never_block: Sequence[Network] = ()) -> None:
        never = {
            f"never{version}": _elements(
                [str(net) for net in never_block if net.version == version]
            )
            for version in (4, 6)
        }
        self._base = _BASE.format(table=_TABLE, **never)
        self._nft: str | None = None

    def check(self) -> None:
        """Find nft and try, without changing anything, whether the kernel would take our table."""
        path = os.pathsep.join((os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"))
        self._nft = shutil.which("nft", path=path)
        if self._nft is None:
            raise StateError("cannot run nft: not found; install the package nftables")
        try:
            self._run(self._base, "--check")
        except BackendError as error:
            raise StateError(
                f"cannot run nft: {error}; give CAP_NET_ADMIN, on a kernel that has nf_tables"
            ) from None

    def replace(self, steps: Iterable[Step]) -> None:
        """Load the table anew in one transaction: no packet passes between the old and the new."""
        self._run(self._base + script(steps))

    def apply(self, steps: Sequence[Step]) -> None:
        """Make one transaction of the steps; none: nft is not even called."""
        if text := script(steps):
            self._run(text)

    def remove(self) -> None:
        """Remove our table; it need not be there."""
        self._run(f"add table {_TABLE}\ndelete table {_TABLE}\n")

    def _run(self, text: str, *options: str) -> None:
        if self._nft is None:
            raise BackendError("nft was not looked for")
        try:
            done = subprocess.run(
                [self._nft, *options, "-f", "-"],
                input=text.encode(),
                capture_output=True,
                timeout=_TIMEOUT,
                check=False,
                env={"PATH": os.defpath, "LC_ALL": "C"},
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise BackendError(str(error)) from error
        if done.returncode:
            first = done.stderr.decode(errors="replace").strip().partition("\n")[0]
            raise BackendError(first[:300] or f"exit status {done.returncode}")


def script(steps: Iterable[Step]) -> str:
    """Write steps in nft's language."""
    return "".join(f"{line}\n" for step in steps for line in _lines(step))


def _lines(step: Step) -> Iterator[str]:  # noqa: C901, PLR0912 - one case an operation
    match step:
        case MakeTier(tier):
            for side in _LISTS:
                yield f"add chain {_TABLE} {_chain(tier, side)}"
        case DropTier(tier):
            for side in _LISTS:
                yield f"flush chain {_TABLE} {_chain(tier, side)}"
                yield f"delete chain {_TABLE} {_chain(tier, side)}"
        case MakeSet(id_) if id_.shape.fields:
            yield f"add set {_TABLE} {_name(id_)} {{ type {_type(id_.shape)}; }}"
        case DropSet(id_) if id_.shape.fields:
            yield f"delete set {_TABLE} {_name(id_)}"
        case AddKeys(id_, keys) if id_.shape.fields:
            yield from _members("add", id_, keys)
        case DropKeys(id_, keys) if id_.shape.fields:
            yield from _members("delete", id_, keys)
        case Fill(tier, verdict, shapes):
            yield from _fill(tier, verdict, shapes)
        case Order(tiers):
            for side, chain in _CHAINS.items():
                yield f"flush chain {_TABLE} {chain}"
                yield from (f"add rule {_TABLE} {chain} jump {_chain(t, side)}" for t in tiers)
        case Permit():
            yield f"add element {_TABLE} {_broker(step)}"
        case Unpermit(permit):
            yield f"delete element {_TABLE} {_broker(permit)}"


def _chain(tier: int, side: str) -> str:
    return f"t{tier}_{side}"


def _name(id_: SetId) -> str:
    return f"t{id_.tier}_{id_.shape.name}"


def _broker(permit: Permit) -> str:
    return f"broker{permit.version} {{ {permit.address} . {permit.protocol} . {permit.port} }}"


def _elements(values: Sequence[str]) -> str:
    return f"elements = {{ {', '.join(values)} }}" if values else ""


def _members(verb: str, id_: SetId, keys: Sequence[Key]) -> Iterator[str]:
    for start in range(0, len(keys), _CHUNK):
        texts = (" . ".join(unpack(id_.shape, key)) for key in keys[start : start + _CHUNK])
        yield f"{verb} element {_TABLE} {_name(id_)} {{ {', '.join(texts)} }}"


def _type(shape: Shape) -> str:
    address = f"ipv{shape.version}_addr"
    prefixes = (shape.either, shape.source, shape.destination)
    types = [address for prefix in prefixes if prefix is not None]
    types += ["inet_proto"] * shape.protocol
    types += ["inet_service"] * (shape.source_port + shape.destination_port)
    return " . ".join(types)


def _fill(tier: int, verdict: Verdict, shapes: Sequence[Shape]) -> Iterator[str]:
    for side, directions in _LISTS.items():
        chain = f"{_TABLE} {_chain(tier, side)}"
        yield f"flush chain {chain}"
        for shape in shapes:
            if shape.direction in directions:
                lookups = (f"{test} @{_name(SetId(tier, shape))}" for test in _tests(shape))
                for lookup in lookups if shape.fields else ("",):
                    yield (
                        f"add rule {chain} meta nfproto ipv{shape.version} {lookup}"
                        f" {_VERDICTS[verdict]}"
                    )


def _tests(shape: Shape) -> Iterator[str]:
    """Write what is looked up; a range that matches on either side is two lookups in one set."""
    if shape.either is not None:
        yield _address(shape.version, "saddr", shape.either)
        yield _address(shape.version, "daddr", shape.either)
        return
    parts = []
    if shape.source is not None:
        parts.append(_address(shape.version, "saddr", shape.source))
    if shape.destination is not None:
        parts.append(_address(shape.version, "daddr", shape.destination))
    # the upper-layer protocol, also behind IPv6 extension headers
    parts += ["meta l4proto"] * shape.protocol
    parts += ["th sport"] * shape.source_port + ["th dport"] * shape.destination_port
    ports_alone = (shape.source_port or shape.destination_port) and not shape.protocol
    # without it, `th` would read the first bytes of any protocol as ports
    guard = f"meta l4proto {{ {', '.join(map(str, PORT_PROTOCOLS))} }} " if ports_alone else ""
    yield guard + " . ".join(parts)


def _address(version: int, field: str, prefix: int) -> str:
    bits = 32 if version == 4 else 128  # noqa: PLR2004 - the IP versions are their own names
    text = f"{_IP[version]} {field}"
    if prefix == bits:
        return text
    mask = (1 << bits) - (1 << (bits - prefix))
    return f"({text} & {IPv4Address(mask) if version == 4 else IPv6Address(mask)})"  # noqa: PLR2004 - as above
