from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.unit.engine.bench import Bench
from tests.unit.engine.plugins import Idempotent, Recording


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ask a disk that said no again at once."""
    monkeypatch.setattr("oc2d.engine.engine._RETRY", 0.01)


@pytest.fixture
def build(tmp_path: Path) -> Iterator[Callable[..., Bench]]:
    """Make a Bench: `build(actuator, ..., limits=...)`; started unless told otherwise."""
    made: list[Bench] = []

    def bench(*actuators: Any, directory: Path | None = None, start: bool = True, **options: Any):
        one = Bench(directory or tmp_path / "state", *actuators, **options)
        made.append(one)
        return one.start() if start else one

    yield bench
    for one in made:
        one.stop()


@pytest.fixture
def door() -> Recording:
    return Recording()


@pytest.fixture
def bench(build: Callable[..., Bench], door: Recording) -> Bench:
    return build(door)


@pytest.fixture
def idempotent() -> Idempotent:
    return Idempotent()
