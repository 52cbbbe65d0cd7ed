"""The stand-in does what every profile must, for all that a kit can know."""

from __future__ import annotations

import pytest

from oc2d.testing import Sample, Subject, checks
from oc2d_log import Log

LOG = Subject(
    Log,
    config={"pairs": {"deny": ["ipv4_net", "uri"], "scan": ["device"], "query": ["properties"]}},
    samples=[
        Sample({"action": "deny", "target": {"ipv4_net": "192.0.2.0/24"}}),
        Sample(
            {
                "action": "deny",
                "target": {"uri": "https://example.com/a"},
                "args": {"x-log": {"why": ["phishing", 7]}},
            }
        ),
        Sample({"action": "scan", "target": {"device": {"hostname": "db-1"}}}),
        Sample({"action": "query", "target": {"properties": ["battery"]}}),
    ],
    state=None,
)


@pytest.mark.parametrize("check", checks(LOG), ids=str)
def test_the_stand_in_conforms(check, tmp_path):
    check.run(tmp_path)
