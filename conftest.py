"""What holds for every test of the project, the plugins' too: --quick, root, no skips in CI.

And what they share: a host with a broker.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest
from hypothesis import HealthCheck, settings

from tests.consumer import Host

# How long an example takes says more of the machine than of us.
settings.register_profile("oc2d", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("oc2d")

IN_CI = os.environ.get("CI") == "true"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options of the whole suite."""
    parser.addoption(
        "--quick", action="store_true", help="leave out tests that need root or start a broker"
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what is slow under --quick; skip what needs root for anybody else."""
    if config.getoption("--quick"):
        slow = [item for item in items if _is_slow(item)]
        config.hook.pytest_deselected(items=slow)
        items[:] = [item for item in items if item not in slow]
    if os.geteuid() != 0:
        for item in items:
            if item.get_closest_marker("root"):
                item.add_marker(pytest.mark.skip(reason="needs root: network namespaces, nft"))


def _is_slow(item: pytest.Item) -> bool:
    fixtures: list[str] = getattr(item, "fixturenames", [])
    return bool(item.get_closest_marker("root")) or any("broker" in name for name in fixtures)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fail in CI when anything was skipped: there every tool is present."""
    if IN_CI and _skipped(session.config) and session.exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say why the run failed though no test did."""
    if IN_CI and _skipped(terminalreporter.config):
        terminalreporter.write_line("CI=true: a skipped test is a failure", red=True)


def _skipped(config: pytest.Config) -> bool:
    """Tell whether a tool was missing; the public vectors are no tool and not part of the tree."""
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    skipped = reporter.stats.get("skipped", []) if reporter else []
    return any("OC2D_VECTORS" not in str(report.longrepr) for report in skipped)


@pytest.fixture(scope="module")
def make_broker_host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Host]]:
    """Make Hosts with a running broker: `make_broker_host(*lines of its configuration, …)`."""
    with ExitStack() as undo:

        def make(*options: str, persistent: bool = False, isolated: bool = True) -> Host:
            directory = tmp_path_factory.mktemp("host")
            host = Host(directory, *options, persistent=persistent, isolated=isolated)
            undo.callback(host.close)
            return host.start_broker()

        yield make
