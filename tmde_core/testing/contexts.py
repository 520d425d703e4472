"""Make contexts for tests: the argument of a plugin's `create`, with settings that TMDE has validated."""

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
        settings: the type of the plugin's settings. Omit it if the plugin has none.
        data_dir: the data directory.
        table: the name of the settings table in errors.
        values: the settings that differ from their defaults.

    Raises:
        InvalidInputError: a setting is unknown, or a value has the wrong type or range.
    """
    return PluginContext(Path(data_dir), read_settings(values, settings or PluginSettings, table))
