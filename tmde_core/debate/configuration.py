"""Applies a debate's own configuration to the settings."""

from __future__ import annotations

import msgspec

from tmde_core.records.debate import DebateConfig
from tmde_core.settings import DebateSettings

OVERRIDES = ("min_rounds", "max_rounds", "accept_score", "templates", "synthesis", "judge")
"""The settings that a single debate can override."""


def override(settings: DebateSettings, config: DebateConfig) -> DebateSettings:
    """Return the settings with the debate's own choices applied."""
    chosen = {name: value for name in OVERRIDES if (value := getattr(config, name)) is not None}
    return msgspec.structs.replace(settings, **chosen)
