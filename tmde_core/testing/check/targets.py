"""Find what a name stands for: a plugin with all that it provides, or one thing that a plugin provides."""

from __future__ import annotations

from typing import NamedTuple

from tmde_core.errors import InvalidInputError
from tmde_core.plugins import PluginInfo, Plugins
from tmde_core.testing.check.findings import Target

PLUGIN = "plugin"
OWN_CONTRACTS = ("training backend", "model runtime", "judge", "benchmark suite", "registry")
"""Kinds with their own contract. Commands and the observer are checked with the plugin."""


class Chosen(NamedTuple):
    """The plugin, and its things to check."""

    plugin: PluginInfo
    targets: tuple[Target, ...]


def choose(name: str, plugins: Plugins) -> Chosen:
    """Return the plugin and the things that a name stands for.

    Args:
        name: a plugin, as `tmde plugins` lists it, or a thing that a plugin provides, such as `judge:length`.
        plugins: the installed plugins.

    Raises:
        InvalidInputError: the name is unknown. The detail lists the known names.
    """
    infos = plugins.infos()
    kind, colon, thing = name.partition(":")
    if not colon:
        for info in infos:
            if info.name == name:
                provided = (Target(kind=one.kind, name=one.name) for one in info.provides if one.kind in OWN_CONTRACTS)
                return Chosen(info, (Target(kind=PLUGIN, name=info.name), *provided))
        raise InvalidInputError(
            f"There is no plugin called {name[:60]!r}; installed: {', '.join(info.name for info in infos) or 'none'}. "
            "One thing of a plugin is named with its kind, as in judge:length.",
            field="name",
        )
    for info in infos:
        for one in info.provides:
            if one.name == thing and one.kind in OWN_CONTRACTS and kind in (one.kind, one.kind.rpartition(" ")[2]):
                return Chosen(info, (Target(kind=one.kind, name=one.name),))
    known = [
        f"{one.kind.rpartition(' ')[2]}:{one.name}"
        for info in infos
        for one in info.provides
        if one.kind in OWN_CONTRACTS
    ]
    raise InvalidInputError(f"No plugin provides {name[:60]!r}; there are {', '.join(known) or 'none'}.", field="name")
