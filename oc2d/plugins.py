"""Find the installed plugins and build the actuators that the configuration asks for.

Pure but for importing the plugins: nothing is started and nothing of the host is touched, so
`oc2d check` and `oc2d plugins` use it as the daemon does.
"""

from __future__ import annotations

import traceback
from collections.abc import Iterable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from importlib.metadata import Distribution, EntryPoint, entry_points
from pathlib import Path
from typing import Any, cast

import pluggy
from pluggy import HookImpl

from oc2d.actuator import API_VERSION, Actuator, Pair
from oc2d.config import ActuatorTable, Config
from oc2d.errors import ConfigError, PluginError, Problem
from oc2d.hookspecs import ENTRY_POINT_GROUP, Hooks
from oc2d.language.vocabulary import Action, nsid_problem

__all__ = [
    "Attempt",
    "Failure",
    "Found",
    "HookPlugin",
    "LoadedActuator",
    "LoadedActuators",
    "Registry",
    "Source",
    "discover",
    "hooks_of",
    "load_actuators",
    "name_of",
    "nearest",
    "placed",
    "try_actuators",
]

_FIRST_PARTY = {
    "pf": "oc2d-pf",
    "sbom": "oc2d-sbom",
    "slpf": "oc2d-slpf",
    "x-log": "oc2d-log",
}


@dataclass(frozen=True, slots=True)
class Source:
    """Where a plugin comes from: an entry point of a distribution, installed in `location`.

    `order` counts from 1, as plugins are loaded.
    """

    distribution: str
    version: str
    entry_point: str
    location: str = ""
    order: int = 0

    def __str__(self) -> str:
        return f"{self.distribution} {self.version} ({self.entry_point})"


@dataclass(frozen=True, slots=True)
class Found:
    """An actuator class and who brought it."""

    actuator: type[Actuator]
    source: Source


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a plugin is not used; `profile` is known only where the class itself was fine.

    `where` is the line of the plugin at which it went wrong, if it went that far.
    """

    source: Source
    reason: str
    profile: str | None = None
    where: str = ""


@dataclass(frozen=True, slots=True)
class HookPlugin:
    """A plugin with hooks: who brought it, its name in `Registry.manager`, what it implements."""

    source: Source
    name: str
    functions: Mapping[str, HookImpl]

    def call(self, hook: str, **arguments: object) -> Any:  # noqa: ANN401 - the plugin's own type
        """Call this plugin alone; None when it does not implement the hook."""
        if (found := self.functions.get(hook)) is None:
            return None
        return found.function(*(arguments[name] for name in found.argnames))


@dataclass(frozen=True, slots=True)
class Registry:
    """What is installed: hooks in `manager`, actuator classes by profile, and what is broken."""

    manager: pluggy.PluginManager
    found: Mapping[str, Found]
    failures: tuple[Failure, ...]
    hooks: tuple[HookPlugin, ...]
    """The plugins that implement hooks, registered with `manager`."""


@dataclass(frozen=True, slots=True)
class LoadedActuator:
    """One actuator, ready to `start`: its NSID, its table (timeout) and where it comes from."""

    nsid: str
    actuator: Actuator
    table: ActuatorTable
    source: Source


@dataclass(frozen=True, slots=True)
class LoadedActuators:
    """The actuators of the configuration in its order, and what of it could be done without."""

    actuators: tuple[LoadedActuator, ...]
    warnings: tuple[Problem, ...]

    def __getitem__(self, nsid: str) -> LoadedActuator:
        return next(loaded for loaded in self.actuators if loaded.nsid == nsid)


@dataclass(frozen=True, slots=True)
class Attempt:
    """The same, before anybody decided what to do about the problems."""

    loaded: LoadedActuators
    problems: tuple[Problem, ...]


def discover() -> Registry:
    """Import every plugin of the entry-point group `oc2d`; a broken one becomes a `Failure`."""
    manager = pluggy.PluginManager(ENTRY_POINT_GROUP)
    manager.add_hookspecs(Hooks)
    claims: dict[str, list[Found]] = {}
    failures: list[Failure] = []
    hooks: list[HookPlugin] = []
    entries = [(_source(entry), entry) for entry in entry_points(group=ENTRY_POINT_GROUP)]
    entries.sort(key=lambda one: (one[0].distribution, one[0].entry_point))
    for order, (unplaced, entry) in enumerate(entries, 1):
        source = replace(unplaced, order=order)
        try:
            classes = _classes_of(entry, manager, source)
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # noqa: BLE001 - whatever a plugin raises is its own failure
            failures.append(Failure(source, _words(error), where=_where(error)))
            continue
        if manager.has_plugin(_plugin_name(source)):
            hooks.append(_hook_plugin(source, manager))
        for actuator in classes:
            claims.setdefault(actuator.profile, []).append(Found(actuator, source))
    found = {}
    for profile, claimants in claims.items():
        if len(claimants) == 1:
            found[profile] = claimants[0]
            continue
        names = " and ".join(str(claimant.source) for claimant in claimants)
        reason = f"profile {profile} is claimed by {names}: uninstall all but one"
        failures.extend(Failure(claimant.source, reason, profile) for claimant in claimants)
    return Registry(manager, found, tuple(failures), tuple(hooks))


def hooks_of(registry: Registry) -> dict[tuple[str, str], tuple[str, ...]]:
    """Name the hooks of each plugin, by distribution and entry point."""
    return {
        (plugin.source.distribution, plugin.source.entry_point): tuple(sorted(plugin.functions))
        for plugin in registry.hooks
    }


def name_of(distribution: Distribution) -> str | None:
    """Return what a distribution is called; None: its record is lost or damaged."""
    try:
        record = distribution.metadata
    except UnicodeDecodeError:
        return None
    return record["Name"] if "Name" in record else None  # noqa: SIM401 - it has no `get` in Python 3.10


def _source(entry: EntryPoint) -> Source:
    if entry.dist is None or (name := name_of(entry.dist)) is None:
        return Source("unknown", "unknown", entry.name)
    location = str(entry.dist.locate_file(""))
    return Source(name, entry.dist.version, entry.name, location)


def _plugin_name(source: Source) -> str:
    return f"{source.distribution}:{source.entry_point}"


def _hook_plugin(source: Source, manager: pluggy.PluginManager) -> HookPlugin:
    name = _plugin_name(source)
    plugin = manager.get_plugin(name)
    functions = {
        caller.name: implementation
        for caller in manager.get_hookcallers(plugin) or ()
        for implementation in caller.get_hookimpls()
        if implementation.plugin is plugin
    }
    return HookPlugin(source, name, functions)


def _words(error: BaseException) -> str:
    """Our own errors speak for themselves; of others the kind tells most."""
    if isinstance(error, PluginError):
        return str(error)
    text = f"{type(error).__name__}: {error}"
    if isinstance(error, ModuleNotFoundError):
        text += "; install what the plugin needs (pip install --no-deps does not)"
    return text


def _where(error: BaseException) -> str:
    """Tell the line of the plugin in which it was raised: none of ours, none of the importing."""
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if not frame.filename.startswith("<") and "importlib" not in Path(frame.filename).parts
    ]
    here = Path(__file__).parent
    theirs = [
        f"{f.filename} line {f.lineno}" for f in frames if here not in Path(f.filename).parents
    ]
    return theirs[-1] if theirs else ""


def _classes_of(
    entry: EntryPoint, manager: pluggy.PluginManager, source: Source
) -> Sequence[type[Actuator]]:
    """Load one entry point: an actuator class, or a pluggy plugin that may contribute some."""
    plugin = entry.load()
    if isinstance(plugin, type):
        if not issubclass(plugin, Actuator):
            raise PluginError("is a class but no Actuator: for hooks, name an object of it")
        return (_complete(plugin),)
    name = _plugin_name(source)
    try:
        return [_complete(actuator) for actuator in _register(plugin, manager, name)]
    except BaseException:
        if manager.get_name(plugin) == name:  # all of its hooks are used, or none
            manager.unregister(plugin)
        raise


def _complete(actuator: object) -> type[Actuator]:
    if not (isinstance(actuator, type) and issubclass(actuator, Actuator)):
        raise PluginError(f"oc2d_actuators returned {actuator!r}, which is no Actuator class")
    if not hasattr(actuator, "profile"):
        raise PluginError(f"{actuator.__qualname__} names no profile")
    if (api := actuator.api) is not None and not _offered(api):
        wanted, here = (".".join(map(str, version)) for version in (api, API_VERSION))
        raise PluginError(
            f"{actuator.__qualname__} needs version {wanted} of the interface for plugins, "
            f"this oc2d has {here}: install an oc2d or a plugin that fits"
        )
    return actuator


def _offered(api: tuple[int, int]) -> bool:
    return api[0] == API_VERSION[0] and api[1] <= API_VERSION[1]


def _register(plugin: object, manager: pluggy.PluginManager, name: str) -> Sequence[object]:
    """Register a plugin's hooks and ask it for its actuator classes."""
    manager.register(plugin, name=name)
    manager.check_pending()
    if not manager.get_hookcallers(plugin):
        raise PluginError("is neither an Actuator class nor an object with hookimpls")
    return [
        actuator
        for implementation in manager.hook.oc2d_actuators.get_hookimpls()
        if implementation.plugin is plugin
        for actuator in cast(Iterable[object], implementation.function())
    ]


def load_actuators(config: Config, registry: Registry) -> LoadedActuators:
    """Build the actuators of every enabled table; raise `ConfigError` with all problems."""
    attempt = try_actuators(config.actuators, config.policy.order, registry)
    if attempt.problems:
        raise ConfigError(attempt.problems)
    return attempt.loaded


def try_actuators(
    tables: Mapping[str, ActuatorTable], order: Sequence[str], registry: Registry
) -> Attempt:
    """Build what can be built and report the rest; never raises for a plugin's mistake.

    Problems of a table with `required = false` are warnings. `order` (`policy.order`) may name
    NSIDs in service and configured tables.
    """
    loaded: dict[str, LoadedActuator] = {}
    problems: list[Problem] = []
    warnings: list[Problem] = []
    for table in tables.values():
        if not table.enabled:
            continue
        try:
            loaded |= _load_table(table, registry, loaded)
        except ConfigError as error:
            (problems if table.required else warnings).extend(error.problems)
    problems.extend(
        Problem("policy.order", f"there is no actuator {name}{nearest(name, (*loaded, *tables))}")
        for name in order
        if name not in loaded and name not in tables
    )
    return Attempt(LoadedActuators(tuple(loaded.values()), tuple(warnings)), tuple(problems))


def _load_table(
    table: ActuatorTable, registry: Registry, others: Mapping[str, LoadedActuator]
) -> dict[str, LoadedActuator]:
    path = f"actuators.{table.name}"
    found = registry.found.get(table.name)
    if found is None:
        raise ConfigError((Problem(path, _why_absent(table.name, registry)),))
    try:
        options = found.actuator.parse_config(deepcopy(table.options))
        actuators = found.actuator.create(options)
        broken = [problem for actuator in actuators for problem in _broken(actuator)]
    except ConfigError as error:
        raise ConfigError(placed(path, error)) from None
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        message = f"the plugin {found.source} failed on this table: {_words(error)}"
        raise ConfigError((Problem(path, message),)) from error
    loaded: dict[str, LoadedActuator] = {}
    for actuator in actuators:
        nsid = actuator.profile
        if other := others.get(nsid) or loaded.get(nsid):
            broken.append(f"{nsid} is served by [actuators.{other.table.name}] already")
        loaded[nsid] = LoadedActuator(nsid, actuator, table, found.source)
    if broken:
        raise ConfigError(tuple(Problem(path, message) for message in broken))
    return loaded


def _broken(actuator: Actuator) -> list[str]:
    """Check what a plugin computes itself, and `Actuator` could not check in the class."""
    if problem := nsid_problem(actuator.profile):
        return [problem]
    pairs: Iterable[object] = actuator.supported_pairs()
    return [
        f"the plugin declares a pair that is none: {pair!r}"
        for pair in pairs
        # LANG-13: the list of actions is closed.
        if not isinstance(pair, Pair)
        or not all(map(isinstance, (pair.action, pair.target), (Action, str)))
    ]


def placed(path: str, error: ConfigError) -> tuple[Problem, ...]:
    """Say where in the whole file is what a plugin found wrong with its table at `path`."""
    return tuple(
        Problem(f"{path}.{problem.path}" if problem.path else path, problem.message)
        for problem in error.problems
    )


def _why_absent(name: str, registry: Registry) -> str:
    """Say why no plugin serves a table: broken, misspelt, or not installed."""
    for failure in registry.failures:
        likely = {failure.profile, failure.source.entry_point, f"x-{failure.source.entry_point}"}
        if name in likely:
            return f"its plugin {failure.source} cannot be used: {failure.reason}"
    package = _FIRST_PARTY.get(name, f"the distribution that brings {name}")
    hint = f"no plugin serves this profile: install {package}, for instance with pip"
    if problem := nsid_problem(name):
        hint = f"no plugin can serve this profile: {problem}"
    if meant := nearest(name, registry.found):
        return hint + meant
    return f"{hint}; some plugins did not load, see `oc2d plugins`" if registry.failures else hint


def nearest(name: str, names: Iterable[str]) -> str:
    """Name what was probably meant, as the end of a sentence; empty when nothing is like it."""
    from difflib import get_close_matches  # noqa: PLC0415 - needed for mistakes only

    near = get_close_matches(name, list(names), 1)
    return f"; did you mean {near[0]}?" if near else ""
