"""What a new configuration changes at once, and what of it waits for a restart."""

from __future__ import annotations

from collections.abc import Collection, Iterator

from msgspec.structs import replace

from oc2d.config import ActuatorTable, Config
from oc2d.config_keys import KEYS

__all__ = ["applied", "changed"]

_ACTUATOR = "actuators.<nsid>"


def applied(old: Config, new: Config, refused: Collection[str] = ()) -> Config:
    """Return what is in force after a reload: `new`, but for what only a start can bring about.

    That is who we are, where things are kept, which actuators and plugins of hooks there are, and
    the keys of actuators, who read their table once; and the tables of plugins that `refused` them.
    """
    return replace(
        new,
        device_id=old.device_id,
        namespace=old.namespace,
        sender=old.sender,
        state=old.state,
        metrics=old.metrics,
        actuators={
            name: replace(table, timeout=new.actuators.get(name, table).timeout)
            for name, table in old.actuators.items()
        },
        plugins={
            name: table if name in refused else new.plugins.get(name, table)
            for name, table in old.plugins.items()
        },
    )


def changed(old: Config, new: Config) -> tuple[str, ...]:
    """Name every key that differs by its TOML path, in the order of the reference."""
    core = [
        key.path
        for key in KEYS
        if key.section != _ACTUATOR
        and getattr(_section(old, key.section), key.field)
        != getattr(_section(new, key.section), key.field)
    ]
    for name in {**old.actuators, **new.actuators}:
        was, is_now = old.actuators.get(name), new.actuators.get(name)
        if was is None or is_now is None:
            core.append(f"actuators.{name}")
        else:
            core += [f"actuators.{name}.{key}" for key in _differing(was, is_now)]
    core += [
        f"plugins.{name}"
        for name in {**old.plugins, **new.plugins}
        if old.plugins.get(name) != new.plugins.get(name)
    ]
    return tuple(core)


def _section(config: Config, name: str) -> object:
    return getattr(config, name) if name else config


def _differing(was: ActuatorTable, is_now: ActuatorTable) -> Iterator[str]:
    for key in KEYS:
        if key.section == _ACTUATOR and getattr(was, key.field) != getattr(is_now, key.field):
            yield key.name
    for name in {**was.options, **is_now.options}:
        if was.options.get(name) != is_now.options.get(name):
            yield name
