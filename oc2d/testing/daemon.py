"""`oc2d` as its users have it: a process beside a broker, with a Producer to command it."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from oc2d import config
from oc2d.errors import Oc2dError
from oc2d.producer.client import Producer
from oc2d.producer.messages import command_topic
from oc2d.producer.replies import Reply
from oc2d.producer.settings import ProducerSettings
from oc2d.status import SOCKET_NAME, fetch
from oc2d.testing.broker import Broker
from oc2d.testing.host import DEVICE

__all__ = ["Daemon"]

_START_TIME = 20.0
_STOP_TIME = 15.0


class Daemon:
    """`oc2d --foreground` with these tables of `[actuators]`; `log` is what it writes.

    Its plugins are those that are installed beside the test.
    """

    def __init__(
        self, directory: Path, broker: Broker, actuators: Mapping[str, Mapping[str, Any]]
    ) -> None:
        self.directory = directory
        self.log = directory / "log"
        self.config = directory / "oc2d.toml"
        self._broker = broker
        self._process: subprocess.Popen[bytes] | None = None
        directory.mkdir(parents=True, exist_ok=True)
        self.config.write_text(
            _toml(
                {
                    "device_id": DEVICE,
                    "broker": {"host": "127.0.0.1", "port": broker.port, "tls": False},
                    "state": {
                        "directory": str(directory / "state"),
                        "runtime_directory": str(directory / "run"),
                    },
                    "actuators": actuators,
                }
            )
        )

    def start(self) -> Daemon:
        """Start it and wait until it is subscribed; AssertionError with its log if it is not."""
        command = [sys.executable, "-m", "oc2d", "--foreground", "--log-format", "json"]
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [*command, "--config", str(self.config)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        deadline = time.monotonic() + _START_TIME
        while not self._subscribed():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.kill()
                raise AssertionError(f"oc2d is not subscribed:\n{self.log.read_text()}")
            time.sleep(0.02)
        return self

    def _subscribed(self) -> bool:
        try:
            return bool(self.status()["link"]["healthy"])
        except Oc2dError:
            return False

    def status(self) -> dict[str, Any]:
        """Ask it what `oc2d status --json` tells."""
        return fetch(self.directory / "run" / SOCKET_NAME)

    def command(self, command: Mapping[str, Any], *, timeout: float = 10.0) -> Reply:
        """Send a command as a Producer does; the final reply."""
        link = config.Broker(host="127.0.0.1", port=self._broker.port, tls=False)
        settings = ProducerSettings(broker=link, sender="soc@example.com")
        with Producer(settings) as producer:
            topic = command_topic(device=DEVICE)
            replies = [*producer.request(dict(command), topic, expect=1, timeout=timeout)]
        if not replies:
            raise AssertionError(f"no answer in {timeout} s; its log:\n{self.log.read_text()}")
        return replies[-1]

    def stop(self) -> int:
        """End it in order; its exit code."""
        return self._end("terminate")

    def kill(self) -> None:
        """End it as a crash would."""
        self._end("kill")

    def _end(self, how: str) -> int:
        if self._process is None:
            return 0
        getattr(self._process, how)()
        code = self._process.wait(_STOP_TIME)
        self._process = None
        return code


def _toml(tree: Mapping[str, Any], path: str = "") -> str:
    """Write tables of TOML; inner ones after the values, as TOML wants it."""
    values = {key: value for key, value in tree.items() if not isinstance(value, Mapping)}
    lines = [f"{json.dumps(key)} = {json.dumps(value)}\n" for key, value in values.items()]
    text = (f"[{path}]\n" if path else "") + "".join(lines)
    for key, table in tree.items():
        if isinstance(table, Mapping):
            text += _toml(table, f"{path}.{json.dumps(key)}" if path else json.dumps(key))
    return text
