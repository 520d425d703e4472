"""Finds, loads, validates and calls plugins; knows what each one provides and what is wrong with it.

stevedore imports the entry points (a plugin whose import fails is recorded, the rest load), pluggy checks each marked
function against `hookspecs`. Every function is registered and called alone, in its own `try`: a misspelt, wrongly
declared or raising hook is named as its plugin's problem, while that plugin's good hooks and all other plugins work on.

Plugins are taken in the order of their names, so that which of two providers keeps a name is the same on every start.
"""

from __future__ import annotations

import importlib.metadata
import inspect
import re
from collections.abc import Callable, Iterable, Iterator
from types import SimpleNamespace
from typing import Any, Generic, Literal, NoReturn, TypeVar

import msgspec
import pluggy
import structlog
from stevedore import ExtensionManager
from stevedore.extension import Extension

from tmde_core.errors import InvalidInputError, PluginUnavailableError
from tmde_core.records.base import Record
from tmde_core.sdk import hooks as hookspecs
from tmde_core.sdk.judges import JudgeDescriptor
from tmde_core.sdk.registries import RegistryDescriptor
from tmde_core.sdk.runtimes import RuntimeDescriptor
from tmde_core.sdk.suites import SuiteDescriptor
from tmde_core.sdk.training import BackendDescriptor

log = structlog.get_logger(__name__)

MAX_DESCRIPTORS = 100
"""Most things one hook may offer: far above any honest list, and it ends a generator that never does."""

NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,39}")
"""What a descriptor may be called; settings, flags and URLs use the name."""

RESERVED = {"tmde_judges": frozenset({"auto", "none"})}
"""Names that the settings give a meaning of their own."""

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
    distribution: str | None = None
    version: str | None = None
    provides: list[Provision] = msgspec.field(default_factory=list)
    problems: list[PluginProblem] = msgspec.field(default_factory=list)

    def fail(self, stage: Literal["import", "register", "hook", "conflict"], detail: str) -> None:
        """Record a problem."""
        self.problems.append(PluginProblem(stage=stage, detail=detail))

    def origin(self) -> str:
        """Where it comes from, for a sentence."""
        return f"the package {self.distribution!r}" if self.distribution else f"the module {self.module!r}"

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
            raise PluginUnavailableError(self._missing(name), name=name, available=self.names())
        return self._items[name]

    def chosen(self, name: str, field: str) -> D:
        """The descriptor that a person names in `field`; a name that is not there is their mistake, not our lack.

        Raises:
            InvalidInputError: there is none; the detail and `available` list those there are.
        """
        if name not in self._items:
            raise InvalidInputError(f"{field}: {self._missing(name)}", field=field, available=self.names())
        return self._items[name]

    def _missing(self, name: str) -> str:
        return f"There is no {self.kind} called {name[:60]!r}; available: {', '.join(self.names()) or 'none'}."

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
        loaded: dict[int, object] = {}
        entries: list[_Entry] = []

        def failed(_manager: object, entry_point: importlib.metadata.EntryPoint, error: BaseException) -> None:
            entry = _describe(entry_point)
            entry.fail("import", _sentence(error.__cause__ or error))
            entries.append(entry)
            log.warning("plugin.import_failed", plugin=entry.name, error=entry.problems[-1].detail)

        for extension in _Finder(hookspecs.ENTRY_POINT_GROUP, on_load_failure_callback=failed):
            entry = _describe(extension.entry_point)
            loaded[id(entry)] = extension.plugin
            entries.append(entry)
        for entry in sorted(entries, key=lambda entry: (entry.name, entry.distribution or "")):
            plugins._admit(entry, loaded.get(id(entry)))
        return plugins

    def add(self, name: str, plugin: object) -> PluginInfo:
        """Register a plugin that is no installed package, exactly as an installed one: for tests and embedders."""
        entry = _Entry(name=name, module=getattr(plugin, "__name__", type(plugin).__name__))
        self._admit(entry, plugin)
        return entry.info()

    def _admit(self, entry: _Entry, plugin: object | None) -> None:
        """Put a plugin on the list and, if it was imported and its name is free, collect what it provides."""
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
        for hook, function in _implementations(entry, plugin):
            self._call(entry, hook, function)

    def _call(self, entry: _Entry, hook: str, function: Callable[[], object]) -> None:
        """Call one hook and shelve what it offers; what is wrong becomes the plugin's problem and nobody else's."""
        try:
            offered = function()
            if offered is None:
                return
            if inspect.isawaitable(offered):
                _discard(offered)
                entry.fail("hook", f"{hook} is asynchronous; a hook is a plain function that returns a list.")
                return
            if not isinstance(offered, Iterable) or isinstance(offered, str | bytes | dict):
                wanted = KINDS[hook][1].__name__
                entry.fail("hook", f"{hook} returned a {type(offered).__name__} where a list of {wanted} belongs.")
                return
            for number, descriptor in enumerate(offered):
                if number == MAX_DESCRIPTORS:
                    entry.fail("hook", f"{hook} offers more than {MAX_DESCRIPTORS} things; the rest is left out.")
                    return
                self._shelve(entry, hook, descriptor)
        except BaseException as error:  # a plugin may even call sys.exit(); that must not reach anyone else
            if isinstance(error, KeyboardInterrupt):
                raise
            entry.fail("hook", f"{hook} raised {_sentence(error)}")

    def _shelve(self, entry: _Entry, hook: str, descriptor: object) -> None:
        kind, _ = KINDS[hook]
        if wrong := _wrong_with(hook, descriptor):
            entry.fail("hook", wrong)
            return
        assert isinstance(
            descriptor, BackendDescriptor | JudgeDescriptor | RegistryDescriptor | RuntimeDescriptor | SuiteDescriptor
        )
        taken = self._shelves[hook].add(descriptor, entry.name)
        if taken is None:
            entry.provides.append(Provision(kind=kind, name=descriptor.name, summary=descriptor.summary))
        elif taken == entry.name:
            entry.fail("conflict", f"{hook} offers the {kind} {descriptor.name!r} twice; the first one is used.")
        else:
            entry.fail(
                "conflict",
                f"The {kind} {descriptor.name!r} is already provided by the plugin {taken!r}; "
                f"that of {entry.name!r} is left out. Uninstall one, or rename it.",
            )

    def infos(self) -> list[PluginInfo]:
        """Every plugin that was found, by name."""
        return sorted((entry.info() for entry in self._entries), key=lambda info: info.name)


class _Finder(ExtensionManager[Any]):
    """stevedore's manager, with two of its habits changed."""

    def list_entry_points(self) -> list[importlib.metadata.EntryPoint]:
        """Read the metadata each time.

        stevedore's own list goes through a cache below the user's home directory. Its entries have lost the
        distribution they came from, and it would be a file outside the data directory to go stale. Reading anew
        takes some 50 ms.
        """
        return list(importlib.metadata.entry_points(group=self.namespace))

    def _load_one_plugin(self, ep: importlib.metadata.EntryPoint, *args: Any, **kwds: Any) -> Extension[Any] | None:
        """Import; make whatever is raised an ordinary error, for stevedore lets AssertionError and SystemExit pass."""
        try:
            return super()._load_one_plugin(ep, *args, **kwds)
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            _cannot_import(error)


def _cannot_import(error: BaseException) -> NoReturn:
    raise ImportError(str(error)) from error


def _describe(entry_point: importlib.metadata.EntryPoint) -> _Entry:
    distribution = entry_point.dist
    return _Entry(
        name=entry_point.name,
        module=entry_point.value,
        distribution=distribution.name if distribution else None,
        version=distribution.version if distribution else None,
    )


def _implementations(entry: _Entry, plugin: object) -> list[tuple[str, Callable[[], object]]]:
    """The plugin's valid hooks with their functions; everything else that claims to be one becomes a problem."""
    marked: dict[str, object] = {}
    unmarked: list[str] = []
    manager = pluggy.PluginManager(hookspecs.PROJECT)
    try:
        for name in dir(plugin):
            if manager.parse_hookimpl_opts(plugin, name) is not None:
                marked[name] = getattr(plugin, name)
            elif name in hookspecs.HOOKS:
                unmarked.append(name)
    except BaseException as error:  # looking at an attribute may run a plugin's own code
        if isinstance(error, KeyboardInterrupt):
            raise
        entry.fail("register", f"It cannot be inspected: {_sentence(error)}")
        return []
    for name in unmarked:
        entry.fail("register", f"The function {name} is not marked with @hookimpl, so it is not called.")
    if not marked and not unmarked:
        entry.fail("register", f"It implements no hook; the hooks are {', '.join(hookspecs.HOOKS)}.")
    return [found for name, function in marked.items() if (found := _validated(entry, name, function)) is not None]


def _validated(entry: _Entry, name: str, function: object) -> tuple[str, Callable[[], object]] | None:
    """Let pluggy check one function in a manager of its own, so that a wrong one silences no other."""
    manager = pluggy.PluginManager(hookspecs.PROJECT)
    manager.add_hookspecs(hookspecs)
    try:
        manager.register(SimpleNamespace(**{name: function}), entry.name)
        manager.check_pending()
    except pluggy.PluginValidationError as error:
        entry.fail("register", _invalid(name, error))
        return None
    for hook in hookspecs.HOOKS:
        for implementation in getattr(manager.hook, hook).get_hookimpls():
            if implementation.hookwrapper or implementation.wrapper:
                entry.fail("register", f"{name} is marked as a wrapper; hooks are called one by one and not wrapped.")
                return None
            return hook, implementation.function
    return None  # an optional hook of another version of TMDE


def _invalid(name: str, error: pluggy.PluginValidationError) -> str:
    if "unknown hook" in str(error):
        return f"No hook is called {name}; the hooks are {', '.join(hookspecs.HOOKS)}."
    if found := re.search(r"Argument\(s\) \{(.*)\} are declared", str(error)):
        return f"{name} asks for the argument {found[1]}; hooks take no arguments."
    return f"{name} is not valid: {_sentence(error)}"


def _wrong_with(hook: str, descriptor: object) -> str | None:
    """Why this cannot go on a shelf. msgspec checks types when it decodes, not when a plugin builds a struct."""
    kind, descriptor_type = KINDS[hook]
    if not isinstance(descriptor, descriptor_type):
        return f"{hook} returned a {type(descriptor).__name__} where a {descriptor_type.__name__} belongs."
    name = getattr(descriptor, "name", None)
    if not isinstance(name, str) or not NAME.fullmatch(name):
        return (
            f"{hook} offers a {kind} called {str(name)[:60]!r}; a name is 1 to 40 of a–z, 0–9, '-' and '_', "
            "and starts with a letter or digit."
        )
    if name in RESERVED.get(hook, ()):
        return f"{hook} offers a {kind} called {name!r}, which has a meaning of its own in the settings; rename it."
    if not isinstance(getattr(descriptor, "summary", None), str):
        return f"The {kind} {name!r} has no summary: it is a sentence for people."
    for field in CALLABLES & set(descriptor.__struct_fields__):
        if not callable(getattr(descriptor, field)):
            return f"The {kind} {name!r} has a {field} that cannot be called."
    return None


CALLABLES = {"create", "availability", "questions"}
"""Fields of descriptors that the core calls."""


def _discard(awaitable: object) -> None:
    """Close a coroutine that nobody will await, so that Python does not warn about it."""
    if inspect.iscoroutine(awaitable):
        awaitable.close()


def _sentence(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
