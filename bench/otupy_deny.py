"""Deny addresses with otupy's iptables actuator, called directly: without transfer and decoding.

PYTHON_OF_OTUPY bench/otupy_deny.py DIRECTORY ROUNDS COUNT

Prints denies a second, for each round.
"""

import importlib.abc
import importlib.machinery
import os
import sys
import time
from pathlib import Path
from unittest.mock import MagicMock

# What its other actuators import; the one for iptables comes only together with them.
ABSENT = {"azure", "containerd", "cyclonedx", "docker", "grpc", "kafka", "kubernetes", "libvirt"}
ABSENT |= {"openstack", "ovs", "pybrctl", "pymongo", "ruamel"}


class Stand(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Stands in for them."""

    def find_spec(self, name, _path=None, _target=None):
        if name.partition(".")[0] in ABSENT:
            return importlib.machinery.ModuleSpec(name, self, is_package=True)
        return None

    def create_module(self, spec):
        module = MagicMock(name=spec.name)
        module.__path__, module.__spec__ = [], spec
        return module

    def exec_module(self, _module):
        """Nothing: it is all there."""


sys.meta_path.append(Stand())
os.environ["WERKZEUG_RUN_MAIN"] = "true"  # without it the actuator does nothing

import otupy  # noqa: E402 - the lines above are for it
from otupy.actuators.slpf.slpf_actuator_iptables import SLPFActuatorIPTables  # noqa: E402
from otupy.profiles import slpf  # noqa: E402
from otupy.profiles.slpf.data import Direction, DropProcess  # noqa: E402


def main() -> None:
    directory, rounds, count = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    work = Path(directory) / "otupy"
    work.mkdir()
    chains = {f"iptables_{name}_chain_name": name for name in ("input", "output", "forward")}
    actuator = SLPFActuatorIPTables(
        owner="bench",
        platform={"iptables_cmd": "iptables", "ip6tables_cmd": "ip6tables", **chains},
        db={
            "path": str(work),
            "name": "otupy.sqlite",
            "commands_table_name": "commands",
            "jobs_table_name": "jobs",
        },
        file={
            "path": str(work),
            "iptables_rules_v4_filename": "rules.v4",
            "iptables_rules_v6_filename": "rules.v6",
        },
    )
    for turn in range(rounds):
        begun = time.monotonic()
        for index in range(count):
            target = otupy.IPv4Net(f"10.{turn}.{index // 250}.{index % 250 + 1}/32")
            arguments = {"direction": Direction.both, "drop_process": DropProcess.none}
            command = otupy.Command(otupy.Actions.deny, target, slpf.Args(arguments))
            answer = actuator.run(command)
            if answer["status"] != otupy.StatusCode.OK:
                raise SystemExit(f"otupy answers {answer}")
        print(count / (time.monotonic() - begun), flush=True)
    os._exit(0)  # its scheduler does not end


if __name__ == "__main__":
    main()
