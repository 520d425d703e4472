"""Resolves `auto` to the runtime that a plugin marks as the default, and to the best backend that works here."""

from __future__ import annotations

import msgspec

from tmde_core.plugins.catalog import Plugins
from tmde_core.plugins.making import context_for, create
from tmde_core.plugins.records import describe_error
from tmde_core.records.base import Record
from tmde_core.records.finetune import FineTuneConfig
from tmde_core.records.runtimes import Availability
from tmde_core.sdk.environments import Environment
from tmde_core.sdk.hooks import AUTO
from tmde_core.sdk.training import BackendDescriptor, RecommendingBackend, TrainingBackend
from tmde_core.settings import Roles, RoleSettings, Settings

ROLES = ("proposer", "skeptic", "synthesizer", "judge")


def resolve_roles(settings: Settings, plugins: Plugins) -> Settings:
    """Return the settings with `auto` replaced by the default runtime; `auto` stays if there is no default runtime."""
    default = plugins.runtimes.default()
    roles: dict[str, RoleSettings] = {name: getattr(settings.roles, name) for name in ROLES}
    if default is None or all(role.runtime != AUTO for role in roles.values()):
        return settings
    resolved = {
        name: msgspec.structs.replace(role, runtime=default.name) if role.runtime == AUTO else role
        for name, role in roles.items()
    }
    return msgspec.structs.replace(settings, roles=Roles(**resolved))


class BackendChoice(Record, frozen=True):
    """The backend that `auto` selects."""

    name: str
    why: str
    """One or more sentences: why this one, and why no preferred one."""


def resolve_backend(config: FineTuneConfig, plugins: Plugins, settings: Settings) -> FineTuneConfig:
    """Return the hyperparameters with `auto` replaced by the name of the best backend.

    Raises:
        InvalidInputError: the backend does not exist, or it is `auto` and no plugin offers a default backend.
    """
    name = config.backend
    if name == AUTO and (chosen := choose_backend(plugins, settings)) is not None:
        name = chosen.name
    return msgspec.structs.replace(config, backend=plugins.backends.choose(name, "backend").name)


def choose_backend(plugins: Plugins, settings: Settings) -> BackendChoice | None:
    """Return the backend that `auto` selects: the most preferred one that works here, else the default one.

    Backends answer from what their probes found last, so this is quick.
    """
    default = plugins.backends.default()
    passed: list[str] = []
    preferred = sorted((one for one in plugins.backends if one.preference > 0), key=lambda one: -one.preference)
    for descriptor in preferred:
        found = _recommendation(descriptor, settings)
        if found.ok:
            return BackendChoice(descriptor.name, " ".join([found.reason or "It works here.", *passed]).strip())
        passed.append(f"Not {descriptor.name}: {found.reason}")
    if default is None:
        return None
    return BackendChoice(default.name, " ".join(["It is the default one.", *passed]))


def _recommendation(descriptor: BackendDescriptor, settings: Settings) -> Availability:
    try:
        spec = descriptor.environment_spec
        if spec and Environment.of(context_for(descriptor, settings), descriptor.name, spec).awaits_installation:
            return Availability(ok=False, reason="Its packages are not installed yet.")
        backend: TrainingBackend = create(descriptor, settings)
        return backend.recommendation() if isinstance(backend, RecommendingBackend) else backend.availability()
    except Exception as error:  # a defect in one plugin must not keep the others from being chosen
        return Availability(ok=False, reason=describe_error(error))
