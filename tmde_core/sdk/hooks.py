"""Every hook, on one page.

A plugin is a module (or object) named by an entry point in the group `tmde.plugins`. It marks functions with
`tmde_core.hookimpl` and gives them the names below. Each returns a list of descriptors; nothing else happens until
the core asks. A plugin's `pyproject.toml`:

    [project.entry-points."tmde.plugins"]
    my_plugin = "my_plugin.plugin"
"""

from __future__ import annotations

from collections.abc import Sequence

import pluggy

from tmde_core.sdk.judges import JudgeDescriptor
from tmde_core.sdk.registries import RegistryDescriptor
from tmde_core.sdk.runtimes import RuntimeDescriptor
from tmde_core.sdk.suites import SuiteDescriptor
from tmde_core.sdk.training import BackendDescriptor

hookspec = pluggy.HookspecMarker("tmde")

PROJECT = "tmde"
ENTRY_POINT_GROUP = "tmde.plugins"


@hookspec
def tmde_training_backends() -> Sequence[BackendDescriptor]:  # type: ignore[empty-body]
    """Offer ways to train an adapter.

    @hookimpl
    def tmde_training_backends():
        return [BackendDescriptor(name="mine", summary="trains on my cluster", create=MyBackend)]
    """


@hookspec
def tmde_model_runtimes() -> Sequence[RuntimeDescriptor]:  # type: ignore[empty-body]
    """Offer ways to ask a model.

    @hookimpl
    def tmde_model_runtimes():
        return [
            RuntimeDescriptor(
                name="mine",
                summary="talks to my server",
                create=MyRuntime,
                availability=lambda context: Availability(ok=True),
            )
        ]
    """


@hookspec
def tmde_judges() -> Sequence[JudgeDescriptor]:  # type: ignore[empty-body]
    """Offer ways to score an answer.

    @hookimpl
    def tmde_judges():
        return [JudgeDescriptor(name="length", summary="likes short answers", create=LengthJudge)]
    """


@hookspec
def tmde_benchmark_suites() -> Sequence[SuiteDescriptor]:  # type: ignore[empty-body]
    """Offer sets of questions.

    @hookimpl
    def tmde_benchmark_suites():
        return [SuiteDescriptor(name="trivia", summary="ten of them", questions=load_trivia)]
    """


@hookspec
def tmde_registries() -> Sequence[RegistryDescriptor]:  # type: ignore[empty-body]
    """Offer places to share templates.

    @hookimpl
    def tmde_registries():
        return [RegistryDescriptor(name="team", summary="our own registry", create=TeamRegistry)]
    """


HOOKS = (
    "tmde_training_backends",
    "tmde_model_runtimes",
    "tmde_judges",
    "tmde_benchmark_suites",
    "tmde_registries",
)
