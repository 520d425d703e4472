"""Template registries: the descriptor of a client."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tmde_core.sdk.context import MakingDescriptor, PluginContext

__all__ = ["RegistryDescriptor"]


class RegistryDescriptor(MakingDescriptor, frozen=True, kw_only=True):
    """A client of a template registry that a plugin offers. Its settings table is `[registries.NAME]`.

    The client's protocol will be added together with the registry. Until then, nothing calls `create`.
    """

    create: Callable[[PluginContext[Any]], Any]
    """Creates the client."""
