"""Health, resources, settings."""

from __future__ import annotations

import time
from typing import Any, Literal

from litestar import get, put

from tmde_core import __version__
from tmde_core.api.web.requests import AnyRequest, Given, body_of
from tmde_core.api.web.schema import described
from tmde_core.records.base import Record
from tmde_core.resources import Resources, read_resources
from tmde_core.settings import LiveSettings, Settings

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
def settings(services: Given) -> SettingsView:
    """The settings as they are stored."""
    return _viewed(services.live)


@put("/api/settings", **described("putSettings", "System", body=Settings, errors=(400, 409, 507)))
async def change_settings(request: AnyRequest, services: Given) -> SettingsView:
    """Change settings; those left out stay. All are checked before any is written."""
    values = await body_of(request, dict[str, Any])
    values.pop(
        "restartRequired", None
    )  # stands in what GET answers, so that the whole answer may be sent back, changed
    await services.live.change(values)
    return _viewed(services.live)


def _viewed(live: LiveSettings) -> SettingsView:
    return SettingsView(**live.masked(), restart_required=live.restart_required)


ROUTES = (health, resources, settings, change_settings)
