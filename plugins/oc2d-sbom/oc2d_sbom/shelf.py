"""The documents of this host, made when they are asked for and kept until the software changes."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any
from uuid import UUID

import structlog

from oc2d_sbom.documents import FORMATS, Format, document_uuid
from oc2d_sbom.inventory import Inventory, Sources, read

__all__ = ["Book", "Shelf"]

_log = structlog.get_logger("oc2d.sbom")


@dataclass(frozen=True, slots=True)
class Book:
    """A document: of which kind, its UUID, and when its software changed."""

    name: str
    format: Format
    uuid: UUID
    host: str
    at: datetime


class Shelf:
    """Documents in files of a directory of their own; in memory there is only what they are."""

    def __init__(self, directory: Path, sources: Callable[[], Sources]) -> None:
        self._directory = directory
        self._sources = sources
        self._mark: object = None
        self._books: tuple[Book, ...] = ()

    def books(self) -> tuple[Book, ...]:
        """List the documents of the software as it is now. Raises OSError."""
        sources = self._sources()
        mark = sources.mark()
        if mark != self._mark:
            self._books = self._listed(read(sources), sources.changed())
            self._mark = mark
        return self._books

    def content(self, book: Book) -> dict[str, Any]:
        """Return a document, which is made if need be. Raises OSError."""
        path = self._path(book)
        try:
            tree: dict[str, Any] = json.loads(path.read_bytes())
        except (FileNotFoundError, ValueError):
            inventory = read(self._sources())
            if document_uuid(inventory, book.name) != book.uuid:
                self._mark = None  # it may not show what changed
                raise OSError("the software changed while it was asked for") from None
            tree = book.format.write(inventory, book.uuid, book.at)
            fresh = path.with_suffix(".new")
            fresh.write_text(json.dumps(tree, separators=(",", ":")), encoding="utf-8")
            fresh.replace(path)
            _log.info("sbom_made", format=book.name, packages=len(inventory.packages))
        return tree

    def _listed(self, inventory: Inventory, changed: float) -> tuple[Book, ...]:
        """Say what there is, and forget the documents of what was.

        Their time is that of the records: the same software makes the same document.
        """
        at = datetime.fromtimestamp(int(changed), timezone.utc)
        books = [
            Book(name, kind, document_uuid(inventory, name), inventory.host, at)
            for name, kind in FORMATS.items()
        ]
        kept = {self._path(book) for book in books}
        for path in self._directory.iterdir():
            if path not in kept:
                path.unlink()
        return tuple(books)

    def _path(self, book: Book) -> Path:
        return self._directory / f"{book.name}-{book.uuid}.json"
