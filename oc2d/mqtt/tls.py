"""Stand-in."""

from __future__ import annotations

from oc2d.config import Broker
from oc2d.errors import Problem

__all__ = ["tls_problems"]


def tls_problems(broker: Broker) -> tuple[Problem, ...]:
    """Stand-in."""
    return tuple(
        Problem(f"broker.{key}", f"no such file: {path}")
        for key in ("ca_file", "cert_file", "key_file", "crl_file")
        if (path := getattr(broker, key)) and not path.exists()
    )
