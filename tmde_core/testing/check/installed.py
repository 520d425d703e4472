"""Provide the contracts to pytest for an installed plugin: one test class for each thing to check.

`tmde_core.testing.check.__main__` adds the classes and then passes this module to pytest.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, cast

import pytest

from tmde_core.plugins import PluginInfo, Plugins, context_for
from tmde_core.sdk.context import MakingDescriptor
from tmde_core.sdk.hooks import HOOKS
from tmde_core.settings import Settings
from tmde_core.testing.check.findings import Target
from tmde_core.testing.check.targets import PLUGIN
from tmde_core.testing.contracts import (
    JudgeContract,
    PluginContract,
    RegistryContract,
    ServedModelContract,
    SuiteContract,
    TrainingBackendContract,
)

Make = Callable[[object], Any]
"""A method that makes the thing under test."""


class Work(NamedTuple):
    """What to check, and the plugins and settings for the check."""

    plugins: Plugins
    plugin: PluginInfo
    targets: tuple[Target, ...]
    settings: Settings
    """The user's settings tables, with a separate data directory."""


def set_classes(work: Work) -> None:
    """Add a test class for each target to this module. The attribute `tmde_target` of a class is its target.

    Raises:
        InvalidInputError: the settings of a target are invalid.
    """
    for name in [name for name in globals() if name.startswith("Test")]:
        del globals()[name]
    for number, target in enumerate(work.targets):
        contract, members = _describe(target, work)
        name = f"Test{number}"
        globals()[name] = type(name, (contract,), {"tmde_target": target, "__module__": __name__, **members})


def _describe(target: Target, work: Work) -> tuple[type, dict[str, Any]]:
    """Return the contract of a target, and the members of the contract's subclass.

    Raises:
        InvalidInputError: the settings of the target are invalid.
    """
    if target.kind == PLUGIN:
        return PluginContract, _plugin(work.plugin)
    hook = next(hook for hook in HOOKS.values() if hook.noun == target.kind)
    descriptor: Any = work.plugins.shelf(hook.descriptor).get(target.name)

    # Suites have no `create` and no settings. An invalid setting is the user's mistake and not a broken rule, so it
    # ends the check.
    context = context_for(descriptor, work.settings) if isinstance(descriptor, MakingDescriptor) else None

    def make(_: object) -> Any:
        return descriptor.create(context)

    contract, members = _CONTRACTS[target.kind]
    return contract, members(descriptor, make, work)


def _plugin(info: PluginInfo) -> dict[str, Any]:
    problems = tuple(problem.detail for problem in info.problems)
    commands_alone = all(one.kind == "command" for one in info.provides) and bool(info.provides)
    return {
        "module": "" if commands_alone else info.module,
        "distribution": info.distribution or "",
        "problems": lambda _: problems,
    }


def _judge(descriptor: Any, make: Make, _: Work) -> dict[str, Any]:
    return {"judge": make, "needs_model": descriptor.needs_model, "checks": descriptor.checks}


def _runtime(descriptor: Any, make: Make, work: Work) -> dict[str, Any]:
    return {
        "runtime": make,
        "availability": lambda _: descriptor.availability(context_for(descriptor, work.settings)),
    }


def _backend(descriptor: Any, make: Make, work: Work) -> dict[str, Any]:
    def tmde_data_dir(_: object) -> Path:
        """Return the data directory that the backend received."""
        return work.settings.data_path

    return {
        "backend": make,
        "name": descriptor.name,
        "tmde_data_dir": pytest.fixture(scope="class")(cast("Any", classmethod(tmde_data_dir))),
    }


def _suite(descriptor: Any, _: Make, __: Work) -> dict[str, Any]:
    return {"suite": lambda _: descriptor}


def _registry(_: Any, make: Make, __: Work) -> dict[str, Any]:
    return {"registry": make}


_CONTRACTS: dict[str, tuple[type, Callable[[Any, Make, Work], dict[str, Any]]]] = {
    "judge": (JudgeContract, _judge),
    "model runtime": (ServedModelContract, _runtime),
    "training backend": (TrainingBackendContract, _backend),
    "benchmark suite": (SuiteContract, _suite),
    "registry": (RegistryContract, _registry),
}
"""Maps a kind to its contract, and to the function that returns the members of the contract's subclass."""
