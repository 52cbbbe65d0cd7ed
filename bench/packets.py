"""Measure what a packet costs by the rules it is judged by; prints a table for each number of them.

.venv/bin/python bench/packets.py [--rules N …] [--only WORDS] [--all] [--rounds N] [--quick]

In a network namespace of its own, a process writes UDP packets through a raw socket, so that each
passes the egress list once, matching nothing, and is dropped by a chain behind it. Processor
time of that process per packet, less that without any table in the same round, is what the filter
costs; the middle of the rounds is shown. Sending alone costs some thousand nanoseconds, so a chain
passes each packet through the list many times over, and the difference is divided by that: what is
shown is with warm caches. Each list stands in the kernel as the product's own back end loads it;
`linear` is the same list as plain rules of nft, the baseline. Without `--all` or `--only`: the four
kinds of list that matter most.
"""

from __future__ import annotations

import argparse
import os
import resource
import socket
import statistics
import struct
import subprocess
import sys
from collections.abc import Iterator
from ipaddress import IPv4Network, IPv6Network

from machine import Figure, table

from oc2d_slpf.nftables import Nftables
from oc2d_slpf.rules import Direction, Match, Rule, Verdict, encode
from oc2d_slpf.tiers import Tiers

ALLOW, DENY = Verdict.ALLOW, Verdict.DROP
TEN = 10 << 24
END = "table inet end { chain output { type filter hook output priority -300; policy drop; }; }\n"
LIMIT = "the look-up of a hash set, for each shape and tier; linear: every rule"
TIMES = 50  # how often a packet passes the list
Item = tuple[Verdict, Match]


def net(value: int, prefix: int = 32) -> IPv4Network:
    return IPv4Network((value, prefix), strict=False)


def blocklist(count: int) -> Iterator[Item]:
    yield from ((DENY, Match(4, either=net(TEN + i))) for i in range(count))


def sources(count: int) -> Iterator[Item]:
    yield from ((DENY, Match(4, source=net(TEN + i))) for i in range(count))


def five(count: int) -> Iterator[Item]:
    for i in range(count):
        yield DENY, Match(4, None, net(TEN + i), net(TEN + 7), 17, 1024 + i % 60000, 443)


def alternating(count: int) -> Iterator[Item]:
    for i in range(count):
        yield (ALLOW, DENY)[i % 2], Match(4, source=net(TEN + i))


def lengths(count: int) -> Iterator[Item]:
    """Disjoint networks of all lengths from /8 to /32, as far as there are so many."""
    for i in range(count):
        prefix = 8 + i % 25
        value = i // 25 % (1 << (prefix - 8))
        place = net((prefix << 24) + (value << (32 - prefix)), prefix)
        yield DENY, Match(4, either=place)


def lengths_alternating(count: int) -> Iterator[Item]:
    for i, (_, match) in enumerate(lengths(count)):
        prefix = 8 + i % 25
        verdict = (ALLOW, DENY)[i // 25 % (1 << (prefix - 8)) % 2]
        yield verdict, Match(4, source=match.either)


def alternating_nets(count: int) -> Iterator[Item]:
    for i in range(count):
        yield (ALLOW, DENY)[i % 2], Match(4, either=net(TEN + i))


def lengths_alternating_nets(count: int) -> Iterator[Item]:
    for i, (_, match) in enumerate(lengths(count)):
        yield (ALLOW, DENY)[(i // 25 + i) % 2], match


def lengths6(count: int) -> Iterator[Item]:
    """Disjoint networks of IPv6 of all lengths from /16 to /128, alternately allowed and denied."""
    for i in range(count):
        prefix, value = 16 + i % 113, i // 113
        place = (0x0A00 + prefix << 112) + (value % (1 << prefix - 16) << 128 - prefix)
        yield (ALLOW, DENY)[(value + i) % 2], Match(6, either=IPv6Network((place, prefix)))


def sender_listed(count: int) -> Iterator[Item]:
    """As above, and the packet is between two listed addresses: their numbers are compared."""
    yield from alternating_nets(max(0, count - 2))
    yield DENY, Match(4, either=net(0xC0000201))
    yield ALLOW, Match(4, either=net(0xC6336407))


LISTS = {
    "blocklist /32, either side": blocklist,
    "blocklist /32, source": sources,
    "5-tuples": five,
    "alternating /32, source": alternating,
    "alternating /32, either side": alternating_nets,
    "the same, both addresses listed": sender_listed,
    "/8 to /32, either, alternating": lengths_alternating_nets,
    "/8 to /32, either side": lengths,
    "/8 to /32, source, alternating": lengths_alternating,
    "IPv6 /16 to /128, alternating": lengths6,
}


USUAL = (
    "blocklist /32, either side",
    "5-tuples",
    "alternating /32, either side",
    "/8 to /32, either, alternating",
)


def load(items: list[Item], *, decided: bool) -> str:
    rules = [
        Rule(len(items) - i, verdict, *encode(match, Direction.EGRESS))
        for i, (verdict, match) in enumerate(items)
    ]
    tiers = Tiers(rules, ranked=True)
    back_end = Nftables(owner=False)  # the chains below are not the owner's
    back_end.check()
    back_end.replace(tiers.operations())
    back_end.close()
    hook = "{ type filter hook output priority -305; }"
    if decided:  # an accept goes on with the next base chain
        for i in range(TIMES - 1):
            nft(f"add chain inet oc2d often{i} {hook}\nadd rule inet oc2d often{i} jump egress\n")
    else:
        jumps = "add rule inet oc2d often jump egress\n" * (TIMES - 1)
        nft(f"add chain inet oc2d often {hook}\n{jumps}")
    ids = tiers.order().tiers
    return f"{len(ids)} tiers, {sum(len(tiers.fill(id_).shapes) for id_ in ids)} sets"


def load_linear(items: list[Item]) -> str:
    lines = ["table inet linear {", "chain output { type filter hook output priority -310;"]
    for verdict, match in items:
        lines.append(f"ip saddr {match.source} {'drop' if verdict is DENY else 'accept'}")
    nft("\n".join([*lines, "}", "}", ""]))
    return f"{len(items)} rules of nft"


def nft(text: str) -> None:
    subprocess.run(["nft", "-f", "-"], input=text, text=True, check=True)


def clear() -> None:
    nft(
        "".join(f"add table inet {name}\ndelete table inet {name}\n" for name in ("oc2d", "linear"))
    )


def packet(version: int) -> tuple[bytes, str]:
    """Return a UDP packet from its IP header on, and where it goes."""
    body = struct.pack("!HHHH", 5000, 5001, 16, 0) + bytes(8)
    if version == 4:  # noqa: PLR2004 - the IP versions are their own names
        addresses = socket.inet_aton("192.0.2.1") + socket.inet_aton("198.51.100.7")
        head = struct.pack("!BBHHHBBH", 0x45, 0, 36, 0, 0, 64, 17, 0)
        return head + addresses + body, "198.51.100.7"
    ends = (socket.inet_pton(socket.AF_INET6, text) for text in ("fd00::1", "2001:db8::7"))
    return struct.pack("!IHBB", 6 << 28, len(body), 17, 64) + b"".join(ends) + body, "2001:db8::7"


def flood(version: int, sock: socket.socket, count: int) -> float:
    """Return nanoseconds of this process' time per packet."""
    data, goal = packet(version)
    _send(sock, data, (goal, 0), count // 10)
    before = resource.getrusage(resource.RUSAGE_SELF)
    _send(sock, data, (goal, 0), count)
    after = resource.getrusage(resource.RUSAGE_SELF)
    used = after.ru_stime + after.ru_utime - before.ru_stime - before.ru_utime
    return used / count * 1e9


def _send(sock: socket.socket, packet: bytes, goal: tuple[str, int], count: int) -> None:
    send = sock.sendto
    for _ in range(count):
        try:
            send(packet, goal)
        except PermissionError:
            continue  # the chain at the end
        raise SystemExit("a packet was not dropped at the end")


def measure(name: str, items: list[Item], options: argparse.Namespace, *, linear: bool) -> Figure:
    version = 6 if "IPv6" in name else 4
    kind = socket.AF_INET if version == 4 else socket.AF_INET6  # noqa: PLR2004 - as above
    sock = socket.socket(kind, socket.SOCK_RAW, socket.IPPROTO_RAW)
    packets = options.packets
    if linear:
        packets = max(200, min(packets, 20_000_000 // max(1, len(items))))
    costs = []
    said = ""
    empty: list[float] = []
    with sock:
        for _ in range(options.rounds):
            clear()
            bare = flood(version, sock, packets)
            said = load_linear(items) if linear else load(items, decided="both" in name)
            costs.append((flood(version, sock, packets) - bare) / (1 if linear else TIMES))
            empty.append(bare)
    clear()
    note = f"{said}; bare {statistics.median(empty):.0f}"
    return Figure(f"{name}, {len(items)}", "ns", costs, [], note)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rules", type=int, nargs="*", default=[0, 1000, 10_000, 100_000])
    parser.add_argument("--only", default="")
    parser.add_argument("--packets", type=int, default=5000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--all", action="store_true", help="every kind of list")
    parser.add_argument("--quick", action="store_true", help="few rules, few rounds")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.quick:
        options.rules, options.rounds, options.packets = [0, 1000], 2, 2000
    if not options.inside:
        os.execvp("unshare", ["unshare", "--net", sys.executable, *sys.argv, "--inside"])  # noqa: S606
    for line in (
        "link add d0 type veth peer name d1",
        "addr add 192.0.2.1/24 dev d0",
        "link set d1 up",
        "link set d0 up arp off",
        "route add 198.51.100.0/24 dev d0",
        "addr add fd00::1/64 dev d0 nodad",
        "-6 route add 2001:db8::/32 dev d0",
    ):
        subprocess.run(["ip", *line.split()], check=True)
    nft(END)
    for count in options.rules:
        linear = measure("linear, source", list(sources(count)), options, linear=True)
        figures = [linear]
        for name, make in LISTS.items():
            if options.only in name and (options.only or options.all or name in USUAL):
                figures.append(measure(name, list(make(count)), options, linear=False))
        for figure in figures if count else ():
            figure.baseline = linear.values
        table(f"packets, {count} rules: what each costs more than without any", figures, LIMIT)


if __name__ == "__main__":
    main()
