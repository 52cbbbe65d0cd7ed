"""oc2d as its users have it: a process beside a broker, on a host that is a network namespace."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest

from oc2d.errors import Oc2dError
from oc2d.status import SOCKET_NAME, fetch
from oc2d.testing import Broker, NoBroker
from tests.namespace import Namespace
from tests.producer import Producer
from tests.waiting import wait_until

_FILLED = re.compile(r"t\d+_")  # those of tiers


class Consumer:
    """`oc2d --foreground` with a configuration of its own; `log` holds all its runs."""

    def __init__(self, host: Host, name: str, tables: Mapping[str, Mapping[str, Any]]) -> None:
        self.host = host
        self.name = name
        self.directory = host.directory / name
        self.directory.mkdir()
        self.config = self.directory / "oc2d.toml"
        self.log = self.directory / "log"
        self.process: subprocess.Popen[bytes] | None = None
        self.wrapped_in: tuple[str, ...] = ()  # a command that execs the one after it
        self.tables: dict[str, dict[str, Any]] = {
            "": {"device_id": name},
            "broker": {"host": "127.0.0.1", "port": host.broker.port, "tls": False},
            "state": {
                "directory": str(self.directory / "state"),
                "runtime_directory": str(self.directory / "run"),
            },
        }
        for table, members in tables.items():
            self.tables.setdefault(table, {}).update(members)

    # -- life

    def write_config(self) -> None:
        lines = []
        for table, members in self.tables.items():
            lines += [f"[{table}]"] if table else []
            lines += [f"{key} = {json.dumps(value)}" for key, value in members.items()]
        self.config.write_text("\n".join(lines) + "\n")

    def launch(self, **environment: str) -> Consumer:
        """Start the process and wait for nothing."""
        self.write_config()
        command = [*self.wrapped_in, *OC2D, "--foreground", "--log-format", "json"]
        command += ["--config", str(self.config)]
        with self.log.open("ab") as log:
            self.process = self.host.run(
                subprocess.Popen,
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, **environment},
            )
        return self

    def start(self, **environment: str) -> Consumer:
        """Start the process and wait until it is subscribed."""
        self.launch(**environment)
        self.until_subscribed()
        return self

    def until_subscribed(self, timeout: float = 20.0) -> None:
        def subscribed() -> bool:
            assert self.process is not None
            if self.process.poll() is not None:
                pytest.fail(f"oc2d ended with {self.process.returncode}:\n{self.log.read_text()}")
            return bool(self.told().get("link", {}).get("healthy"))

        wait_until(subscribed, timeout, f"subscribed; log:\n{self.log.read_text()[-3000:]}")

    def told(self) -> dict[str, Any]:
        """What the running daemon tells `oc2d status`; nothing if it does not answer."""
        try:
            return fetch(self.directory / "run" / SOCKET_NAME)
        except Oc2dError:
            return {}

    def signal(self, number: int) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def wait(self, timeout: float = 20.0) -> int:
        """Wait for the end of the process; its exit code."""
        assert self.process is not None
        return self.process.wait(timeout)

    def stop(self) -> int:
        self.signal(signal.SIGTERM)
        return self.wait()

    def kill(self) -> None:
        self.signal(signal.SIGKILL)
        self.wait()

    def restart(self) -> None:
        assert self.stop() == 0
        self.start()

    # -- what it says

    def entries(self, event: str | None = None) -> list[dict[str, Any]]:
        """Lines of the log, every one of them JSON."""
        whole = self.log.read_text().rpartition("\n")[0]
        entries = [json.loads(line) for line in whole.split("\n") if line]
        return [entry for entry in entries if event in (None, entry["event"])]

    def rules(self) -> dict[int, dict[str, Any]]:
        """Number → rule, as `oc2d status` shows them."""
        return {rule["number"]: rule for rule in self.told()["actuators"]["slpf"]["rules"]}

    def resident(self) -> int:
        """Bytes of memory in use."""
        assert self.process is not None
        pages = Path(f"/proc/{self.process.pid}/statm").read_text().split()[1]
        return int(pages) * os.sysconf("SC_PAGESIZE")

    def run(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run `oc2d` with these arguments and this configuration."""
        return subprocess.run(
            [*OC2D, *arguments, "--config", str(self.config)],
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
            env={**os.environ, **environment},
        )

    def close(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.kill()


OC2D = (sys.executable, "-m", "oc2d")


class Host:
    """A machine: a broker, Consumers, Producers and a kernel's packet filter in one namespace.

    With `isolated` False there is no namespace: for what needs no packet filter, nor root.
    """

    def __init__(
        self, directory: Path, *options: str, persistent: bool = False, isolated: bool = True
    ) -> None:
        self.directory = directory
        self._undo = ExitStack()
        self.space = Namespace() if isolated else None
        if self.space:
            self._undo.callback(self.space.close)
        place = directory / "broker"
        place.mkdir()
        quick = ("set_tcp_nodelay true", "max_queued_messages 0")
        self.broker = Broker(place, *quick, *options, persistent=persistent)
        self._undo.callback(self.broker.kill)

    def run(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Call a function on this host."""
        return (self.space.run if self.space else lambda f, *a, **k: f(*a, **k))(
            function, *args, **kwargs
        )

    def start_broker(self) -> Host:
        try:
            self.run(self.broker.start)
        except NoBroker as none:
            pytest.skip(str(none))
        return self

    def consumer(self, name: str = "zulu", **tables: Mapping[str, Any]) -> Consumer:
        """A Consumer that is not started; `tables` by name, `actuators_slpf` is actuators.slpf."""
        named = {
            key.replace("actuators_", "actuators.").replace("top", ""): value
            for key, value in tables.items()
        }
        made = Consumer(self, name, named)
        self._undo.callback(made.close)
        return made

    def producer(self, *args: Any, **kwargs: Any) -> Producer:
        made: Producer = self.run(Producer, self.broker.port, *args, **kwargs)
        self._undo.callback(made.close)
        return made

    def nft(self, *args: str, text: str | None = None) -> str:
        assert self.space is not None
        return self.space.nft(*args, text=text)

    def table(self) -> list[dict[str, Any]]:
        """What `nft -j` lists of oc2d's table."""
        listed = json.loads(self.nft("-j", "list", "table", "inet", "oc2d"))["nftables"]
        return [item for item in listed if "metainfo" not in item]

    def elements(self) -> list[Any]:
        """The keys of all sets and maps that commands fill."""
        found = [item.get("set") or item.get("map") for item in self.table()]
        return [
            element[0] if "map" in one else element
            for one in found
            if one is not None and _FILLED.match(one["name"])
            for element in one.get("elem", [])
        ]

    def close(self) -> None:
        self._undo.close()


def net(text: str) -> dict[str, str]:
    """A target: `ipv4_net` or `ipv6_net`."""
    return {f"ipv{ip_network(text, strict=False).version}_net": text}


def command(action: str, target: dict[str, Any], **args: Any) -> dict[str, Any]:
    """A command for slpf; `args` of the language, and of slpf under `slpf`."""
    made: dict[str, Any] = {"action": action, "target": target}
    return {**made, "args": args} if args else made


def deny(text: str, **slpf: Any) -> dict[str, Any]:
    return command("deny", net(text), **({"slpf": slpf} if slpf else {}))


def allow(text: str, **slpf: Any) -> dict[str, Any]:
    return command("allow", net(text), **({"slpf": slpf} if slpf else {}))


def delete(number: object) -> dict[str, Any]:
    return command("delete", {"slpf:rule_number": number})


def query(*features: str, **args: Any) -> dict[str, Any]:
    return command("query", {"features": list(features)}, **args)


def lines(consumer: Consumer, request_id: str, count: int = 1) -> list[dict[str, Any]]:
    """The log's lines about a request; they are written after it is answered."""

    def written() -> list[dict[str, Any]]:
        entries = consumer.entries("request")
        return [entry for entry in entries if entry["request_id"] == request_id]

    wait_until(lambda: len(written()) >= count)
    return written()
