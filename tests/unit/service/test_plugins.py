from __future__ import annotations

import sys
import time

import pytest

from oc2d.config_file import load
from oc2d.errors import ConfigError, PluginError
from oc2d.plugins import discover, load_actuators

HEADER = """
from oc2d.actuator import Actuator, Response, pair
from oc2d.errors import ConfigError, Problem
from oc2d.hookspecs import hookimpl
"""

DOOR = """
class Plugin(Actuator):
    profile = "x-door"
    targets = {"lock": str}

    @pair("deny", "x-door:lock")
    def lock(self, command):
        return Response()
"""

CONFIG = 'device_id = "fw-7"\n[broker]\nhost = "h"\n'


@pytest.fixture
def loaded(write):
    """Load the actuators of a configuration with these tables."""

    def loaded(tables):
        return load_actuators(load(write(CONFIG + tables)), discover())

    return loaded


@pytest.fixture
def refused(loaded):
    def refused(tables):
        with pytest.raises(ConfigError) as caught:
            loaded(tables)
        return [(problem.path, problem.message) for problem in caught.value.problems]

    return refused


def failure(registry, distribution):
    return next(one for one in registry.failures if one.source.distribution == distribution)


def test_one_class_and_one_line_of_packaging_make_an_actuator(install, loaded):
    install("acme-door", HEADER + DOOR)
    (door,) = loaded("[actuators.x-door]\ntimeout = 5").actuators
    assert door.nsid == "x-door"
    assert str(door.source) == "acme-door 1.2 (plugin)"
    assert door.table.timeout == 5
    assert [(p.action.value, p.target) for p in door.actuator.supported_pairs()] == [
        ("deny", "x-door:lock")
    ]


def test_without_its_table_an_installed_plugin_is_off(install, loaded):
    install("acme-door", HEADER + DOOR)
    assert loaded("").actuators == ()
    assert loaded("[actuators.x-door]\nenabled = false").actuators == ()


def test_a_plugin_that_raises_on_import_is_named_and_stops_nothing(install, loaded):
    install("acme-door", HEADER + DOOR)
    install("acme-broken", "raise RuntimeError('no luck')")
    install("acme-exit", "raise SystemExit(3)")
    install("acme-skip", "import asyncio\nraise asyncio.CancelledError")
    registry = discover()
    assert failure(registry, "acme-broken").reason == "RuntimeError: no luck"
    assert failure(registry, "acme-skip").reason == "CancelledError: "
    assert failure(registry, "acme-exit").reason == "SystemExit: 3"
    assert len(loaded("[actuators.x-door]").actuators) == 1


def test_a_table_that_needs_a_broken_plugin_is_an_error_with_its_reason(install, refused):
    install("acme-broken", "raise RuntimeError('no luck')", entry="door")
    ((path, message),) = refused("[actuators.x-door]")
    assert path == "actuators.x-door"
    assert "acme-broken 1.2 (door) cannot be used: RuntimeError: no luck" in message


@pytest.mark.req("LANG-13")
def test_a_plugin_with_an_action_of_its_own_fails_to_load(install):
    install("acme-foo", HEADER + DOOR.replace('"deny"', '"x-foo"'))
    assert "no OpenC2 action 'x-foo'" in failure(discover(), "acme-foo").reason


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        (('"lock": str', '"x-door:lock": str'), "no prefix, write 'lock' there"),
        (('"x-door:lock"', '"lock"'), "did you mean 'x-door:lock'?"),
        (('"x-door:lock")', '"x-door:lock", args=["x-door.a"])'), "'x-door.a'; there is: none"),
    ],
)
def test_a_target_or_argument_with_a_wrong_prefix_is_told_the_right_one(changes, says):
    with pytest.raises(PluginError) as caught:
        exec(HEADER + DOOR.replace(*changes), {})  # noqa: S102 - ours
    assert says in str(caught.value)


@pytest.mark.req("LANG-13")
@pytest.mark.parametrize("pair", ["'x-foo', 'file'", "'deny', 'file'", "Action.DENY, 7"])
def test_computed_pairs_are_actions_and_targets_and_bring_no_action_of_their_own(
    install, refused, pair
):
    """`Action` is a `str`: its text compares as equal to it, and has no `value`."""
    install(
        "acme-foo",
        HEADER
        + DOOR
        + f"""
    def supported_pairs(self):
        from oc2d.actuator import Pair
        from oc2d.language.vocabulary import Action
        return [Pair({pair})]
""",
    )
    ((path, message),) = refused("[actuators.x-door]")
    assert path == "actuators.x-door"
    assert "declares a pair that is none" in message


@pytest.mark.req("LANG-82", "LANG-83")
@pytest.mark.parametrize("nsid", ["acme", "x-much-too-long-a-name", ""])
def test_a_plugin_with_an_illegal_nsid_is_refused(install, nsid):
    install("acme-foo", HEADER + f'class Plugin(Actuator):\n    profile = "{nsid}"\n')
    registry = discover()
    assert "NSID" in failure(registry, "acme-foo").reason
    assert nsid not in registry.found


@pytest.mark.req("LANG-83")
def test_an_actuator_that_takes_an_illegal_nsid_later_is_refused(install, refused):
    install(
        "acme-door",
        HEADER + DOOR + "\n    def __init__(self, config):\n        self.profile = 'acme'\n",
    )
    assert [path for path, _ in refused("[actuators.x-door]")] == ["actuators.x-door"]


@pytest.mark.parametrize("code", ["Plugin = 3", "def Plugin(): ...", "", "class Plugin: ..."])
def test_what_is_neither_an_actuator_nor_hooks_is_a_failure(install, code):
    install("acme-odd", code)
    assert failure(discover(), "acme-odd").reason


def test_a_class_of_hooks_is_not_taken_for_an_object(install):
    """Each call of them lacked its `self`: an `oc2d_authorise` refused every command."""
    code = "class Plugin:\n    @hookimpl\n    def oc2d_authorise(self, request): ...\n"
    install("acme-odd", HEADER + code)
    registry = discover()
    assert "name an object of it" in failure(registry, "acme-odd").reason
    assert not registry.manager.has_plugin("acme-odd:plugin")


def test_an_actuator_without_a_profile_is_a_failure(install):
    install("acme-odd", HEADER + "class Plugin(Actuator): ...")
    assert failure(discover(), "acme-odd").reason == "Plugin names no profile"


def test_two_plugins_for_one_profile_are_both_left_out_and_named(install, refused):
    install("acme-door", HEADER + DOOR)
    install("zeta-door", HEADER + DOOR)
    registry = discover()
    assert "x-door" not in registry.found
    ((_, message),) = refused("[actuators.x-door]")
    assert "is claimed by acme-door 1.2 (plugin) and zeta-door 1.2 (plugin)" in message


def strangers(registry):
    names = [plugin.source.distribution for plugin in registry.hooks]
    return [name for name in names if not name.startswith("oc2d-")]


def test_hooks_are_registered_and_may_bring_actuators(install, loaded):
    install(
        "acme-hooks",
        HEADER
        + DOOR
        + """
@hookimpl
def oc2d_actuators():
    return [Plugin]

@hookimpl
def oc2d_status():
    return {"answer": 42}
""",
        target="",
    )
    registry = discover()
    assert {"answer": 42} in registry.manager.hook.oc2d_status()
    assert strangers(registry) == ["acme-hooks"]
    assert loaded("[actuators.x-door]")["x-door"].source.distribution == "acme-hooks"


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("@hookimpl\ndef oc2d_nothing(): ...", "unknown hook 'oc2d_nothing'"),
        ("@hookimpl\ndef oc2d_response(nothing): ...", "nothing"),
        ("@hookimpl\ndef oc2d_actuators():\n    return [int]", "no Actuator class"),
        ("@hookimpl\ndef oc2d_actuators():\n    return 3", "not iterable"),
        ("@hookimpl\ndef oc2d_actuators():\n    1 / 0", "ZeroDivisionError"),
        ("@hookimpl\ndef oc2d_actuators():\n    yield 1 / 0", "ZeroDivisionError"),
    ],
)
def test_a_plugin_with_a_bad_hook_is_left_out_whole(install, code, words):
    good = "\n@hookimpl\ndef oc2d_authorise(request):\n    return 'no'\n"
    install("acme-hooks", HEADER + good + code, target="")
    install("zeta-hooks", HEADER + "@hookimpl\ndef oc2d_status():\n    return 1", target="")
    registry = discover()
    assert words in failure(registry, "acme-hooks").reason
    assert strangers(registry) == ["zeta-hooks"]
    assert not registry.manager.has_plugin("acme-hooks:plugin")
    assert 1 in registry.manager.hook.oc2d_status()


STRICT = """
class Plugin(Actuator):
    profile = "x-door"

    @classmethod
    def parse_config(cls, table):
        raise ConfigError((Problem("keys[0]", "is bent"), Problem("", "is odd")))
"""


def test_problems_of_a_table_come_with_their_whole_path(install, refused):
    install("acme-door", HEADER + STRICT)
    assert refused("[actuators.x-door]") == [
        ("actuators.x-door.keys[0]", "is bent"),
        ("actuators.x-door", "is odd"),
    ]


@pytest.mark.parametrize("method", ["parse_config(cls, table)", "create(cls, config)"])
def test_a_plugin_that_breaks_on_its_table_is_named(install, refused, method):
    install(
        "acme-door",
        HEADER + DOOR + f"\n    @classmethod\n    def {method}:\n        return 1 / 0\n",
    )
    ((path, message),) = refused("[actuators.x-door]")
    assert path == "actuators.x-door"
    assert "acme-door 1.2 (plugin) failed on this table: ZeroDivisionError" in message


def test_a_plugin_that_takes_its_table_to_pieces_has_a_copy(install, loaded):
    """A reload compares what is in the file with what was: a changed key was not noticed."""
    body = "\n    @classmethod\n    def parse_config(cls, table):\n        table['keys'].pop()\n"
    install("acme-door", HEADER + DOOR + body)
    (door,) = loaded("[actuators.x-door]\nkeys = [1]").actuators
    assert door.table.options == {"keys": [1]}


@pytest.mark.parametrize("raised", ["SystemExit: 3", "CancelledError: 3"])
def test_a_plugin_that_exits_on_its_table_ends_nothing(install, refused, raised):
    what = raised.replace(": ", "(") + ")"
    body = f"\n    @classmethod\n    def parse_config(cls, table):\n        raise {what}\n"
    install("acme-door", "from asyncio import CancelledError\n" + HEADER + DOOR + body)
    ((_, message),) = refused("[actuators.x-door]")
    assert f"failed on this table: {raised}" in message


def test_all_problems_of_all_tables_are_reported(install, refused):
    install("acme-door", HEADER + STRICT)
    paths = [
        path
        for path, _ in refused(
            "[policy]\norder = ['x-gate']\n[actuators.x-door]\n[actuators.x-dor]\n[actuators.hunt]"
        )
    ]
    assert paths == [
        "actuators.x-door.keys[0]",
        "actuators.x-door",
        "actuators.x-dor",
        "actuators.hunt",
        "policy.order",
    ]


def test_a_table_without_a_plugin_names_the_nearest_or_says_what_to_install(install, refused):
    install("acme-door", HEADER + DOOR)
    messages = dict(refused("[actuators.x-dor]\n[actuators.hunt]\n[actuators.acme]"))
    assert "did you mean x-door?" in messages["actuators.x-dor"]
    assert "install the distribution that brings hunt" in messages["actuators.hunt"]
    assert "no plugin can serve this profile" in messages["actuators.acme"]


def test_what_is_not_required_becomes_a_warning(install, loaded):
    install("acme-door", HEADER + DOOR)
    found = loaded("[actuators.x-door]\n[actuators.x-gone]\nrequired = false")
    assert [one.nsid for one in found.actuators] == ["x-door"]
    assert [problem.path for problem in found.warnings] == ["actuators.x-gone"]


def test_the_order_may_name_nsids_in_service_and_configured_tables(install, loaded, refused):
    install("acme-door", HEADER + DOOR)
    tables = "[actuators.x-door]\n[actuators.x-gone]\nrequired = false\n"
    assert loaded(tables + "[policy]\norder = ['x-gone', 'x-door']").actuators
    assert refused(tables + "[policy]\norder = ['x-dor']") == [
        ("policy.order", "there is no actuator x-dor; did you mean x-door?")
    ]


def test_one_nsid_is_served_by_one_actuator(install, refused):
    install("acme-door", HEADER + DOOR)
    install(
        "zeta-many",
        HEADER
        + """
class One(Actuator):
    profile = "x-many"
    def __init__(self, nsid):
        self.profile = nsid

class Plugin(One):
    @classmethod
    def create(cls, config):
        return [One("x-many"), One("x-door"), One("x-many")]
""",
    )
    assert refused("[actuators.x-door]\n[actuators.x-many]") == [
        ("actuators.x-many", "x-door is served by [actuators.x-door] already"),
        ("actuators.x-many", "x-many is served by [actuators.x-many] already"),
    ]


def test_a_distribution_whose_record_is_gone_stops_nothing(install, site):
    install("acme-door", HEADER + DOOR)
    install("zeta-door", HEADER + DOOR.replace("x-door", "x-gate"))
    (site / "acme_door-1.2.dist-info" / "METADATA").unlink()
    assert {"x-door", "x-gate"} <= {*discover().found}


def test_discovery_is_quick(install):
    install("acme-door", HEADER + DOOR)
    discover()
    sys.modules.pop("acme_door", None)
    begun = time.thread_time()
    discover()
    assert time.thread_time() - begun < 0.5
