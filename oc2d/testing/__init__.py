"""For the tests of plugins: a host without broker, a clock, a broker, and a conformance kit."""

from oc2d.testing.broker import Broker, NoBroker, free_port
from oc2d.testing.clock import TurnedClock
from oc2d.testing.daemon import Daemon
from oc2d.testing.host import DEVICE, ActuatorHost
from oc2d.testing.kit import (
    Check,
    Finding,
    Nonconformance,
    Report,
    Sample,
    Subject,
    checks,
    examine,
)
from oc2d.testing.transfer import Recorder, Reply

__all__ = [
    "DEVICE",
    "ActuatorHost",
    "Broker",
    "Check",
    "Daemon",
    "Finding",
    "NoBroker",
    "Nonconformance",
    "Recorder",
    "Reply",
    "Report",
    "Sample",
    "Subject",
    "TurnedClock",
    "checks",
    "examine",
    "free_port",
]
