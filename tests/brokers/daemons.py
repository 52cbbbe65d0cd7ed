"""Brokers of several makes, each with the very configuration that docs/operating.md gives."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import os
import re
import shutil
import socket
import subprocess
import time
from pathlib import Path

import pytest

from tests.conftest import Certificates, free_port
from tests.namespace import tool

ACCOUNTS = {"fw-7": "the Consumer's", "soc": "the Producer's"}
_GUIDE = Path(__file__).resolve().parents[2] / "docs/operating.md"
_PATH = os.environ.get("PATH", "") + ":/usr/sbin:/usr/lib/rabbitmq/bin"
_START_TIME = 60.0
_STOP_TIME = 20.0


def documented(heading: str, number: int = 0) -> str:
    """A block of code under this heading of the operator's guide."""
    section = _GUIDE.read_text().split(f"\n### {heading}\n")[1].split("\n### ")[0]
    return re.findall(r"```\w*\n(.*?)```", section, re.DOTALL)[number]


class Daemon:
    """A broker with TLS on a port of 127.0.0.1 that stays, and the accounts `fw-7` and `soc`.

    The class attributes say in what the makes differ; the tests show that it is so.
    """

    protocol = "5"
    namespace = ""
    most_qos = 2
    keeps_sessions = True  # over its own restart
    denies = "silently"  # a subscription that the access rules forbid
    program = ""

    def __init__(self, directory: Path, certificates: Certificates) -> None:
        directory.mkdir()
        self.directory = directory
        self.ca = certificates.ca
        self.port = free_port()
        self.log = directory / "output"
        self._process: subprocess.Popen[bytes] | None = None
        self.found = self.installed() or ""
        for name, source in (
            ("ca.pem", certificates.ca),
            ("broker.crt", certificates.cert("server")),
            ("broker.key", certificates.key("server")),
        ):
            shutil.copy(source, directory / name)
        chain = [certificates.cert("server"), certificates.key("server")]
        (directory / "broker.pem").write_text("".join(path.read_text() for path in chain))
        self.prepare()

    @classmethod
    def installed(cls) -> str | None:
        """The path of the program, if there is one."""
        return shutil.which(cls.program, path=_PATH)

    def prepare(self) -> None:
        """Write the configuration."""
        raise NotImplementedError

    def command(self) -> list[str]:
        raise NotImplementedError

    def environment(self) -> dict[str, str]:
        return {}

    def write(self, name: str, text: str, *changes: tuple[str, str]) -> None:
        """Write a documented file; every change must find what it changes."""
        for old, new in changes:
            assert old in text, old
            text = text.replace(old, new)
        (self.directory / name).write_text(text)

    def launch(self) -> Daemon:
        """Start it and wait for nothing."""
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self.command(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.directory,
                env={**os.environ, "PATH": _PATH, **self.environment()},
            )
        return self

    def wait(self) -> Daemon:
        """Wait until it takes connections."""
        assert self._process is not None
        deadline = time.monotonic() + _START_TIME
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port)):
                return self
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.kill()
                pytest.fail(f"{self.program} did not start:\n{self.log.read_text()[-3000:]}")
            time.sleep(0.05)

    def stop(self) -> None:
        """End it in order."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait(_STOP_TIME)
            self._process = None

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def close(self) -> None:
        self.kill()


class Mosquitto(Daemon):
    """Grants every subscription and withholds what the access rules forbid."""

    program = "mosquitto"

    def prepare(self) -> None:
        place = ("/etc/mosquitto/", f"{self.directory}/")
        more = f"persistence_location {self.directory}/\n"
        if os.geteuid() == 0:
            more += "user root\n"
        listener = ("listener 8883", f"listener {self.port} 127.0.0.1")
        self.write("mosquitto.conf", more + documented("mosquitto"), place, listener)
        self.write("acl", documented("Access control"))
        (self.directory / "acl").chmod(0o600)
        passwords = self.directory / "passwords"
        passwords.touch(0o600)
        for user, password in ACCOUNTS.items():
            tool("mosquitto_passwd", "-b", str(passwords), user, password)

    def command(self) -> list[str]:
        return [self.found, "-v", "-c", str(self.directory / "mosquitto.conf")]


class Ejabberd(Daemon):
    """Keeps sessions in memory only. Runs here as a node without a name, so without epmd."""

    keeps_sessions = False
    denies = "Topic filter invalid"
    program = "ejabberdctl"

    def prepare(self) -> None:
        self.found = shutil.which("erl", path=_PATH) or ""
        self.libraries = next(Path("/usr/lib").glob("*/ejabberd-*/ebin")).parents[1]
        self.write(
            "ejabberd.yml",
            documented("ejabberd"),
            ("/etc/ejabberd/", f"{self.directory}/"),
            ("port: 8883", f"port: {self.port}\n    ip: 127.0.0.1"),
        )

    def command(self) -> list[str]:
        accounts = ",".join(
            f'ejabberd_auth:try_register(<<"{user}">>,<<"mqtt.example.com">>,<<"{password}">>)'
            for user, password in ACCOUNTS.items()
        )
        data = f'"{self.directory / "db"}"'
        return [self.found, "-noinput", "-mnesia", "dir", data, "-s", "ejabberd", "-eval", accounts]

    def environment(self) -> dict[str, str]:
        return {
            "HOME": str(self.directory),
            "ERL_LIBS": str(self.libraries),
            "ERL_CRASH_DUMP": "/dev/null",
            "EJABBERD_CONFIG_PATH": str(self.directory / "ejabberd.yml"),
            "EJABBERD_LOG_PATH": str(self.directory / "log"),
        }


class RabbitMQ(Daemon):
    """Speaks MQTT 3.1.1 and QoS 1, and cannot tell `.` from `/` in a topic."""

    protocol = "3.1.1"
    namespace = "vpf"
    most_qos = 1
    denies = "ends the connection"
    program = "rabbitmq-server"

    def prepare(self) -> None:
        self.found = self.found.replace("/usr/sbin/", "/usr/lib/rabbitmq/bin/")  # as who we are
        self.write(
            "rabbitmq.conf",
            documented("RabbitMQ"),
            ("/etc/rabbitmq/", f"{self.directory}/"),
            ("ssl.default = 8883", f"ssl.default = 127.0.0.1:{self.port}"),
        )
        # the device fw-7.site as well: what becomes of dots
        device = (r"device\\.fw-7)", r"device\\.fw-7(\\.site)?)")
        hashes = [
            (f'"hash of {user}\'s password"', f'"{_rabbit_hash(password)}"')
            for user, password in ACCOUNTS.items()
        ]
        self.write("oc2d.json", documented("RabbitMQ", 1), device, *hashes)
        (self.directory / "plugins").write_text(documented("RabbitMQ", 2))
        names = {"ERL_EPMD_PORT": str(free_port()), "ERL_EPMD_ADDRESS": "127.0.0.1"}
        self.names = {**names, "HOME": str(self.directory)}
        # one of our own: RabbitMQ would start one that stays
        self.epmd = subprocess.Popen(["epmd"], env={**os.environ, **self.names})

    def command(self) -> list[str]:
        return [self.found]

    def environment(self) -> dict[str, str]:
        return {
            **self.names,
            "RUNNING_UNDER_SYSTEMD": "true",  # in the foreground, with signals as they are
            "RABBITMQ_CONF_ENV_FILE": "/dev/null",
            "RABBITMQ_NODENAME": f"oc2d-test-{os.getpid()}@localhost",
            "RABBITMQ_CONFIG_FILE": str(self.directory / "rabbitmq.conf"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(self.directory / "plugins"),
            "RABBITMQ_MNESIA_BASE": str(self.directory / "db"),
            "RABBITMQ_LOG_BASE": str(self.directory / "log"),
            "RABBITMQ_LOGS": "-",
            "RABBITMQ_PID_FILE": str(self.directory / "pid"),
            "RABBITMQ_DIST_PORT": str(free_port()),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-kernel inet_dist_use_interface {127,0,0,1}",
        }

    def close(self) -> None:
        super().close()
        self.epmd.kill()
        self.epmd.wait()


def _rabbit_hash(password: str) -> str:
    """What `rabbitmqctl hash_password` makes."""
    salt = os.urandom(4)
    return base64.b64encode(salt + hashlib.sha256(salt + password.encode()).digest()).decode()


MAKES = (Mosquitto, Ejabberd, RabbitMQ)
