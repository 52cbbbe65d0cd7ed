# ruff: noqa: T201 - it is a command line
"""`scripts/faults`: run scenarios, print their figures, and the seed of what failed."""

from __future__ import annotations

import argparse
import json
import os
import secrets
import shutil
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import Any

from tests.faults import broker, codecs, hostile, kill, load, plugins, power, resources
from tests.faults.scenario import Run

SCENARIOS = {
    "kill": kill.run,
    "power": power.run,
    "broker": broker.run,
    "resources": resources.run,
    "plugins": plugins.run,
    "codecs": codecs.run,
    "hostile": hostile.run,
    "load": load.run,
}


def one(name: str, seed: int, size: str | int) -> dict[str, Any]:
    """Run a scenario; its figures, and what went wrong."""
    directory = Path(tempfile.mkdtemp(prefix=f"oc2d-faults-{name}-"))
    run = Run(directory, seed, size)
    begun, wrong = time.monotonic(), None
    try:
        SCENARIOS[name](run)
    except KeyboardInterrupt:
        raise
    except BaseException:  # noqa: BLE001 - pytest.fail is none of Exception
        wrong = traceback.format_exc()
    finally:
        run.close()
    seconds = round(time.monotonic() - begun, 1)
    if wrong is None:
        shutil.rmtree(directory)
    report: dict[str, Any] = {"scenario": name, "seed": seed, "size": size, "seconds": seconds}
    return {**report, "figures": dict(run.figures), "wrong": wrong, "directory": str(directory)}


def main() -> int:
    """Read the command line, run, report."""
    parser = argparse.ArgumentParser(prog="scripts/faults", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(SCENARIOS))
    parser.add_argument("--seed", type=int, default=secrets.randbelow(1 << 31))
    parser.add_argument("--size", default="short", help="short, long, or a number")
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()
    if unknown := set(options.names) - set(SCENARIOS):
        parser.error(f"no scenario {', '.join(sorted(unknown))}; there are {', '.join(SCENARIOS)}")
    if options.size not in {"short", "long"} and not options.size.isdigit():
        parser.error("--size is short, long or a number")
    if os.geteuid() != 0:
        parser.error("needs root: network namespaces, a kernel firewall")
    reports = []
    for name in options.names or SCENARIOS:
        report = one(name, options.seed, options.size)
        reports.append(report)
        state = "FAIL" if report["wrong"] else "ok"
        figures = ", ".join(f"{count} {what}" for what, count in report["figures"].items())
        print(f"{state:4} {name:10} {report['seconds']:7.1f} s   {figures}", flush=True)
        if report["wrong"]:
            print(report["wrong"])
            print(f"     to repeat: scripts/faults {name} --seed {options.seed} ", end="")
            print(f"--size {options.size}; its files: {report['directory']}", flush=True)
        if options.json:
            options.json.write_text(json.dumps(reports, indent=1) + "\n")
    return int(any(report["wrong"] for report in reports))


if __name__ == "__main__":
    sys.exit(main())
