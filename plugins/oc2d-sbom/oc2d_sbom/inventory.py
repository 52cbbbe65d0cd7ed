"""What is installed: Debian packages and Python distributions, read from their own records."""

from __future__ import annotations

import hashlib
import re
import socket
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from email import message_from_string
from importlib.metadata import Distribution, distributions
from pathlib import Path
from typing import Any

from packageurl import PackageURL

__all__ = ["Inventory", "Package", "Sources", "read"]

# the states of dpkg in which all files of a package are there
_THERE = {"unpacked", "half-configured", "triggers-awaited", "triggers-pending", "installed"}
_NAME = re.compile(r"[a-z0-9][a-z0-9+.-]*")


@dataclass(frozen=True, slots=True)
class Sources:
    """Where to look: dpkg's status file, directories of Python distributions, the release."""

    dpkg_status: Path
    python_directories: tuple[Path, ...]
    os_release: Path = Path("/etc/os-release")

    def changed(self) -> float:
        """Tell when what is recorded changed last, in seconds since the epoch."""
        found = [path.stat().st_mtime for path in self._paths if path.exists()]
        return max(found, default=0.0)

    @property
    def _paths(self) -> tuple[Path, ...]:
        return (self.dpkg_status, self.os_release, *self.python_directories)

    def mark(self) -> tuple[object, ...]:
        """Tell one state of the sources from another without reading them."""
        found: list[object] = []
        for path in self._paths:
            try:
                stat = path.stat()
            except OSError:
                found.append(None)
            else:
                found.append((stat.st_ino, stat.st_mtime_ns, stat.st_size))
        return (socket.gethostname(), *found)


@dataclass(frozen=True, slots=True)
class Package:
    """One installed package; `purl` is its identity, `depends` the purls of what it needs."""

    name: str
    version: str
    purl: str
    supplier: str = ""
    description: str = ""
    homepage: str = ""
    depends: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Inventory:
    """The software of a host."""

    host: str
    system: str
    system_version: str
    packages: tuple[Package, ...]

    def digest(self) -> str:
        """Return the same for the same software."""
        text = repr((self.host, self.system, self.system_version, self.packages))
        return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def read(sources: Sources) -> Inventory:
    """Read what is installed; a source that is not there has nothing. Raises OSError."""
    release = _release(sources.os_release)
    system, version = release.get("ID", "linux"), release.get("VERSION_ID", "")
    found = {package.purl: package for package in _debian(sources.dpkg_status, system, version)}
    for package in _python(sources.python_directories):
        found.setdefault(package.purl, package)
    packages = sorted(found.values(), key=lambda package: package.purl)
    return Inventory(socket.gethostname(), system, version, tuple(packages))


def _release(path: Path) -> dict[str, str]:
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        return {}
    pairs = (line.partition("=") for line in lines if "=" in line)
    return {name: value.strip("\"'") for name, _, value in pairs}


# -- Debian


def _debian(status: Path, system: str, version: str) -> Iterator[Package]:
    try:
        text = status.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return
    stanzas = [_fields(block) for block in text.split("\n\n")]
    installed = [
        one
        for one in stanzas
        if one.get("Status", "").rpartition(" ")[2] in _THERE
        and "Version" in one
        and one.get("Package")
    ]
    distro = f"{system}-{version}" if version else system
    purls: dict[str, str] = {}
    for one in installed:
        purl = _deb_purl(one, system, distro)
        for provided in (*_names(one.get("Provides", "")), one["Package"]):
            purls[provided] = purl
    for one in installed:
        summary, _, _ = one.get("Description", "").partition("\n")
        yield Package(
            name=one["Package"],
            version=one["Version"],
            purl=_deb_purl(one, system, distro),
            supplier=one.get("Maintainer", ""),
            description=summary,
            homepage=one.get("Homepage", ""),
            depends=_needed(one, purls),
        )


def _fields(block: str) -> dict[str, str]:
    """Read a stanza: fields, and lines that begin with a blank and continue one."""
    found: dict[str, str] = {}
    name = ""
    for line in block.split("\n"):  # not splitlines: a description may hold U+2028 and its like
        if line[:1].isspace():
            found[name] = f"{found.get(name, '')}\n{line.strip()}"
        else:
            name, _, value = line.partition(":")
            found[name] = value.strip()
    return found


def _deb_purl(fields: dict[str, str], system: str, distro: str) -> str:
    qualifiers = {"arch": fields.get("Architecture", "all"), "distro": distro}
    return PackageURL("deb", system, fields["Package"], fields["Version"], qualifiers).to_string()


def _names(relation: str) -> Iterable[str]:
    """Name the packages of a relation, without versions and architectures."""
    for one in re.split(r"[,|]", relation):
        if match := _NAME.match(one.strip()):
            yield match.group()


def _needed(fields: dict[str, str], purls: dict[str, str]) -> tuple[str, ...]:
    """Resolve what a package depends on; of alternatives the first that is installed counts."""
    found: dict[str, None] = {}
    for field in ("Pre-Depends", "Depends"):
        for clause in filter(None, fields.get(field, "").split(",")):
            there = [purls[name] for name in _names(clause) if name in purls]
            found |= dict.fromkeys(there[:1])
    return tuple(sorted(found))


# -- Python


def _metadata(found: Distribution) -> Mapping[str, str]:
    """Read a record; one with a byte that is no UTF-8 is installed all the same."""
    try:
        record: Any = found.metadata
    except UnicodeDecodeError:
        path = Path(str(found._path), "METADATA")  # type: ignore[attr-defined]  # noqa: SLF001 - there is no other way to it
        record = message_from_string(path.read_text(encoding="utf-8", errors="replace"))
    return defaultdict(str, record)


def _python(directories: Sequence[Path]) -> Iterator[Package]:
    for directory in directories:
        for found in distributions(path=[str(directory)]):
            told = _metadata(found)
            name, version = told["Name"], told["Version"]
            if not name or not version:
                continue  # a directory that was left behind half removed
            plain = re.sub(r"[-_.]+", "-", name).lower()
            yield Package(
                name=name,
                version=version,
                purl=PackageURL("pypi", None, plain, version).to_string(),
                supplier=told["Author"] or told["Author-email"] or "",
                description=told["Summary"] or "",
                homepage=told["Home-page"] or "",
            )
