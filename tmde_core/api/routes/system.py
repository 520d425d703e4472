"""Health, resources, settings."""

from __future__ import annotations

import time
from typing import Any, Literal

from litestar import get, put
from litestar.di import NamedDependency
from litestar.params import SkipValidation

from tmde_core import __version__
from tmde_core.api.web.requests import AnyRequest, Given, body_of
from tmde_core.api.web.schema import described
from tmde_core.records.base import Record
from tmde_core.resources import Resources, read_resources
from tmde_core.settings import Settings
from tmde_core.settings.changing import StoredSettings

Stored = NamedDependency[SkipValidation[StoredSettings]]
STARTED = time.monotonic()


class Health(Record):
    """That the server answers, and what it is doing."""

    status: Literal["ok"]
    version: str
    uptime_seconds: float
    running_debates: int


class SettingsView(Settings, frozen=True):
    """The settings as they are stored; secrets are masked."""

    restart_required: bool = False
    """Something was changed that holds only from the next start on."""


@get("/api/health", sync_to_thread=False, **described("health", "System"))
def health(services: Given) -> Health:
    """Whether the server is well."""
    return Health(
        status="ok",
        version=__version__,
        uptime_seconds=round(time.monotonic() - STARTED, 3),
        running_debates=len(services.debates.running()),
    )


@get("/api/system/resources", **described("resources", "System"))
async def resources(services: Given) -> Resources:
    """Processor, memory, disk and graphics memory."""
    return await read_resources(services.settings.data_path)


@get("/api/settings", sync_to_thread=False, **described("getSettings", "System"))
def settings(stored: Stored) -> SettingsView:
    """The settings as they are stored."""
    return SettingsView(**stored.masked(), restart_required=stored.restart_required)


@put("/api/settings", **described("putSettings", "System", body=Settings, errors=(400, 409, 507)))
async def change_settings(request: AnyRequest, stored: Stored) -> SettingsView:
    """Change settings; those left out stay. All are checked before any is written."""
    await stored.change(await body_of(request, dict[str, Any]))
    return SettingsView(**stored.masked(), restart_required=stored.restart_required)


ROUTES = (health, resources, settings, change_settings)
