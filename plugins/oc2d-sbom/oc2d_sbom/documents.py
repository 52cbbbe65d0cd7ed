"""An inventory as CycloneDX and as SPDX, written by the libraries of the two."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from importlib.metadata import version
from typing import Any
from uuid import NAMESPACE_URL, UUID, uuid5

from oc2d_sbom.inventory import Inventory, Package

__all__ = ["FORMATS", "Format", "document_uuid"]

_AUTHOR = "oc2d-sbom"


@dataclass(frozen=True, slots=True)
class Format:
    """A kind of document: its name and version, and what writes it."""

    name: str
    version: str
    write: Callable[[Inventory, UUID, datetime], dict[str, Any]]


def document_uuid(inventory: Inventory, name: str) -> UUID:
    """Return the UUID of a document: the same as long as the software is (SBOM-14)."""
    return uuid5(NAMESPACE_URL, f"urn:oc2d:sbom:{name}:{inventory.digest()}")


def _cyclonedx(inventory: Inventory, uuid: UUID, at: datetime) -> dict[str, Any]:
    # imported here: the libraries are large, and a daemon that is never asked has no use for them
    from cyclonedx.model import ExternalReference, ExternalReferenceType, XsUri  # noqa: PLC0415
    from cyclonedx.model.bom import Bom  # noqa: PLC0415
    from cyclonedx.model.component import Component, ComponentType  # noqa: PLC0415
    from cyclonedx.model.contact import OrganizationalContact, OrganizationalEntity  # noqa: PLC0415
    from cyclonedx.model.dependency import Dependency  # noqa: PLC0415
    from cyclonedx.output.json import JsonV1Dot6  # noqa: PLC0415
    from packageurl import PackageURL  # noqa: PLC0415

    def component(package: Package) -> Component:
        references = []
        if package.homepage:
            website = ExternalReferenceType.WEBSITE
            references.append(ExternalReference(type=website, url=XsUri(package.homepage)))
        return Component(
            type=ComponentType.LIBRARY,
            name=package.name,
            version=package.version,
            bom_ref=package.purl,
            purl=PackageURL.from_string(package.purl),
            supplier=OrganizationalEntity(name=package.supplier) if package.supplier else None,
            description=package.description or None,
            external_references=references,
        )

    bom = Bom(serial_number=uuid)
    bom.metadata.timestamp = at
    bom.metadata.authors.add(OrganizationalContact(name=_AUTHOR))
    bom.metadata.tools.components.add(
        Component(type=ComponentType.APPLICATION, name=_AUTHOR, version=version(_AUTHOR))
    )
    host = Component(
        type=ComponentType.OPERATING_SYSTEM,
        name=inventory.system,
        version=inventory.system_version or None,
        bom_ref="system",
        description=f"the host {inventory.host}",
    )
    bom.metadata.component = host
    components = {package.purl: component(package) for package in inventory.packages}
    bom.components.update(components.values())
    # register_dependency looks through all of them each time
    refs = {purl: Dependency(ref=one.bom_ref) for purl, one in components.items()}
    bom.dependencies.update(
        Dependency(
            ref=components[package.purl].bom_ref,
            dependencies=[refs[purl] for purl in package.depends if purl in refs],
        )
        for package in inventory.packages
    )
    bom.dependencies.add(Dependency(ref=host.bom_ref, dependencies=refs.values()))
    tree: dict[str, Any] = json.loads(JsonV1Dot6(bom).output_as_string())
    return tree


def _spdx(inventory: Inventory, uuid: UUID, at: datetime) -> dict[str, Any]:
    # as above
    from spdx_tools.spdx.model import (  # noqa: PLC0415
        Actor,
        ActorType,
        CreationInfo,
        Document,
        ExternalPackageRef,
        ExternalPackageRefCategory,
        PackagePurpose,
        Relationship,
        RelationshipType,
        SpdxNoAssertion,
    )
    from spdx_tools.spdx.model import Package as SpdxPackage  # noqa: PLC0415
    from spdx_tools.spdx.writer.json.json_writer import (  # noqa: PLC0415
        write_document_to_stream,
    )

    document_id, system_id = "SPDXRef-DOCUMENT", "SPDXRef-system"
    ids = {one.purl: f"SPDXRef-{number}" for number, one in enumerate(inventory.packages, 1)}

    def package(one: Package) -> SpdxPackage:
        manager = ExternalPackageRefCategory.PACKAGE_MANAGER
        supplier = Actor(ActorType.ORGANIZATION, one.supplier) if one.supplier else None
        return SpdxPackage(
            spdx_id=ids[one.purl],
            name=one.name,
            download_location=SpdxNoAssertion(),
            version=one.version,
            supplier=supplier or SpdxNoAssertion(),
            files_analyzed=False,
            homepage=one.homepage if _is_url(one.homepage) else None,
            summary=one.description or None,
            external_references=[ExternalPackageRef(manager, "purl", one.purl)],
        )

    system = SpdxPackage(
        spdx_id=system_id,
        name=inventory.system,
        version=inventory.system_version or None,
        download_location=SpdxNoAssertion(),
        files_analyzed=False,
        primary_package_purpose=PackagePurpose.OPERATING_SYSTEM,
        summary=f"the host {inventory.host}",
    )
    relations = [Relationship(document_id, RelationshipType.DESCRIBES, system_id)]
    for one in inventory.packages:
        mine = ids[one.purl]
        relations.append(Relationship(system_id, RelationshipType.CONTAINS, mine))
        needed = [ids[purl] for purl in one.depends if purl in ids]
        relations += [Relationship(mine, RelationshipType.DEPENDS_ON, its) for its in needed]
    creation = CreationInfo(
        spdx_version="SPDX-2.3",
        spdx_id=document_id,
        name=f"software of {inventory.host}",
        document_namespace=f"urn:uuid:{uuid}",
        creators=[Actor(ActorType.TOOL, f"{_AUTHOR}-{version(_AUTHOR)}")],
        created=at.replace(tzinfo=None, microsecond=0),
    )
    packages = [system, *map(package, inventory.packages)]
    stream = io.StringIO()
    write_document_to_stream(
        Document(creation, packages, [], [], [], relations), stream, validate=False
    )
    tree: dict[str, Any] = json.loads(stream.getvalue())
    for one in tree["packages"]:
        for reference in one.get("externalRefs", ()):
            # spdx-tools writes an underscore, which the schema of SPDX 2.3 does not know
            reference["referenceCategory"] = "PACKAGE-MANAGER"
    return tree


def _is_url(text: str) -> bool:
    return text.startswith(("http://", "https://")) and " " not in text


#: By the names that Producers use for them, in order of preference (SBOM-9).
FORMATS: Mapping[str, Format] = {
    "cyclonedx": Format("cyclonedx", "1.6", _cyclonedx),
    "spdx2": Format("spdx", "2.3", _spdx),
}
