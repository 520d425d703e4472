"""Resolves `auto` to the runtime and the backend that a plugin marks as the default."""

from __future__ import annotations

import msgspec

from tmde_core.plugins.catalog import Plugins
from tmde_core.records.finetune import FineTuneConfig
from tmde_core.sdk.hooks import AUTO
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


def resolve_backend(config: FineTuneConfig, plugins: Plugins) -> FineTuneConfig:
    """Return the hyperparameters with `auto` replaced by the name of the default backend.

    Raises:
        InvalidInputError: the backend does not exist, or it is `auto` and no plugin offers a default backend.
    """
    return msgspec.structs.replace(config, backend=plugins.backends.choose(config.backend, "backend").name)
