"""An audit log of OpenC2 commands: what is asked and decided, each line bound to the one before.

`[plugins.audit]` names the file. `python -m oc2d_audit verify FILE` tells whether it is whole.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import msgspec

from oc2d.errors import ConfigError, PluginError, Problem, Refusal, Unavailable
from oc2d.hookspecs import Place, Request, hookimpl
from oc2d.language.codec import Encoding
from oc2d.language.command import command_tree
from oc2d_audit.log import AuditLog

__all__ = ["AuditConfig", "AuditPlugin", "plugin"]

_LONGEST_COMMAND = 4096  # bytes
_LONGEST_TEXT = 256  # characters
_SMALLEST_FILE = 4096
_WHEN_FULL = ("refuse", "continue")


@dataclass(frozen=True, slots=True)
class AuditConfig:
    """`[plugins.audit]`; `keep` None: no file is ever deleted."""

    file: Path
    rotate_bytes: int = 64 << 20
    keep: int | None = None
    when_full: str = "refuse"


class AuditPlugin:
    """The hooks."""

    def __init__(self) -> None:
        self._log: AuditLog | None = None
        self._refuse = True

    @hookimpl
    def oc2d_parse_config(self, table: Mapping[str, Any]) -> AuditConfig:
        """Check `file`, `rotate_bytes`, `keep` and `when_full`."""
        known = AuditConfig.__dataclass_fields__
        problems = [
            Problem(key, f"unknown key; there are {', '.join(known)}")
            for key in table
            if key not in known
        ]
        file = table.get("file")
        if not isinstance(file, str) or not Path(file).is_absolute():
            problems.append(Problem("file", "the absolute path of the log is needed"))
        elif not Path(file).parent.is_dir():
            problems.append(Problem("file", f"there is no directory {Path(file).parent}"))
        for key, least in (("rotate_bytes", _SMALLEST_FILE), ("keep", 1)):
            value = table.get(key, least)
            if type(value) is not int or value < least:
                problems.append(Problem(key, f"expected a whole number, {least} or more"))
        if table.get("when_full", "refuse") not in _WHEN_FULL:
            problems.append(Problem("when_full", f"expected {' or '.join(_WHEN_FULL)}"))
        if problems:
            raise ConfigError(tuple(problems))
        return AuditConfig(**{**table, "file": Path(str(file))})

    @hookimpl
    def oc2d_configure(self, config: AuditConfig, place: Place) -> None:
        """Open the log, or go on with the one that is open."""
        if self._log is None:
            self._log = AuditLog(
                config.file,
                place.state_directory / "audit.head",
                _now,
                rotate_bytes=config.rotate_bytes,
                keep=config.keep,
            )
        elif self._log.file != config.file:
            raise PluginError("another file needs a restart: the chain has one end")
        self._log.rotate_bytes, self._log.keep = config.rotate_bytes, config.keep
        self._refuse = config.when_full == "refuse"

    @hookimpl(tryfirst=True)
    def oc2d_authorise(self, request: Request) -> Refusal | None:
        """Record what is asked, and let nothing be decided that could not be recorded.

        A decision is heard of after it was made, and a death in between would hide the command.
        """
        if self._log is not None:
            self._log.write({"event": "asked", **_told(request)})
        if self._refuse and (self._log is None or self._log.error is not None):
            return Unavailable("the audit log cannot be written")
        return None

    @hookimpl
    def oc2d_response(self, request: Request, status: int, duration_ms: float) -> None:
        """Record a decision."""
        if self._log is not None:
            outcome = {"status": status, "duration_ms": round(duration_ms, 2)}
            self._log.write({"event": "decision", **outcome, **_told(request)})

    @hookimpl
    def oc2d_status(self) -> Mapping[str, Any]:
        """Tell where the chain ends, to be noted elsewhere, and whether the disk takes it."""
        if self._log is None:
            return {}
        return {
            "audit": {
                "file": str(self._log.file),
                "seq": self._log.link.seq,
                "hash": self._log.link.hash,
                "error": self._log.error,
                "unwritten": self._log.unwritten,
                "unrecorded": self._log.unrecorded,
            }
        }

    @hookimpl
    def oc2d_stop(self) -> None:
        """Write the end."""
        if self._log is not None:
            self._log.close()
            self._log = None


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="milliseconds")


def _told(request: Request) -> dict[str, Any]:
    """Say who asks what."""
    command = request.command
    tree = msgspec.json.encode(command_tree(command, Encoding.JSON), order="sorted")
    return {
        "from": _cut(request.producer),
        "request_id": _cut(request.request_id),
        "topic": _cut(request.topic),
        "profile": request.profile,
        "action": command.action.value,
        "target": _cut(command.target.name),
        "digest": hashlib.sha256(tree).hexdigest(),
        "command": msgspec.Raw(tree) if len(tree) <= _LONGEST_COMMAND else None,
    }


def _cut(text: str | None) -> str | None:
    return text if text is None else text[:_LONGEST_TEXT]


#: What the entry point names.
plugin = AuditPlugin()
