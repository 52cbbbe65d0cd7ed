"""The service of a machine: what it is asked, and what it tells."""

from __future__ import annotations

import json
from contextlib import contextmanager

NET = "203.0.113.0/24"


def oc2ctl(machine, *words, check=True):
    """Command fw-7 and return its response."""
    told = machine.run("oc2ctl", "--json", *words, "--device", "fw-7", check=check).stdout
    return json.loads(told.splitlines()[-1]) if told else None


def deny(machine, net=NET):
    response = oc2ctl(machine, "deny", "ipv4_net", net)
    assert response["status"] == 200, response
    return response["results"]["slpf"]["rule_number"]


def status(machine):
    done = machine.run("oc2d", "status", "--json", check=False)
    return json.loads(done.stdout) if done.returncode == 0 else {}


def until_subscribed(machine, timeout=20):
    machine.until(
        lambda: status(machine).get("link", {}).get("healthy"), timeout, "oc2d is subscribed"
    )


def rules(machine):
    return {rule["number"]: rule for rule in status(machine)["actuators"]["slpf"]["rules"]}


def table(machine):
    return machine.run("nft", "list", "table", "inet", "oc2d", check=False).stdout


@contextmanager
def configured(machine, text):
    """Another configuration for a while."""
    before = machine.path("/etc/oc2d/oc2d.toml").read_text()
    machine.write("/etc/oc2d/oc2d.toml", text)
    yield
    machine.write("/etc/oc2d/oc2d.toml", before)
