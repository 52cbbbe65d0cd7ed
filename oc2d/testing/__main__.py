"""Run the conformance kit without pytest: `python -m oc2d.testing tests.test_door:SUBJECT`."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory

import structlog

from oc2d.errors import UsageError
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
        parser.error("write MODULE:NAME, for instance tests.test_door:SUBJECT")
    if not options.log:
        level = structlog.make_filtering_bound_logger(logging.CRITICAL)
        structlog.configure(wrapper_class=level)
    sys.path.insert(0, "")
    try:
        found = _found(module, name)
    except UsageError as error:
        parser.error(str(error))
    good = True
    for subject in found:
        with TemporaryDirectory() as directory:
            report = examine(subject, Path(directory))
        sys.stdout.write(report.render() + "\n")
        good &= report.conforms
    return 0 if good else 1


def _found(module: str, name: str) -> Sequence[Subject]:
    """Return the subjects of that name; raises `UsageError` when there are none."""
    try:
        place = import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise  # it is there, and imports what is not
        text = f"no module {module!r} from here; dotted, as tests.test_door:SUBJECT"
        raise UsageError(text) from None
    found = getattr(place, name, None)
    subjects = [found] if isinstance(found, Subject) else found
    if isinstance(subjects, Sequence) and all(isinstance(one, Subject) for one in subjects):
        return subjects
    there = [key for key, value in vars(place).items() if isinstance(value, Subject)]
    told = f"Subjects: {', '.join(there)}" if there else "it has no Subject at all"
    raise UsageError(f"{module}:{name} is no Subject; {told}")


if __name__ == "__main__":
    sys.exit(main())
