from __future__ import annotations
from tests.waiting import wait_until


def test_smoke(broker, start):
    s, e = start(broker.port)
    wait_until(lambda: s.status().healthy)
