"""The daemon's state in the text format of Prometheus, version 0.0.4.

Everything comes from counters that are kept in any case and is put together when it is asked for:
a command costs nothing more.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, Literal

from oc2d.engine.histogram import Histogram

__all__ = ["CONTENT_TYPE", "METRICS", "Extra", "render"]

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_Labels = Mapping[str, object]
_Sample = tuple[_Labels, float]


@dataclass(frozen=True, slots=True)
class Extra:
    """What the status does not tell: `certificates` are moments by TOML path."""

    durations: Histogram
    journal_bytes: int
    certificates: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric: its name, kind and meaning."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    meaning: str


METRICS = (
    Metric("oc2d_info", "gauge", "Always 1; the labels tell version and device_id."),
    Metric("oc2d_start_time_seconds", "gauge", "When the daemon started, seconds since 1970."),
    Metric("oc2d_connected", "gauge", "1 while the broker's link stands."),
    Metric("oc2d_healthy", "gauge", "1 while it stands and every subscription is granted."),
    Metric("oc2d_reconnects_total", "counter", "Links that were made anew."),
    Metric("oc2d_received_total", "counter", "Messages that were judged."),
    Metric("oc2d_dropped_total", "counter", "Messages of these that were none of ours."),
    Metric("oc2d_duplicates_total", "counter", "Requests of these that were only answered again."),
    Metric("oc2d_commands_total", "counter", "Outcomes by profile, action and status."),
    Metric("oc2d_command_duration_seconds", "histogram", "From acceptance to outcome."),
    Metric("oc2d_queue", "gauge", "Commands accepted and not finished."),
    Metric("oc2d_windows", "gauge", "Events of time windows that are to come."),
    Metric("oc2d_remembered", "gauge", "Requests whose repetition would be known."),
    Metric("oc2d_responses_published_total", "counter", "Responses sent, repetitions too."),
    Metric("oc2d_responses_refused_total", "counter", "Responses that the broker refused."),
    Metric("oc2d_responses_unsent", "gauge", "Responses the broker has not acknowledged yet."),
    Metric("oc2d_journal_bytes", "gauge", "Size of the journal's files."),
    Metric("oc2d_journal_failing", "gauge", "1 while the journal cannot be written."),
    Metric("oc2d_actuator_up", "gauge", "By profile: 0 while it is stuck."),
    Metric("oc2d_actuator_value", "gauge", "By profile and name: the numbers in its status."),
    Metric("oc2d_certificate_end_seconds", "gauge", "By key: when the file's certificate ends."),
    Metric("oc2d_warnings", "gauge", "Warnings about the configuration."),
    Metric("oc2d_restart_needed", "gauge", "Changed keys that count only after a restart."),
)


def render(status: Mapping[str, Any], extra: Extra) -> str:
    """Write every metric from the daemon's snapshot and what it does not tell."""
    samples = _samples(status, extra)
    return "".join(_family(metric, samples[metric.name]) for metric in METRICS)


def _samples(status: Mapping[str, Any], extra: Extra) -> dict[str, Iterable[str]]:
    link, engine = status["link"], status["engine"]
    counters, actuators = engine["counters"], status["actuators"]
    plain: dict[str, float] = {
        "oc2d_start_time_seconds": status["started"],
        "oc2d_connected": link["connected"],
        "oc2d_healthy": link["healthy"],
        "oc2d_reconnects_total": link["reconnects"],
        "oc2d_received_total": counters.get("received", 0),
        "oc2d_dropped_total": counters.get("dropped", 0),
        "oc2d_duplicates_total": counters.get("duplicates", 0),
        "oc2d_queue": engine["queue"],
        "oc2d_windows": status["windows"],
        "oc2d_remembered": engine["remembered"],
        "oc2d_responses_published_total": link["published"],
        "oc2d_responses_refused_total": link["refused"],
        "oc2d_responses_unsent": engine["unsent"],
        "oc2d_journal_bytes": extra.journal_bytes,
        "oc2d_journal_failing": engine["journal_error"] is not None,
        "oc2d_warnings": len(status["warnings"]),
        "oc2d_restart_needed": len(status["restart_needed"]),
    }
    labelled: dict[str, Iterable[_Sample]] = {
        "oc2d_info": [({"version": status["version"], "device_id": status["device_id"]}, 1)],
        "oc2d_commands_total": [
            ({name: one[name] for name in ("profile", "action", "status")}, one["count"])
            for one in engine["outcomes"]
        ],
        "oc2d_actuator_up": [
            ({"profile": nsid}, told["state"] != "stuck") for nsid, told in actuators.items()
        ],
        "oc2d_actuator_value": [
            ({"profile": nsid, "name": name}, value)
            for nsid, told in actuators.items()
            for name, value in told.items()
            if isinstance(value, (int, float)) and not isinstance(value, bool)
        ],
        "oc2d_certificate_end_seconds": [
            ({"key": path}, end) for path, end in extra.certificates.items()
        ],
    }
    labelled |= {name: [({}, value)] for name, value in plain.items()}
    lines: dict[str, Iterable[str]] = {
        name: [_line(name, labels, value) for labels, value in found]
        for name, found in labelled.items()
    }
    name = "oc2d_command_duration_seconds"
    return {**lines, name: _histogram(name, extra.durations)}


def _histogram(name: str, durations: Histogram) -> Iterator[str]:
    counts = list(durations.counts)
    bounds = [*(f"{bound / 1000:g}" for bound in Histogram.BOUNDS), "+Inf"]
    for bound, count in zip(bounds, accumulate(counts), strict=True):
        yield _line(f"{name}_bucket", {"le": bound}, count)
    yield _line(f"{name}_sum", {}, round(durations.sum / 1000, 6))
    yield _line(f"{name}_count", {}, sum(counts))


def _family(metric: Metric, lines: Iterable[str]) -> str:
    head = f"# HELP {metric.name} {metric.meaning}\n# TYPE {metric.name} {metric.kind}\n"
    return head + "".join(lines)


def _line(name: str, labels: _Labels, value: float) -> str:
    shown = ",".join(f'{key}="{_escaped(str(text))}"' for key, text in labels.items())
    number = value + 0  # a truth value becomes 0 or 1
    return f"{name}{{{shown}}} {number!r}\n" if shown else f"{name} {number!r}\n"


def _escaped(text: str) -> str:
    return text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
