"""How a rule is shown in `oc2d status`. Pure."""

from __future__ import annotations

from typing import Any

from oc2d_slpf.rules import Verdict, bare, describe
from oc2d_slpf.store import Entry

__all__ = ["shown"]


def shown(entry: Entry) -> dict[str, Any]:
    """Return what belongs to a rule, in a Producer's words; `producer` is its owner."""
    rule = entry.rule
    verdict = bare(rule.verdict)
    found: dict[str, Any] = {
        "number": rule.number,
        "verdict": "allow" if verdict is Verdict.ALLOW else "deny",
        "match": describe(rule.shape, rule.key),
        "direction": rule.shape.direction.value,
        "persistent": entry.persistent,
        "producer": entry.producer,
    }
    if verdict is not Verdict.ALLOW:
        found["drop_process"] = {Verdict.DROP: "none"}.get(verdict, verdict.value)
    times = {"start_time": entry.start, "stop_time": entry.stop}
    return found | {name: time for name, time in times.items() if time is not None}
