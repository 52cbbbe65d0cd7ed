"""Plugins of hooks with a table of their own: checked, started, reloaded, stopped."""

from __future__ import annotations

import pytest
import structlog.testing

from oc2d.errors import PluginError
from oc2d.hook_plugins import hook_statuses, parse_tables, reload_hooks, start_hooks, stop_hooks
from oc2d.hookspecs import Place
from oc2d.plugins import discover

CODE = """
import asyncio

from oc2d.errors import ConfigError, PluginError, Problem
from oc2d.hookspecs import hookimpl

class Hooks:
    said = []

    @hookimpl
    def oc2d_parse_config(self, table):
        if "odd" in table:
            raise ConfigError((Problem("odd", "is odd"), Problem("", "all of it")))
        if "cancelled" in table:
            raise asyncio.CancelledError
        return table.pop("answer")

    @hookimpl
    def oc2d_configure(self, config, place):
        if config == 13:
            raise OSError("no luck")
        if config == 14:
            raise PluginError("only at a start")
        if config == 15:
            raise SystemExit(0)
        self.said.append((config, place.device_id))

    @hookimpl
    def oc2d_stop(self):
        self.said.append("stop")
        if self.said[0][0] == 99:
            raise SystemExit(0)

    @hookimpl
    def oc2d_status(self):
        if self.said[0][0] == 99:
            raise SystemExit(0)
        return {"said": len(self.said)}

Plugin = Hooks()
"""


@pytest.fixture
def registry(install):
    install("acme-hooks", CODE, entry="acme")
    return discover()


@pytest.fixture
def place(tmp_path):
    return Place("fw-7", tmp_path, tmp_path)


def said(registry):
    (plugin,) = [one for one in registry.hooks if one.source.entry_point == "acme"]
    return plugin.functions["oc2d_stop"].plugin.said


def test_mistakes_in_a_table_are_told_with_their_path(registry):
    tables = {"acme": {"odd": 1}, "acne": {}, "nobody": {}}
    found = parse_tables(tables, registry.hooks)
    assert found.configs == {}
    assert [problem.path for problem in found.problems] == [
        "plugins.acme.odd",
        "plugins.acme",
        "plugins.acne",
        "plugins.nobody",
    ]
    assert "did you mean acme?" in found.problems[2].message
    assert "did you mean" not in found.problems[3].message
    (problem,) = parse_tables({"acme": {}}, registry.hooks).problems
    assert problem.path == "plugins.acme"
    assert "acme-hooks 1.2 (acme) failed on this table: KeyError" in problem.message


def test_a_plugin_that_raises_no_exception_on_its_table_ends_nothing(registry):
    (problem,) = parse_tables({"acme": {"cancelled": 1}}, registry.hooks).problems
    assert str(problem).endswith("failed on this table: CancelledError()")


def test_a_plugin_that_takes_its_table_to_pieces_has_a_copy(registry):
    tables = {"acme": {"answer": 42}}
    assert parse_tables(tables, registry.hooks).configs == {"acme": 42}
    assert tables == {"acme": {"answer": 42}}


@pytest.mark.usefixtures("registry")
def test_two_plugins_of_one_name_share_no_table(install):
    install("other-hooks", CODE, entry="acme")
    found = parse_tables({"acme": {"answer": 42}}, discover().hooks)
    assert found.configs == {}
    (problem,) = found.problems
    claimants = "acme-hooks 1.2 (acme) and other-hooks 1.2 (acme)"
    assert str(problem) == f"plugins.acme: is claimed by {claimants}: uninstall all but one"
    assert parse_tables({}, discover().hooks).problems == ()


def test_a_plugin_is_given_its_configuration_at_start_and_at_each_reload(registry, place):
    start_hooks(registry, {"acme": 42}, place)
    reload_hooks(registry, {"acme": 43}, place)
    reload_hooks(registry, {}, place)
    assert reload_hooks(registry, {"acme": 43}, place) == ()
    stop_hooks(registry)
    assert said(registry) == [(42, "fw-7"), (43, "fw-7"), (43, "fw-7"), "stop"]


@pytest.mark.parametrize(
    ("config", "told"),
    [(13, {"exc_info": True}), (14, {"error": "only at a start"}), (15, {"exc_info": True})],
)
def test_a_plugin_that_does_not_take_its_new_configuration_is_named(registry, place, config, told):
    start_hooks(registry, {"acme": 42}, place)
    with structlog.testing.capture_logs() as entries:
        assert reload_hooks(registry, {"acme": config}, place) == ("acme",)
    (entry,) = entries
    common = {"event": "plugin_reload_failed", "log_level": "error"}
    assert entry == {**common, "plugin": entry["plugin"], **told}
    assert said(registry) == [(42, "fw-7")]


def test_a_plugin_that_cannot_start_ends_the_start(registry, place):
    with pytest.raises(PluginError, match=r"acme-hooks .* did not start: no luck"):
        start_hooks(registry, {"acme": 13}, place)
    with pytest.raises(PluginError, match=r"acme-hooks .* did not start: SystemExit"):
        start_hooks(registry, {"acme": 15}, place)


def test_a_plugin_that_exits_when_it_is_asked_or_stopped_ends_nothing(registry, place, install):
    install("other-hooks", CODE.replace("acme", "other"), entry="other")
    registry = discover()
    start_hooks(registry, {"acme": 99, "other": 1}, place)
    told = hook_statuses(registry)
    assert {"said": 1} in told
    assert {"error": "oc2d_status of acme-hooks 1.2 (acme) failed: SystemExit"} in told
    with structlog.testing.capture_logs() as entries:
        stop_hooks(registry)
    assert [entry["event"] for entry in entries] == ["plugin_stop_failed"]


def test_a_plugin_without_its_table_is_not_called_at_all(registry, place):
    start_hooks(registry, {}, place)
    reload_hooks(registry, {"acme": 43}, place)
    stop_hooks(registry)
    assert said(registry) == []
    assert registry.manager.hook.oc2d_status() == []
