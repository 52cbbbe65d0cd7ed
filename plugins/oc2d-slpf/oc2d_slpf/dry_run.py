"""The back end that only says what it would do: for trials where traffic must not change."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

import structlog

from oc2d_slpf.backend import Permit, Step, Unpermit
from oc2d_slpf.operations import AddKeys, AddRanks, DropKeys, DropSet
from oc2d_slpf.rules import Verdict, describe

__all__ = ["DryRun"]

_log = structlog.get_logger("oc2d.slpf")


class DryRun:
    """Log each change instead of making it."""

    ranked = True

    def check(self) -> None:
        """Say once that nothing is in force."""
        _log.warning("slpf_dry_run", detail="rules are answered 200 and not put in force")

    def can(self, verdict: Verdict) -> bool:
        """Every rule can be logged."""
        del verdict
        return True

    def can_track(self) -> bool:
        """Say yes, as to all rules."""
        return True

    def can_log(self) -> bool:
        """Say yes, as to all rules."""
        return True

    def replace(self, steps: Iterable[Step]) -> None:
        """Log how much would be loaded."""
        _log.info("slpf_would_replace", steps=sum(1 for _ in steps))

    def apply(self, steps: Sequence[Step]) -> None:
        """Log what would be changed: for people what matches, the rest for whoever debugs."""
        for step in steps:
            for text in _told(step):
                _log.info("slpf_would_apply", step=text)
            _log.debug("slpf_would_apply", step=repr(step))

    def remove(self) -> None:
        """Log that all would be removed."""
        _log.info("slpf_would_remove")

    def watch(self, changed: Callable[[], None]) -> None:
        """Nothing is there that others could change."""

    def close(self) -> None:
        """Nothing is held."""


def _told(step: Step) -> Iterator[str]:
    """Say in a Producer's words what a step opens, or which matches it puts in or takes out."""
    match step:
        case AddKeys() | AddRanks() | DropKeys():
            shape, does = step.id.shape, "remove" if isinstance(step, DropKeys) else "add"
            for key in step.keys:
                yield f"{does} {describe(shape, key)} ({shape.direction.value})"
        case Permit():
            yield f"keep open {step}"
        case Unpermit():
            yield f"no longer keep open {step.permit}"
        case DropSet():
            yield f"remove all of {step.id.shape.name} in tier {step.id.tier}"
        case _:
            pass
