"""The programs of iptables, run as children: of the nf_tables variant, one per address family."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass

from oc2d.errors import StateError
from oc2d_slpf.backend import BackendError

__all__ = ["Family", "Found", "families"]

_PREFIXES = {4: "iptables", 6: "ip6tables"}
_ELSEWHERE = "/usr/sbin:/sbin"  # the PATH of a service may lack them
_PATIENCE = 60.0  # seconds
# exit status of what may go better at once: others changed the rules while ours were worked out
_RESOURCE_PROBLEM = 4
_ATTEMPTS = 5
_PAUSE = 0.02  # seconds, more with each attempt
_OURS = r"oc2d-[a-z]-(?:[a-z]+|t\d+-(?:in|out)(?:-\d+)?)"
_CHAIN = re.compile(rf"^:({_OURS}) ", re.MULTILINE)
_JUMP = re.compile(rf"^-A (INPUT|FORWARD|OUTPUT) -j ({_OURS})$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Found:
    """What is ours in the table filter: chains, and (built-in chain, chain) of the calls."""

    chains: tuple[str, ...] = ()
    jumps: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Family:
    """The programs for one IP version, by their paths."""

    version: int
    list: str
    save: str
    restore: str

    def found(self) -> Found:
        """Look what is ours, from whichever run. Raises `BackendError`."""
        text = self._run([self.save, "-t", "filter"])
        return Found(tuple(_CHAIN.findall(text)), tuple(_JUMP.findall(text)))

    def first(self, chain: str) -> str:
        """Return the first rule of a built-in chain, as `-A INPUT -j x`; none: an empty string."""
        return self._run([self.list, "-S", chain, "1"]).strip()

    def change(self, lines: Sequence[str], *, try_only: bool = False) -> None:
        """Make all of it true at once, or nothing of it. Raises `BackendError`.

        `try_only` reads what is there and what is wanted, and leaves it at that.
        """
        text = "\n".join(("*filter", *lines, "COMMIT", ""))
        options = ["--noflush", *(["--test"] if try_only else [])]
        self._run([self.restore, *options], text)

    def variant(self) -> str:
        """Return what the program says it works on: `nf_tables` or `legacy`; unknown: `?`."""
        found = re.search(r"\((\w+)\)", self._run([self.restore, "--version"]))
        return found[1] if found else "?"

    @staticmethod
    def _run(command: Sequence[str], text: str = "") -> str:
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                done = subprocess.run(
                    command,
                    input=text,
                    capture_output=True,
                    encoding="utf-8",
                    errors="backslashreplace",  # comments of others may be any bytes
                    check=False,
                    timeout=_PATIENCE,
                    env={**os.environ, "LC_ALL": "C"},
                )
            except (OSError, subprocess.TimeoutExpired) as error:
                raise BackendError(str(error)) from error
            if done.returncode != _RESOURCE_PROBLEM or attempt == _ATTEMPTS:
                break
            time.sleep(_PAUSE * attempt)
        if done.returncode:
            told = "; ".join(done.stderr.splitlines()[:3]) or "no reason given"
            raise BackendError(f"{command[0]} ended with {done.returncode}: {told}")
        return done.stdout


def families(path: str | None = None) -> tuple[Family, Family]:
    """Find the programs in PATH, or in `path`; raise `StateError` if they are not what we need."""
    where = path or f"{os.environ.get('PATH', os.defpath)}:{_ELSEWHERE}"
    found = []
    for version, prefix in _PREFIXES.items():
        names = (prefix, f"{prefix}-save", f"{prefix}-restore")
        paths = [shutil.which(name, path=where) for name in names]
        if missing := [name for name, at in zip(names, paths, strict=True) if at is None]:
            raise StateError(
                f"iptables is not installed here: there is no {' and no '.join(missing)}"
            )
        family = Family(version, *(at for at in paths if at is not None))
        try:
            variant = family.variant()
        except BackendError as error:
            raise StateError(f"cannot use iptables: {error}") from error
        if variant != "nf_tables":
            raise StateError(
                f"{family.restore} is the {variant} variant of iptables, which cannot change"
                " the rules at once nor without root: install or select the nf_tables variant"
                " (Debian: update-alternatives --config iptables, and ip6tables)"
            )
        found.append(family)
    return found[0], found[1]
