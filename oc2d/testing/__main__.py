"""Run the conformance kit without pytest: `python -m oc2d.testing oc2d_door.subject:DOOR`."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory

import structlog

from oc2d.testing.kit import Subject, examine

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Examine the subject that is named; 0 when it conforms."""
    parser = argparse.ArgumentParser(prog="python -m oc2d.testing", description=__doc__)
    parser.add_argument("subject", help="MODULE:NAME of a Subject, or of several in a list")
    parser.add_argument("--log", action="store_true", help="show the log too")
    options = parser.parse_args(argv)
    module, colon, name = options.subject.partition(":")
    if not colon:
        parser.error("write MODULE:NAME, for instance oc2d_door.subject:DOOR")
    if not options.log:
        level = structlog.make_filtering_bound_logger(logging.CRITICAL)
        structlog.configure(wrapper_class=level)
    sys.path.insert(0, "")
    found = getattr(import_module(module), name)
    good = True
    for subject in [found] if isinstance(found, Subject) else found:
        with TemporaryDirectory() as directory:
            report = examine(subject, Path(directory))
        sys.stdout.write(report.render() + "\n")
        good &= report.conforms
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
