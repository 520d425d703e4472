"""What `auto` stands for: the runtime and the backend that a plugin marks as the default."""

from __future__ import annotations

import msgspec

from tmde_core.plugins.catalog import Plugins
from tmde_core.records.finetune import FineTuneConfig
from tmde_core.sdk.hooks import AUTO
from tmde_core.settings import Roles, RoleSettings, Settings

ROLES = ("proposer", "skeptic", "synthesizer", "judge")


def resolve_roles(settings: Settings, plugins: Plugins) -> Settings:
    """Return the settings with the default runtime in place of `auto`; without a default runtime `auto` stays."""
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
    """Return the hyperparameters with a backend's name in place of `auto`.

    Raises:
        InvalidInputError: there is no such backend, or `auto` and no plugin offers a default one.
    """
    return msgspec.structs.replace(config, backend=plugins.backends.choose(config.backend, "backend").name)
