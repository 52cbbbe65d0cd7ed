"""paho's client, without dnspython.

paho takes it along where it is installed, for SRV records of brokers, which we do not ask for: a
tenth of a start, and 2 MB.
"""

from __future__ import annotations

import sys
from typing import Any

__all__ = ["paho"]

_modules: dict[str, Any] = sys.modules
_modules.setdefault("dns.resolver", None)  # makes the import fail
try:
    import paho.mqtt.client as paho
finally:
    if _modules["dns.resolver"] is None:
        del _modules["dns.resolver"]
