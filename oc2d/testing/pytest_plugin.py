"""Fixtures for the tests of plugins; pytest finds them by itself where oc2d is installed.

Everything of ours is imported when a test asks for it: most runs of pytest want none of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from oc2d.actuator import Actuator
    from oc2d.testing import ActuatorHost, Broker, Daemon, TurnedClock

__all__ = ["oc2d_broker", "oc2d_clock", "oc2d_daemon", "oc2d_host"]


@pytest.fixture
def oc2d_clock() -> TurnedClock:
    """Return a clock that stands still until the test turns it."""
    from oc2d.testing import TurnedClock  # noqa: PLC0415 - see the module's docstring

    return TurnedClock()


@pytest.fixture
def oc2d_host(tmp_path: Path, oc2d_clock: TurnedClock) -> Iterator[Callable[..., ActuatorHost]]:
    """Return a function that hosts an actuator class with this table, without a broker, started.

    Called again with the same class it hosts it with what the one before left on the disk, which
    it stops: a restart.
    """
    from oc2d.testing import ActuatorHost  # noqa: PLC0415 - see the module's docstring

    running: dict[str, ActuatorHost] = {}

    def host(kind: type[Actuator], table: Any = None, **options: Any) -> ActuatorHost:  # noqa: ANN401 - of the class
        made = kind.create(kind.parse_config({} if table is None else table))
        if before := running.pop(kind.profile, None):
            before.stop()
        directory = tmp_path / kind.profile
        one = ActuatorHost(directory, *made, **{"clock": oc2d_clock, **options})
        running[kind.profile] = one
        return one.start()

    yield host
    for one in running.values():
        one.stop()


@pytest.fixture
def oc2d_broker(tmp_path: Path) -> Iterator[Broker]:
    """Start a mosquitto on a free port of 127.0.0.1; skips the test where there is none."""
    from oc2d.testing import Broker, NoBroker  # noqa: PLC0415 - see the module's docstring

    broker = Broker(tmp_path / "broker")
    try:
        yield broker.start()
    except NoBroker as none:
        pytest.skip(str(none))
    finally:
        broker.kill()


@pytest.fixture
def oc2d_daemon(tmp_path: Path, oc2d_broker: Broker) -> Iterator[Callable[..., Daemon]]:
    """Return a function that starts `oc2d` beside a mosquitto, with these tables by NSID."""
    from oc2d.testing import Daemon  # noqa: PLC0415 - see the module's docstring

    running: list[Daemon] = []

    def daemon(actuators: Mapping[str, Mapping[str, Any]]) -> Daemon:
        directory = tmp_path / f"daemon{len(running)}"
        running.append(Daemon(directory, oc2d_broker, actuators))
        return running[-1].start()

    yield daemon
    for one in running:
        one.kill()


# -- the report of the conformance kit


_OUTCOMES = pytest.StashKey[dict[str, list[tuple[Any, bool]]]]()  # by profile


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    """Keep what came of each check of the kit."""
    outcome = yield
    report: pytest.TestReport = outcome.get_result()  # type: ignore[attr-defined]
    params = getattr(getattr(item, "callspec", None), "params", {})
    check = next(
        (p for p in params.values() if type(p).__module__ == "oc2d.testing.kit.check"), None
    )
    if check is not None and (report.when == "call" or report.failed):
        kept = item.config.stash.setdefault(_OUTCOMES, {})
        kept.setdefault(check.subject.nsid, []).append((check, report.passed))


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    """Tell by requirement what the kit found."""
    from oc2d.testing.kit.report import left_out  # noqa: PLC0415 - see the module's docstring

    for profile, outcomes in config.stash.get(_OUTCOMES, {}).items():
        shown: dict[str, bool] = {}
        for check, passed in outcomes:
            for number in check.rule.requirements:
                shown[number] = shown.get(number, True) and passed
        broken = [number for number, passed in shown.items() if not passed]
        words = f"breaks {', '.join(sorted(broken))}" if broken else f"meets all {len(shown)}"
        notes = "".join(f"; {note}" for note in left_out(outcomes[0][0].subject))
        line = f"oc2d: of the requirements for actuators {profile} {words}{notes}"
        terminalreporter.write_line(line, red=bool(broken))
