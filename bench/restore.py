"""Measure a restore: from the store's file to rules in force; prints a table.

sudo .venv/bin/python bench/restore.py [--rules N] [--only WORDS] [--rounds N]

For the lists of `tiers.py`: the parts as a start of the daemon does them, in a network namespace of
its own, each as wall time / processor time in ms, the kernel's and both threads' included. The
first round builds the table from nothing, those after it replace one that is there.
"""

from __future__ import annotations

import argparse
import gc
import os
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path

from tiers import LISTS, listed

from oc2d_slpf.nftables import Nftables
from oc2d_slpf.store import Entry, Store
from oc2d_slpf.tiers import Tiers

PARTS = ("open, check, read", "tiers", "operations", "kernel")


def write(directory: Path, kind: str, count: int) -> None:
    store = Store(directory, directory, "boot")
    with store.transaction():
        for one in listed(kind, count):
            store.add(Entry(one, f"{one.number:064x}", persistent=True, producer="soc"))
    store.close()


def restore(directory: Path, filter_: Nftables) -> None:
    times = [(time.perf_counter(), time.process_time())]

    def done() -> None:
        times.append((time.perf_counter(), time.process_time()))

    store = Store(directory, directory, "boot")
    groups = store.rules()
    done()
    tiers = Tiers(groups=groups, ranked=True)
    done()
    operations = tiers.operations()
    done()
    filter_.replace(operations)
    done()
    store.close()
    spans = [*pairwise(times), (times[0], times[-1])]
    parts = "  ".join(
        f"{name} {1e3 * (end[0] - start[0]):4.0f}/{1e3 * (end[1] - start[1]):.0f}"
        for name, (start, end) in zip((*PARTS, "all"), spans, strict=True)
    )
    print(f"    {parts}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rules", type=int, default=100_000)
    parser.add_argument("--only", default="", help="only lists whose name has these words")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if not options.inside:
        os.execvp("unshare", ["unshare", "--net", sys.executable, *sys.argv, "--inside"])  # noqa: S606
    filter_ = Nftables()
    filter_.check()
    for kind in LISTS:
        if options.only not in kind:
            continue
        print(f"{kind}, {options.rules} rules, load {os.getloadavg()[0]:.1f}")
        # on a disk, as in life; below the checkout, as bench/commands.py
        build = Path(__file__).parent.parent / "build"
        build.mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory(dir=build) as name:
            write(Path(name), kind, options.rules)
            gc.collect()
            gc.freeze()  # what wrote the rules is no part of it
            for _ in range(options.rounds):
                restore(Path(name), filter_)


if __name__ == "__main__":
    main()
