"""Shared by the tests of the iptables back end: its programs in a namespace, and what they tell."""

from __future__ import annotations

import shutil
import subprocess
from itertools import groupby

import pytest

from oc2d_slpf.iptables import Iptables

TOOLS = ("iptables", "iptables-save", "iptables-restore")
TOOLS += tuple(name.replace("ip", "ip6", 1) for name in TOOLS)
FILTERS = ("iptables-save", "ip6tables-save")
NETS = {4: "198.51.100.0/24", 6: "2001:db8:5::/48"}


def path_of(name):
    return shutil.which(name, path="/usr/sbin:/sbin:/usr/bin")


def tool_in(namespace, *command, text=None):
    done = namespace.run(
        lambda: subprocess.run(
            [path_of(command[0]), *command[1:]],
            input=text,
            capture_output=True,
            text=True,
            errors="backslashreplace",
            check=False,
        )
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def saved(namespace, *, ours=None):
    """All rules of both families; `ours` True or False: only those of oc2d, or only of others."""
    found = []
    for name in FILTERS:
        lines = [line for line in tool_in(namespace, name).splitlines() if line[0] != "#"]
        mine = [line.startswith((":oc2d-", "-A oc2d-")) or " -j oc2d-" in line for line in lines]
        found += [
            f"{name[:-5]} {line}"
            for line, one in zip(lines, mine, strict=True)
            if ours is None or one == ours
        ]
    return found


@pytest.fixture
def bench(namespace, bench):
    """What runs in the namespace is stopped there."""
    yield bench
    namespace.run(bench.stop)


@pytest.fixture
def filter_(namespace):
    made = Iptables()
    namespace.run(made.check)
    yield made
    made.close()


@pytest.fixture
def tools(tmp_path):
    """A directory with the programs, of which some can be replaced by others or by scripts."""
    place = tmp_path / "bin"
    place.mkdir()
    for name in TOOLS:
        (place / name).symlink_to(path_of(name))

    def put(name, script):
        (place / name).unlink()
        (place / name).write_text(f'#!/bin/sh\n{script}\nexec {path_of(name)} "$@"\n')
        (place / name).chmod(0o755)

    def link(name, to):
        (place / name).unlink()
        (place / name).symlink_to(path_of(to))

    put.place, put.link = place, link
    return put


def normal(lines):
    """Leave out what may differ: the letter, and the order where it means nothing."""
    found = {}
    for line in lines:
        words = line.replace("oc2d-b-", "oc2d-a-").replace(" :", " : ").split(maxsplit=3)
        family, verb, chain, rest = (*words, "")[:4]
        found.setdefault((family, chain), []).append((verb, rest))
    return {
        name: [(end, sorted(run)) for end, run in groupby(rules, lambda r: r[1].split(" -")[-1])]
        for name, rules in found.items()
    }
