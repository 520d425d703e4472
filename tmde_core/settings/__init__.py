"""All settings: what can be set, where it comes from, and who is told when it changes.

- `schema`: the structs, with what describes each setting, and the environment variables
- `reading`: file, environment and flags become `Settings`
- `live`: `LiveSettings`, which a running process reads and changes them through
- `file`: the change of `tmde.toml`, which keeps comments
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
