"""Finds, loads, validates and calls plugins; knows what each one provides and what is wrong with it.

stevedore finds and imports entry points (a plugin whose import fails is recorded, the rest load), pluggy registers
and checks them against `hookspecs`. Hooks are called one implementation at a time, each in its own `try`, because
one raising implementation would otherwise silence every other.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Iterator, Sequence
from typing import Any, Generic, Literal, TypeVar

import msgspec
import pluggy
import structlog
from stevedore import ExtensionManager

from tmde_core import hookspecs
from tmde_core.errors import PluginUnavailableError
from tmde_core.ports import (
    BackendDescriptor,
    JudgeDescriptor,
    RegistryDescriptor,
    RuntimeDescriptor,
    SuiteDescriptor,
)
from tmde_core.record import Record

log = structlog.get_logger(__name__)

KINDS: dict[str, tuple[str, type[Record]]] = {
    "tmde_training_backends": ("training backend", BackendDescriptor),
    "tmde_model_runtimes": ("model runtime", RuntimeDescriptor),
    "tmde_judges": ("judge", JudgeDescriptor),
    "tmde_benchmark_suites": ("benchmark suite", SuiteDescriptor),
    "tmde_registries": ("registry", RegistryDescriptor),
}
"""Hook → what its descriptors are called, and their type."""


class Provision(Record):
    """One thing that a plugin provides."""

    kind: str
    name: str
    summary: str


class PluginProblem(Record):
    """Something wrong with a plugin, in a sentence."""

    stage: Literal["import", "register", "hook", "conflict"]
    detail: str


class PluginInfo(Record):
    """One plugin: where it comes from, what it provides, what is wrong with it."""

    name: str
    module: str
    distribution: str | None
    version: str | None
    status: Literal["ok", "degraded", "broken"]
    provides: tuple[Provision, ...]
    problems: tuple[PluginProblem, ...]


class _Entry(msgspec.Struct):
    """What is being learnt about a plugin while loading."""

    name: str
    module: str
    distribution: str | None
    version: str | None
    registered: bool = False
    provides: list[Provision] = msgspec.field(default_factory=list)
    problems: list[PluginProblem] = msgspec.field(default_factory=list)

    def info(self) -> PluginInfo:
        status: Literal["ok", "degraded", "broken"] = "ok"
        if self.problems:
            status = "degraded" if self.provides else "broken"
        return PluginInfo(
            name=self.name,
            module=self.module,
            distribution=self.distribution,
            version=self.version,
            status=status,
            provides=tuple(self.provides),
            problems=tuple(self.problems),
        )


D = TypeVar("D", BackendDescriptor, JudgeDescriptor, RegistryDescriptor, RuntimeDescriptor, SuiteDescriptor)


class Shelf(Generic[D]):
    """The descriptors of one kind, by name; a name that is taken stays with its first provider."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._items: dict[str, D] = {}
        self._providers: dict[str, str] = {}

    def add(self, descriptor: D, provider: str) -> str | None:
        """Put a descriptor on the shelf; returns the present provider when the name is taken."""
        taken = self._providers.get(descriptor.name)
        if taken is None:
            self._items[descriptor.name] = descriptor
            self._providers[descriptor.name] = provider
        return taken

    def get(self, name: str) -> D:
        """The descriptor of that name.

        Raises:
            PluginUnavailableError: there is none; the detail lists those there are.
        """
        if name not in self._items:
            known = ", ".join(sorted(self._items)) or "none"
            raise PluginUnavailableError(
                f"There is no {self.kind} called {name!r}; available: {known}.", name=name, available=sorted(self._items)
            )
        return self._items[name]

    def provider(self, name: str) -> str | None:
        """The plugin that provides `name`."""
        return self._providers.get(name)

    def __contains__(self, name: object) -> bool:
        return name in self._items

    def __iter__(self) -> Iterator[D]:
        return iter(self._items.values())

    def names(self) -> list[str]:
        """All names, sorted."""
        return sorted(self._items)


class Plugins:
    """The catalog: load it once, then ask it."""

    def __init__(self) -> None:
        self.backends: Shelf[BackendDescriptor] = Shelf("training backend")
        self.runtimes: Shelf[RuntimeDescriptor] = Shelf("model runtime")
        self.judges: Shelf[JudgeDescriptor] = Shelf("judge")
        self.suites: Shelf[SuiteDescriptor] = Shelf("benchmark suite")
        self.registries: Shelf[RegistryDescriptor] = Shelf("registry")
        self._shelves: dict[str, Shelf[Any]] = {
            "tmde_training_backends": self.backends,
            "tmde_model_runtimes": self.runtimes,
            "tmde_judges": self.judges,
            "tmde_benchmark_suites": self.suites,
            "tmde_registries": self.registries,
        }
        self._entries: list[_Entry] = []

    @classmethod
    def load(cls) -> Plugins:
        """Find and load every installed plugin."""
        plugins = cls()
        found: list[tuple[_Entry, object]] = []

        def failed(_manager: object, entry_point: importlib.metadata.EntryPoint, error: BaseException) -> None:
            entry = _describe(entry_point)
            entry.problems.append(PluginProblem(stage="import", detail=_sentence(error)))
            plugins._entries.append(entry)
            log.warning("plugin.import_failed", plugin=entry.name, error=_sentence(error))

        manager = ExtensionManager(
            hookspecs.ENTRY_POINT_GROUP, invoke_on_load=False, on_load_failure_callback=failed
        )
        for extension in sorted(manager, key=lambda extension: str(extension.name)):
            entry = _describe(extension.entry_point)
            plugins._entries.append(entry)
            found.append((entry, extension.plugin))
        plugins.register(found)
        return plugins

    def register(self, found: Sequence[tuple[_Entry, object]]) -> None:
        """Register loaded plugins with pluggy and collect what they provide."""
        for entry, plugin in found:
            # One manager for each plugin: a misspelt hook, a wrong signature or an exception then has one owner.
            manager = pluggy.PluginManager(hookspecs.PROJECT)
            manager.add_hookspecs(hookspecs)
            try:
                manager.register(plugin, entry.name)
                manager.check_pending()
            except pluggy.PluginValidationError as error:
                entry.problems.append(PluginProblem(stage="register", detail=_misspelt(manager, plugin) or _sentence(error)))
                if manager.get_plugin(entry.name) is None:
                    continue
            except Exception as error:  # a plugin object may do anything while it is inspected
                entry.problems.append(PluginProblem(stage="register", detail=_sentence(error)))
                continue
            self._collect(entry, manager)

    def _collect(self, entry: _Entry, manager: pluggy.PluginManager) -> None:
        for hook in hookspecs.HOOKS:
            for implementation in getattr(manager.hook, hook).get_hookimpls():
                self._call(entry, hook, implementation)

    def _call(self, entry: _Entry, hook: str, implementation: Any) -> None:
        kind, descriptor_type = KINDS[hook]
        try:
            descriptors = list(implementation.function() or ())
        except Exception as error:  # a plugin's own defect must not reach anyone else
            entry.problems.append(PluginProblem(stage="hook", detail=f"{hook} raised {_sentence(error)}"))
            return
        for descriptor in descriptors:
            if not isinstance(descriptor, descriptor_type):
                entry.problems.append(
                    PluginProblem(
                        stage="hook",
                        detail=f"{hook} returned a {type(descriptor).__name__} where a {descriptor_type.__name__} belongs.",
                    )
                )
                continue
            taken = self._shelves[hook].add(descriptor, entry.name)
            if taken is None:
                entry.provides.append(Provision(kind=kind, name=descriptor.name, summary=descriptor.summary))
            else:
                entry.problems.append(
                    PluginProblem(
                        stage="conflict",
                        detail=f"The {kind} {descriptor.name!r} is already provided by the plugin {taken!r}; "
                        f"that of {entry.name!r} is left out. Uninstall one, or rename it.",
                    )
                )

    def infos(self) -> list[PluginInfo]:
        """Every plugin that was found, by name."""
        return sorted((entry.info() for entry in self._entries), key=lambda info: info.name)


def _describe(entry_point: importlib.metadata.EntryPoint) -> _Entry:
    distribution = entry_point.dist
    return _Entry(
        name=entry_point.name,
        module=entry_point.value,
        distribution=distribution.name if distribution else None,
        version=distribution.version if distribution else None,
    )


def _misspelt(manager: pluggy.PluginManager, plugin: object) -> str | None:
    """Name the functions that are marked as hooks although no hook has their name."""
    wrong = [
        name
        for name in dir(plugin)
        if name not in hookspecs.HOOKS and manager.parse_hookimpl_opts(plugin, name) is not None
    ]
    if not wrong:
        return None
    return f"No hook is called {', '.join(wrong)}; the hooks are {', '.join(hookspecs.HOOKS)}."


def _sentence(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
