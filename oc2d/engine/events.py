"""The names of what the engine logs; documented in docs/logging.md."""

from __future__ import annotations

__all__ = [
    "ACTUATOR_CHOSEN",
    "ACTUATOR_FAILED",
    "ACTUATOR_LEFT",
    "ACTUATOR_STUCK",
    "FOLLOW_UP_FAILED",
    "HOOK_FAILED",
    "JOURNAL_FAILED",
    "JOURNAL_RECOVERED",
    "LATE_OUTCOME",
    "LINK_HOOK_FAILED",
    "MESSAGE_DROPPED",
    "MESSAGE_FAILED",
    "RECOVERY_FAILED",
    "REPORT_FAILED",
    "REQUEST",
    "REQUEST_ID_REUSED",
    "RESTORED",
    "REVERTED",
    "REVERT_FAILED",
]

RECOVERY_FAILED = "recovery_failed"
REQUEST = "request"
LINK_HOOK_FAILED = "link_hook_failed"
MESSAGE_DROPPED = "message_dropped"
MESSAGE_FAILED = "message_failed"
REQUEST_ID_REUSED = "request_id_reused"
ACTUATOR_CHOSEN = "actuator_chosen"
ACTUATOR_FAILED = "actuator_failed"
ACTUATOR_STUCK = "actuator_stuck"
LATE_OUTCOME = "late_outcome"
REVERTED = "reverted"
REVERT_FAILED = "revert_failed"
FOLLOW_UP_FAILED = "follow_up_failed"
HOOK_FAILED = "hook_failed"
JOURNAL_FAILED = "journal_failed"
JOURNAL_RECOVERED = "journal_recovered"
RESTORED = "restored"
REPORT_FAILED = "report_failed"
ACTUATOR_LEFT = "actuator_left"
