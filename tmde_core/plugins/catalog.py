"""The catalog of plugins: what each plugin provides, and which problems it has.

Each hook is called separately in its own `try`. A hook that raises is recorded as a problem of its plugin. The other
hooks of this plugin and all other plugins continue to work.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from typing import Any, TypeVar, cast

from tmde_core.entry_points import find_commands
from tmde_core.plugins.finding import find_plugins
from tmde_core.plugins.records import Entry, PluginInfo, PluginSetting, Provision, describe_error
from tmde_core.plugins.shelf import Shelf
from tmde_core.plugins.validating import find_flaw, find_implementations
from tmde_core.records.base import to_json
from tmde_core.records.fields import fields_of
from tmde_core.sdk.context import Descriptor, MakingDescriptor
from tmde_core.sdk.hooks import HOOKS, OBSERVER, Hook
from tmde_core.sdk.judges import JudgeDescriptor
from tmde_core.sdk.registries import RegistryDescriptor
from tmde_core.sdk.runtimes import RuntimeDescriptor
from tmde_core.sdk.suites import SuiteDescriptor
from tmde_core.sdk.training import BackendDescriptor

MAX_DESCRIPTORS = 100
"""The most descriptors that one hook may return. No real list is so long. The limit also ends an endless generator."""

D = TypeVar("D", bound=Descriptor)

Observe = Callable[..., object]
"""A plugin's `tmde_event`: it takes `event`, and optionally `context`."""


class Plugins:
    """The catalog of plugins. Load it once, then query it."""

    def __init__(self) -> None:
        self._shelves: dict[type[Descriptor], Shelf[Any]] = {
            hook.descriptor: Shelf(hook.noun) for hook in HOOKS.values()
        }
        self._entries: list[Entry] = []
        self._observers: list[tuple[Entry, Observe]] = []

    @classmethod
    def load(cls) -> Plugins:
        """Find and load every installed plugin."""
        plugins = cls()
        for entry, plugin in find_plugins():
            plugins._admit(entry, plugin)
        plugins._list_commands()
        return plugins

    def add(self, name: str, plugin: object) -> PluginInfo:
        """Register a plugin that is not an installed package, in the same way as an installed one.

        Tests and programs that embed TMDE use this method.
        """
        entry = Entry(name=name, module=getattr(plugin, "__name__", type(plugin).__name__))
        self._admit(entry, plugin)
        return entry.info()

    # ------------------------------------------------------------------------------------- reading

    def shelf(self, descriptor: type[D]) -> Shelf[D]:
        """Return the descriptors of one kind."""
        return cast("Shelf[D]", self._shelves[descriptor])

    @property
    def backends(self) -> Shelf[BackendDescriptor]:
        """The training backends."""
        return self.shelf(BackendDescriptor)

    @property
    def runtimes(self) -> Shelf[RuntimeDescriptor]:
        """The model runtimes."""
        return self.shelf(RuntimeDescriptor)

    @property
    def judges(self) -> Shelf[JudgeDescriptor]:
        """The judges."""
        return self.shelf(JudgeDescriptor)

    @property
    def suites(self) -> Shelf[SuiteDescriptor]:
        """The benchmark suites."""
        return self.shelf(SuiteDescriptor)

    @property
    def registries(self) -> Shelf[RegistryDescriptor]:
        """The template registries."""
        return self.shelf(RegistryDescriptor)

    def observers(self) -> list[tuple[str, Observe]]:
        """Return each plugin's `tmde_event` with the plugin's name."""
        return [(entry.name, function) for entry, function in self._observers]

    def report(self, name: str, detail: str) -> None:
        """Record a problem that an observer has while TMDE runs."""
        for entry, _ in self._observers:
            if entry.name == name:
                entry.fail("event", detail)

    def infos(self) -> list[PluginInfo]:
        """Return information about every plugin that was found, sorted by name."""
        return sorted((entry.info() for entry in self._entries), key=lambda info: info.name)

    # ------------------------------------------------------------------------------------- loading

    def _admit(self, entry: Entry, plugin: object | None) -> None:
        """Add a plugin to the list, and collect what it provides if it was imported and its name is free."""
        same = next((other for other in self._entries if other.name == entry.name), None)
        self._entries.append(entry)
        if plugin is None:
            return
        if same is not None:
            entry.fail(
                "conflict",
                f"The plugin name {entry.name!r} is already used by {same.origin()}; "
                f"the one of {entry.origin()} is left out. Uninstall one of them.",
            )
            return
        for hook, function in find_implementations(entry, plugin):
            if hook == OBSERVER:
                self._observers.append((entry, function))
                entry.provides.append(Provision(kind="observer", name=entry.name, summary="hears of what happens"))
            else:
                self._call(entry, hook, function)

    def _call(self, entry: Entry, hook: str, function: Callable[..., object]) -> None:
        """Call one hook and store its descriptors; record any error as a problem of this plugin only."""
        try:
            offered = function()
            if offered is None:
                return
            if inspect.isawaitable(offered):
                _discard(offered)
                entry.fail("hook", f"{hook} is asynchronous; a hook is a plain function that returns a list.")
                return
            if not isinstance(offered, Iterable) or isinstance(offered, str | bytes | dict):
                wanted = HOOKS[hook].descriptor.__name__
                entry.fail("hook", f"{hook} returned a {type(offered).__name__} where a list of {wanted} belongs.")
                return
            for number, descriptor in enumerate(offered):
                if number == MAX_DESCRIPTORS:
                    entry.fail("hook", f"{hook} offers more than {MAX_DESCRIPTORS} things; the rest is left out.")
                    return
                self._shelve(entry, hook, descriptor)
        except BaseException as error:  # a plugin may even call sys.exit(); that must not affect the others
            if isinstance(error, KeyboardInterrupt):
                raise
            entry.fail("hook", f"{hook} raised {describe_error(error)}")

    def _shelve(self, entry: Entry, name: str, descriptor: object) -> None:
        hook = HOOKS[name]
        if flaw := find_flaw(hook, descriptor):
            entry.fail("hook", flaw)
            return
        assert isinstance(descriptor, Descriptor)
        taken = self._shelves[hook.descriptor].add(descriptor, entry.name)
        if taken is None:
            entry.provides.append(
                Provision(
                    kind=hook.noun,
                    name=descriptor.name,
                    summary=descriptor.summary,
                    settings=_list_settings(hook, descriptor),
                )
            )
        elif taken == entry.name:
            entry.fail("conflict", f"{name} offers the {hook.noun} {descriptor.name!r} twice; the first one is used.")
        else:
            entry.fail(
                "conflict",
                f"The {hook.noun} {descriptor.name!r} is already provided by the plugin {taken!r}; "
                f"that of {entry.name!r} is left out. Uninstall one, or rename it.",
            )

    def _list_commands(self) -> None:
        """Add each command to the plugin that provides it. A package that has only commands is a plugin too."""
        for command in find_commands():
            entry = next((one for one in self._entries if one.distribution == command.distribution), None)
            if entry is None:
                entry = Entry(command.distribution, command.target, command.distribution, command.version)
                self._entries.append(entry)
            if command.problem:
                entry.fail("conflict", command.problem)
            else:
                entry.provides.append(Provision(kind="command", name=command.name, summary=command.summary))


def _list_settings(hook: Hook, descriptor: Descriptor) -> tuple[PluginSetting, ...]:
    """Return the settings of a descriptor, as `tmde.toml` names them."""
    if not isinstance(descriptor, MakingDescriptor):
        return ()
    return tuple(
        PluginSetting(
            name=f"{hook.table}.{descriptor.name}.{field.name}",
            default=to_json(field.default).decode(),
            help=field.help,
        )
        for field in fields_of(descriptor.settings)
    )


def _discard(awaitable: object) -> None:
    """Close a coroutine that is never awaited, so that Python does not warn about it."""
    if inspect.iscoroutine(awaitable):
        awaitable.close()
