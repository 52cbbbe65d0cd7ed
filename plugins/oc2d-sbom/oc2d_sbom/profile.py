"""The actuator profile sbom: which SBOMs there are, and one of them."""

from __future__ import annotations

import socket
from collections.abc import Collection, Mapping, Sequence
from enum import Enum
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, ClassVar
from uuid import UUID

import msgspec
import structlog

from oc2d.actuator import Actuator, Command, Context, Reason, Response, pair
from oc2d.errors import BadRequest, Failed, NoMatch, NotSupported
from oc2d.language.vocabulary import Action
from oc2d_sbom import settings
from oc2d_sbom.inventory import Sources
from oc2d_sbom.shelf import Book, Shelf

__all__ = ["Sbom"]

_log = structlog.get_logger("oc2d.sbom")
_TYPES = {"cyclonedx": "cyclonedx", "spdx": "spdx2", "spdx2": "spdx2"}
_DOCUMENT_VERSION = "1"
_Names = Annotated[tuple[str, ...], msgspec.Meta(min_length=1, max_length=10)]


class Info(str, Enum):
    """What of an SBOM is wanted (SBOM-12)."""

    SUMMARY = "summary"
    CONTENT = "content"
    BLOB = "blob"


class Everything(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`sbom:sbom_list`: there are no filters (SBOM-4)."""


class Wanted(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`sbom:sbom`: types and formats in order of preference (SBOM-7)."""

    type: _Names = ("cyclonedx",)
    format: _Names = ("json",)
    info: Annotated[tuple[Info, ...], msgspec.Meta(min_length=1)] = (Info.SUMMARY, Info.CONTENT)


class Specifiers(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`actuator.sbom` (SBOM-16)."""

    hostname: str | None = None
    named_group: str | None = None
    asset_id: str | None = None
    asset_tuple: Annotated[tuple[str, ...], msgspec.Meta(min_length=1, max_length=10)] | None = None


class Entry(msgspec.Struct, frozen=True, omit_defaults=True):
    """An SBOM as the list has it, and its content where that is asked for (SBOM-5, SBOM-11)."""

    id: tuple[str, str] | None = None
    location: str | None = None
    version: str | None = None
    format: tuple[str, str] | None = None
    serialization: str | None = None
    supplier: tuple[str, ...] | None = None
    author: tuple[str, ...] | None = None
    timestamp: str | None = None
    content: Any = None


class Results(msgspec.Struct, frozen=True, omit_defaults=True):
    """`results.sbom`."""

    sbom_list: list[Entry] | None = None
    sbom: Entry | None = None


class Sbom(Actuator):
    """Software bills of materials of this host (docs/requirements-sbom.md)."""

    profile = "sbom"
    idempotent = True
    specifiers_type = Specifiers
    results_type = Results
    targets: ClassVar[Mapping[str, Any]] = MappingProxyType(
        {"sbom_list": Everything, "sbom": Wanted, "uuid": str, "type": _Names}
    )

    config: settings.Settings

    def __init__(self, config: settings.Settings) -> None:
        super().__init__(config)
        self._shelf: Shelf | None = None

    @classmethod
    def parse_config(cls, table: Mapping[str, Any]) -> settings.Settings:
        """Read `[actuators.sbom]`; raises `ConfigError` with every mistake."""
        return settings.parse(table)

    def start(self, context: Context) -> None:
        """Make the place for documents; nothing is read before somebody asks."""
        directory = context.state_directory / "sbom"
        directory.mkdir(mode=0o700, exist_ok=True)
        self._shelf = Shelf(directory, self._sources)

    def status(self) -> Mapping[str, Any]:
        """Tell which documents there are."""
        return {"sboms": [msgspec.to_builtins(self._entry(book)) for book in self._books()]}

    def matches(self, specifiers: Specifiers | None) -> bool:
        """Tell whether a command is for this host: what is given must fit (SBOM-16)."""
        if specifiers is None:
            return True
        config, own = self.config, socket.gethostname()
        names = {name.lower() for name in (own, own.partition(".")[0], *config.hostnames)}
        return (
            (specifiers.hostname is None or specifiers.hostname.lower() in names)
            and specifiers.named_group in (None, *config.named_groups)
            and specifiers.asset_id in (None, config.asset_id)
            and specifiers.asset_tuple in (None, config.asset_tuple)
        )

    def check(self, command: Command) -> None:
        """Refuse what could never be had."""
        match command.target_name:
            case "sbom:uuid":
                _uuid(command.target)
            case "sbom:type":
                _chosen(command.target)
            case "sbom:sbom":
                _chosen(command.target.type)
                if "json" not in command.target.format:
                    raise NotSupported("Option not supported: the format is json")
                if Info.BLOB in command.target.info:
                    raise NotSupported("Option not supported: info blob")

    @pair("query", "sbom:sbom_list", times=())
    def list_all(self, command: Command) -> Response:
        """Tell which SBOMs there are (SBOM-4)."""
        del command
        return Response(results=Results(sbom_list=[self._entry(book) for book in self._books()]))

    @pair("query", "sbom:uuid", times=())
    def by_uuid(self, command: Command) -> Response:
        """Return the SBOM of a UUID (SBOM-6)."""
        wanted = _uuid(command.target)
        for book in self._books():
            if book.uuid == wanted:
                return self._told(book)
        raise NoMatch("no SBOM has this uuid: the software may have changed, query sbom_list")

    @pair("query", "sbom:type", times=())
    def by_type(self, command: Command) -> Response:
        """Return the SBOM of the first type that can be had (SBOM-8)."""
        return self._told(self._book(command.target))

    @pair("query", "sbom:sbom", times=())
    def by_preference(self, command: Command) -> Response:
        """Return the SBOM of the first type that can be had, or what of it is wanted (SBOM-7)."""
        self.check(command)
        return self._told(self._book(command.target.type), command.target.info)

    def refusal(self, reason: Reason, action: Action, target: str) -> str:
        """Word the engine's refusals (SBOM-17)."""
        if reason is Reason.PAIR and action is Action.QUERY:
            return "Target not supported"
        return super().refusal(reason, action, target)

    def _book(self, types: Sequence[str]) -> Book:
        name = _chosen(types)
        return next(book for book in self._books() if book.name == name)

    def _books(self) -> Sequence[Book]:
        try:
            return self._opened.books()
        except OSError as error:
            _log.error("sbom_failed", error=str(error))
            raise Failed("the records of installed software cannot be read") from None

    def _told(self, book: Book, info: Collection[Info] = (Info.SUMMARY, Info.CONTENT)) -> Response:
        entry = self._entry(book) if Info.SUMMARY in info else Entry()
        if Info.CONTENT in info:
            try:
                content = self._opened.content(book)
            except OSError as error:
                _log.error("sbom_failed", error=str(error))
                raise Failed("the SBOM could not be made") from None
            entry = msgspec.structs.replace(entry, content=content)
        return Response(results=Results(sbom=entry))

    def _entry(self, book: Book) -> Entry:
        supplier = self.config.supplier
        return Entry(
            id=(book.host, str(book.uuid)),
            location="localhost",
            version=_DOCUMENT_VERSION,
            format=(book.format.name, book.format.version),
            serialization="json",
            supplier=None if supplier is None else (supplier,),
            author=("oc2d-sbom",),
            timestamp=book.at.isoformat().replace("+00:00", "Z"),
        )

    def _sources(self) -> Sources:
        return Sources(Path(self.config.dpkg_status), self.config.directories())

    @property
    def _opened(self) -> Shelf:
        if self._shelf is None:
            raise Failed("sbom is not started")
        return self._shelf


def _uuid(text: str) -> UUID:
    try:
        return UUID(text)
    except ValueError:
        raise BadRequest("a uuid is 32 hexadecimal digits") from None


def _chosen(types: Sequence[str]) -> str:
    """Return the first type that can be had (SBOM-9)."""
    for name in types:
        if found := _TYPES.get(name.lower()):
            return found
    raise NotSupported("Option not supported: the types are cyclonedx and spdx2")
