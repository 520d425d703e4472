"""Defines every hook, on one page.

A plugin is a module (or object) named by an entry point in the group `tmde.plugins`. The plugin marks functions with
`tmde_core.sdk.hookimpl` and gives them the names below. A *provider* hook takes no arguments and returns a list of
descriptors. The core creates a described object only when it is needed. The *observer* hook is called with events.
A plugin's `pyproject.toml`:

    [project.entry-points."tmde.plugins"]
    my_plugin = "my_plugin.plugin"

A plugin's own commands are also entry points, so that `tmde --help` can list them without importing them. The name is
the word after `tmde`. The value names a function or a `typer.Typer`, as described in `tmde_core.sdk.commands`:

    [project.entry-points."tmde.commands"]
    my-word = "my_plugin.commands:command"

`HOOKS` is built from the functions below. A new provider hook needs one function here, and a descriptor.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeVar

import pluggy

from tmde_core.sdk.context import Descriptor, PluginContext, PluginSettings
from tmde_core.sdk.events import Event
from tmde_core.sdk.judges import JudgeDescriptor
from tmde_core.sdk.registries import RegistryDescriptor
from tmde_core.sdk.runtimes import RuntimeDescriptor
from tmde_core.sdk.suites import SuiteDescriptor
from tmde_core.sdk.training import BackendDescriptor

__all__ = [
    "AUTO",
    "COMMAND_GROUP",
    "ENTRY_POINT_GROUP",
    "HOOKS",
    "OBSERVER",
    "PROJECT",
    "Hook",
    "tmde_benchmark_suites",
    "tmde_event",
    "tmde_judges",
    "tmde_model_runtimes",
    "tmde_registries",
    "tmde_training_backends",
]

PROJECT = "tmde"
"""The name of TMDE's hooks in pluggy."""
ENTRY_POINT_GROUP = "tmde.plugins"
"""The entry-point group of plugins."""
COMMAND_GROUP = "tmde.commands"
"""The entry-point group of plugins' commands."""

hookspec = pluggy.HookspecMarker(PROJECT)

F = TypeVar("F", bound=Callable[..., object])


class Hook(NamedTuple):
    """The description of a provider hook."""

    name: str
    """The name of the function that a plugin defines."""
    noun: str
    """The name of this kind of object in a sentence."""
    descriptor: type[Descriptor]
    """The type of the descriptors that the hook returns."""
    table: str = ""
    """The table of `tmde.toml` that holds the settings: `[TABLE.NAME]`. Empty: this kind of object has no settings."""
    reserved: frozenset[str] = frozenset()
    """Names that no object of this kind may have, because they have a meaning in the settings."""


HOOKS: dict[str, Hook] = {}
"""Every provider hook, by name."""

OBSERVER = "tmde_event"
"""The name of the observer hook."""

AUTO = "auto"
"""The value in the settings that selects the default object of a kind."""


def _provider(
    noun: str, descriptor: type[Descriptor], *, table: str = "", reserved: frozenset[str] = frozenset()
) -> Callable[[F], F]:
    """Add the decorated function to `HOOKS`."""

    def enter(function: F) -> F:
        HOOKS[function.__name__] = Hook(function.__name__, noun, descriptor, table, reserved)
        return hookspec(function)

    return enter


@_provider("training backend", BackendDescriptor, table="backends", reserved=frozenset({AUTO}))
def tmde_training_backends() -> Sequence[BackendDescriptor]:  # type: ignore[empty-body]
    """Offer ways to train an adapter.

    @hookimpl
    def tmde_training_backends():
        return [BackendDescriptor(name="mine", summary="trains on my cluster", create=MyBackend)]
    """


@_provider("model runtime", RuntimeDescriptor, table="runtimes", reserved=frozenset({AUTO}))
def tmde_model_runtimes() -> Sequence[RuntimeDescriptor]:  # type: ignore[empty-body]
    """Offer ways to ask a model.

    @hookimpl
    def tmde_model_runtimes():
        return [
            RuntimeDescriptor(
                name="mine",
                summary="talks to my server",
                settings=MySettings,
                create=MyRuntime,
                availability=lambda context: Availability(ok=True),
            )
        ]
    """


@_provider("judge", JudgeDescriptor, table="judges", reserved=frozenset({AUTO, "none"}))
def tmde_judges() -> Sequence[JudgeDescriptor]:  # type: ignore[empty-body]
    """Offer ways to score an answer.

    @hookimpl
    def tmde_judges():
        return [JudgeDescriptor(name="length", summary="likes short answers", create=LengthJudge)]
    """


@_provider("benchmark suite", SuiteDescriptor)
def tmde_benchmark_suites() -> Sequence[SuiteDescriptor]:  # type: ignore[empty-body]
    """Offer sets of questions.

    @hookimpl
    def tmde_benchmark_suites():
        return [SuiteDescriptor(name="trivia", summary="ten of them", questions=load_trivia)]
    """


@_provider("registry", RegistryDescriptor, table="registries")
def tmde_registries() -> Sequence[RegistryDescriptor]:  # type: ignore[empty-body]
    """Offer places to share templates.

    @hookimpl
    def tmde_registries():
        return [RegistryDescriptor(name="team", summary="our own registry", create=TeamRegistry)]
    """


@hookspec
def tmde_event(event: Event, context: PluginContext[PluginSettings]) -> None:
    """Receive an event: a debate ended, a run finished, an adapter was activated, a benchmark decided.

    TMDE calls this hook in a separate thread of the plugin, one event at a time, in every process in which TMDE runs:
    the server, and a command that itself ends a debate or a run. The hook may take its time. Its exceptions are
    recorded as problems of the plugin and do not affect others. An observer that falls too far behind misses events.
    Omit `context` if you do not need the data directory or the logger.

    @hookimpl
    def tmde_event(event, context):
        if isinstance(event, RunFinished):
            context.log.info("run finished", run=str(event.run_id), status=event.status)
    """
