"""Hosts for tests: network namespaces, and the programs of the system that make and fill them."""

from __future__ import annotations

import ctypes
import itertools
import os
import shutil
import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

_numbers = itertools.count(1)
_PATH = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
_CLONE_NEWNET = 0x40000000


def tool(*command: str, text: str | None = None) -> str:
    """Run a program of the system and return what it prints."""
    path = shutil.which(command[0], path=_PATH)
    if path is None:
        pytest.skip(f"needs {command[0]}")
    done = subprocess.run(
        [path, *command[1:]], input=text, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{command}: {done.stderr}"
    return done.stdout


class Namespace:
    """A network namespace with a thread that lives in it; what that starts lives there too."""

    def __init__(self, role: str = "host") -> None:
        self.name = f"oc2d-{role}-{os.getpid()}-{next(_numbers)}"
        tool("ip", "netns", "add", self.name)
        self._thread = ThreadPoolExecutor(1, initializer=self._enter)
        self.ip("link", "set", "lo", "up")
        # while it asks whether an address is another's it finds no neighbour to forward a packet to
        self.sysctl("ipv6/conf/default/accept_dad", 0)

    def _enter(self) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        descriptor = os.open(f"/run/netns/{self.name}", os.O_RDONLY)
        try:
            if libc.setns(descriptor, _CLONE_NEWNET):
                raise OSError(ctypes.get_errno(), "setns")
        finally:
            os.close(descriptor)

    def run(
        self, function: Callable[..., Any], *args: Any, patience: float = 60, **kwargs: Any
    ) -> Any:
        return self._thread.submit(function, *args, **kwargs).result(patience)

    def ip(self, *args: str) -> str:
        return tool("ip", "-n", self.name, *args)

    def nft(self, *args: str, text: str | None = None) -> str:
        """Run nft with these arguments, or without any on `text`."""
        return str(self.run(tool, "nft", *(args or ("-f", "-")), text=text))

    def sysctl(self, path: str, value: int) -> None:
        self.run(Path("/proc/sys/net", path).write_text, str(value))

    def close(self) -> None:
        self._thread.shutdown()
        tool("ip", "netns", "del", self.name)
