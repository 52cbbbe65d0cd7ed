"""The names of what the transfer logs (`structlog.get_logger("oc2d.mqtt")`)."""

from __future__ import annotations

from typing import Final

__all__ = [
    "CONNECTED",
    "CONNECTING",
    "CONNECT_FAILED",
    "DELIVERY_ODD",
    "DISCONNECTED",
    "LOOP_ERROR",
    "NOT_CONFORMANT",
    "NO_TLS",
    "NO_VERIFY",
    "OBSERVER_ERROR",
    "RESPONSE_REFUSED",
    "RESPONSE_TOO_LARGE",
    "SESSION_LOST",
    "SESSION_SHORTENED",
    "STOPPED",
    "SUBSCRIBED",
    "SUBSCRIPTION_FAILED",
]

CONNECTING: Final = "mqtt.connecting"
CONNECTED: Final = "mqtt.connected"
CONNECT_FAILED: Final = "mqtt.connect_failed"
DISCONNECTED: Final = "mqtt.disconnected"
SESSION_LOST: Final = "mqtt.session_lost"
SESSION_SHORTENED: Final = "mqtt.session_shortened"
SUBSCRIBED: Final = "mqtt.subscribed"
SUBSCRIPTION_FAILED: Final = "mqtt.subscription_failed"
RESPONSE_REFUSED: Final = "mqtt.response_refused"
RESPONSE_TOO_LARGE: Final = "mqtt.response_too_large"
DELIVERY_ODD: Final = "mqtt.delivery_odd"
NO_TLS: Final = "mqtt.no_tls"
NO_VERIFY: Final = "mqtt.tls_without_verification"
NOT_CONFORMANT: Final = "mqtt.protocol_not_conformant"
OBSERVER_ERROR: Final = "mqtt.observer_error"
LOOP_ERROR: Final = "mqtt.loop_error"
STOPPED: Final = "mqtt.stopped"
