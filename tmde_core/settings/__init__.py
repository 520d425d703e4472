"""All settings: their definitions, their sources, and the notification of changes.

- `schema`: the structs that describe each setting, and the environment variables
- `reading`: builds `Settings` from the file, the environment and the flags
- `live`: `LiveSettings`, through which a running process reads and changes settings
- `file`: changes `tmde.toml` and keeps its comments
"""

from tmde_core.settings.live import Check, LiveSettings
from tmde_core.settings.reading import default_data_dir, load_settings
from tmde_core.settings.schema import (
    ENVIRONMENT,
    MAX_QUERY_BYTES,
    PLUGIN_TABLES,
    SETTINGS_FILE,
    BenchmarkSettings,
    DebateSettings,
    NotifySettings,
    Roles,
    RoleSettings,
    ScheduleSettings,
    Settings,
    SupervisorSettings,
)

__all__ = [
    "ENVIRONMENT",
    "MAX_QUERY_BYTES",
    "PLUGIN_TABLES",
    "SETTINGS_FILE",
    "BenchmarkSettings",
    "Check",
    "DebateSettings",
    "LiveSettings",
    "NotifySettings",
    "RoleSettings",
    "Roles",
    "ScheduleSettings",
    "Settings",
    "SupervisorSettings",
    "default_data_dir",
    "load_settings",
]
