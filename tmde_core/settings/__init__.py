"""All settings: what can be set, where it comes from, and who is told when it changes."""

from tmde_core.settings.reading import (
    ENVIRONMENT,
    MAX_QUERY_BYTES,
    SETTINGS_FILE,
    BenchmarkSettings,
    DebateSettings,
    NotifySettings,
    Roles,
    RoleSettings,
    ScheduleSettings,
    Settings,
    SupervisorSettings,
    default_data_dir,
    load_settings,
)

__all__ = [
    "ENVIRONMENT",
    "MAX_QUERY_BYTES",
    "SETTINGS_FILE",
    "BenchmarkSettings",
    "DebateSettings",
    "NotifySettings",
    "RoleSettings",
    "Roles",
    "ScheduleSettings",
    "Settings",
    "SupervisorSettings",
    "default_data_dir",
    "load_settings",
]
