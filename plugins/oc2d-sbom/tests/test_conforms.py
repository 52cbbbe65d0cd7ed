"""sbom does what every profile must."""

from __future__ import annotations

import os

import pytest

from oc2d.testing import Sample, Subject, checks
from oc2d_sbom import Sbom

STATUS = "Package: bash\nStatus: install ok installed\nVersion: 5\nArchitecture: amd64\n"


def records(directory):
    """A host with one package, the same at any time."""
    (directory / "status").write_text(STATUS)
    os.utime(directory / "status", (1e9, 1e9))
    return {"dpkg_status": str(directory / "status"), "python_directories": []}


def query(target):
    return {"action": "query", "target": target}


SBOM = Subject(
    Sbom,
    config=records,
    samples=[
        Sample(query({"sbom:sbom_list": {}})),
        Sample(query({"sbom:sbom": {"type": ["spdx2"], "format": ["json"]}})),
        Sample(query({"sbom:type": ["SWID", "CycloneDX"]})),
        Sample(query({"sbom:uuid": "58156134-5547-4e4a-968f-88a33cfafc2c"}), 404),
    ],
    refused=[
        Sample(query({"sbom:uuid": "58156134"}), 400),
        Sample(query({"sbom:type": []}), 400),
        Sample(query({"sbom:type": ["swid"]}), 501),
        Sample(query({"sbom:sbom": {"format": ["xml"]}}), 501),
        Sample(query({"sbom:sbom": {"info": ["all"]}}), 400),
    ],
    state=None,
)


@pytest.mark.parametrize("check", checks(SBOM), ids=str)
def test_sbom_conforms(check, tmp_path):
    check.run(tmp_path)
