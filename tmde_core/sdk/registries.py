"""Template registries: the descriptor of a client."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from tmde_core.records.base import Record

__all__ = ["RegistryDescriptor"]


class RegistryDescriptor(Record):
    """A template registry client that a plugin offers (its port comes with the registry)."""

    name: str
    summary: str
    create: Callable[[Mapping[str, Any]], Any]
