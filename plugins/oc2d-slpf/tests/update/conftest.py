"""Shared by the tests of update file: commands, files, and actuators that take them."""

from __future__ import annotations

import json

import pytest

from oc2d.actuator import Command
from oc2d.language.targets import File
from oc2d.language.vocabulary import Action
from oc2d_slpf.language import Args

NAME = "rules.json"


def entry(action="deny", net="198.51.100.0/24", **args):
    target = net if isinstance(net, dict) else {"ipv6_net" if ":" in net else "ipv4_net": net}
    return {"action": action, "target": target, **({"args": {"slpf": args}} if args else {})}


def update(key="update-1", **file):
    file = {"name": NAME, **file}
    made = File(**{name: value for name, value in file.items() if value is not None})
    return Command(key, "soc@example.com", Action.UPDATE, "file", made, Args())


@pytest.fixture
def directory(tmp_path):
    path = tmp_path / "updates"
    path.mkdir()
    return path


@pytest.fixture
def write(directory):
    def write(*entries, name=NAME):
        path = directory / name
        path.write_text(json.dumps(entries))
        return path

    return write


@pytest.fixture
def slpf(bench, paper, directory):
    return bench.start(paper, update_directories=[str(directory)])


def listed(slpf):
    return [(rule["number"], rule["verdict"], rule["match"]) for rule in slpf.status()["rules"]]


def refused(slpf, command, kind, pattern):
    before = listed(slpf)
    with pytest.raises(kind, match=pattern):
        slpf.execute(command)
    assert listed(slpf) == before
