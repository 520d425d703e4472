"""Contexts for tests: what a plugin's `create` is given, with settings that are validated as TMDE validates them."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

from tmde_core.plugins.making import read_settings
from tmde_core.sdk.context import PluginContext, PluginSettings

S = TypeVar("S", bound=PluginSettings)


def make_context(
    settings: type[S] | None = None, data_dir: Path | str = "", *, table: str = "runtimes.test", **values: Any
) -> PluginContext[Any]:
    """Return a context.

    Args:
        settings: the type of the plugin's settings; left out, it has none.
        data_dir: the data directory.
        table: what errors call the settings table.
        values: the settings that differ from their defaults.

    Raises:
        InvalidInputError: an unknown setting, or a value of the wrong type or range.
    """
    return PluginContext(Path(data_dir), read_settings(values, settings or PluginSettings, table))
