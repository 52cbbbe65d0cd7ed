"""Measure the iptables back end by the number of rules; prints a table.

.venv/bin/python bench/iptables.py [--rules N …] [--backend iptables|nftables]

In a network namespace of its own. The rules deny (or allow) one IPv4 address each, as source or
destination, in both directions: four lines of iptables each. Times of changes are from the call of
the back end to its return, the shortest and the middle of 15. For packets it is the processor time
that sending costs a process, less that without rules; they match nothing, meet the egress list once
and are dropped behind it. The smallest of 7 is shown: others may use the machine.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import resource
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

from oc2d_slpf.backend import Backend
from oc2d_slpf.iptables import Iptables
from oc2d_slpf.nftables import Nftables
from oc2d_slpf.operations import Change
from oc2d_slpf.rules import Rule, Shape, Verdict
from oc2d_slpf.tiers import Tiers

BACKENDS: dict[str, Callable[[], Backend]] = {"iptables": Iptables, "nftables": Nftables}
END = "table inet end { chain output { type filter hook output priority 10; policy drop; }; }\n"
SHAPE = Shape.parse("both_ip4_n32")
PACKETS = 2000


def rule(index: int, verdict: Verdict) -> Rule:
    return Rule(index + 1, verdict, SHAPE, ((10 << 24) + index).to_bytes(4, "big"))


def timed(function: Callable[[], None]) -> float:
    start = time.perf_counter()
    function()
    return 1000 * (time.perf_counter() - start)


def packet() -> float:
    """Microseconds of processor time for each packet."""
    best = float("inf")
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_UDP) as sock:
        for _ in range(7):
            before = resource.getrusage(resource.RUSAGE_SELF)
            for _ in range(PACKETS):
                with contextlib.suppress(PermissionError):  # that is how a drop is told
                    sock.sendto(bytes(16), ("192.0.2.1", 0))
            after = resource.getrusage(resource.RUSAGE_SELF)
            spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
            best = min(best, 1e6 * spent / PACKETS)
    return best


def measure(backend: Backend, verdict: Verdict, count: int, nothing: float) -> None:
    tiers = Tiers([rule(index, verdict) for index in range(count)])
    load = [timed(lambda: backend.replace(tiers.operations())) for _ in range(3)]

    def change(edit: Callable[[Change], None]) -> float:
        made = Change()
        edit(made)
        operations = made.operations(tiers)
        return timed(lambda: backend.apply(operations))

    more = range(count, count + 15)
    adds = [change(lambda made, n=n: tiers.add(rule(n, verdict), made)) for n in more]
    cost = packet() - nothing
    deletes = [change(lambda made, n=n: tiers.remove(n + 1, made)) for n in more]
    times = " | ".join(f"{min(t):.1f} / {statistics.median(t):.1f}" for t in (adds, deletes, load))
    print(f"| {verdict.value} | {count} | {times} | {cost:.1f} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rules", type=int, nargs="+", default=[0, 1000, 10_000])
    parser.add_argument("--backend", choices=BACKENDS, default="iptables")
    options = parser.parse_args()
    if os.environ.get("OC2D_BENCH") != "inside":
        command = ["unshare", "-n", sys.executable, *sys.argv]
        sys.exit(subprocess.call(command, env={**os.environ, "OC2D_BENCH": "inside"}))
    link = ("link add out type veth peer name far", "addr add 192.0.2.9/24 dev out")
    for line in (*link, "link set far up", "link set out up"):
        subprocess.run(["ip", *line.split()], check=True)
    subprocess.run(["nft", "-f", "-"], input=END, text=True, check=True)
    nothing = packet()
    print(f"{options.backend}; a packet without rules: {nothing:.1f} us\n")
    print("| verdict | rules | add, ms | delete, ms | load all, ms | a packet, us more |")
    print("|---|---|---|---|---|---|")
    backend = BACKENDS[options.backend]()
    backend.check()
    for verdict in (Verdict.DROP, Verdict.ALLOW):
        for count in options.rules:
            measure(backend, verdict, count, nothing)
            backend.remove()
            if isinstance(backend, Nftables):
                backend.replace(())
    backend.close()


if __name__ == "__main__":
    main()
