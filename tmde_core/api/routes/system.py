"""Routes for health, resources and settings."""

from __future__ import annotations

import time
from typing import Any, Literal

from litestar import get, put

from tmde_core import __version__
from tmde_core.api.web.requests import AnyRequest, Given, decode_body
from tmde_core.api.web.schema import describe_route
from tmde_core.records.base import Record
from tmde_core.resources import Resources, read_resources
from tmde_core.settings import LiveSettings, Settings

STARTED = time.monotonic()


class Health(Record):
    """Confirms that the server answers, and reports what the server is doing."""

    status: Literal["ok"]
    """The server answers. `problems` may still say that it does not answer as you want."""
    version: str
    uptime_seconds: float
    running_debates: int
    problems: tuple[str, ...] = ()
    """What does not work, a sentence each: an active adapter that is damaged, or that the Proposer's runtime cannot
    serve; a model that is paused while a training run uses the graphics card."""


class SettingsView(Settings, frozen=True):
    """The stored settings, with secrets masked."""

    restart_required: bool = False
    """True if a change takes effect only after a restart."""


@get("/api/health", sync_to_thread=False, **describe_route("health", "System"))
def health(services: Given) -> Health:
    """Return the health of the server."""
    problems = []
    if (flaw := services.lora.find_active_flaw()) is not None:
        problems.append(f"The active adapter is damaged, so the base model answers. {flaw}")
    elif (active := services.lora.get_active_ref()) and (idle := services.workspace.find_why_idle(active)):
        problems.append(f"An adapter is active, but does not answer. {idle}")
    if (paused := services.workspace.find_why_paused()) is not None:
        problems.append(paused)
    return Health(
        status="ok",
        version=__version__,
        uptime_seconds=round(time.monotonic() - STARTED, 3),
        running_debates=len(services.debates.running()),
        problems=tuple(problems),
    )


@get("/api/system/resources", **describe_route("resources", "System"))
async def resources(services: Given) -> Resources:
    """Return the use of processor, memory, disk and graphics memory."""
    return await read_resources(services.settings.data_path)


@get("/api/settings", sync_to_thread=False, **describe_route("getSettings", "System"))
def settings(services: Given) -> SettingsView:
    """Return the stored settings."""
    services.live.reread()
    return _viewed(services.live)


@put("/api/settings", **describe_route("putSettings", "System", body=Settings, errors=(400, 409, 507)))
async def change_settings(request: AnyRequest, services: Given) -> SettingsView:
    """Change settings. Omitted settings keep their values. All values are checked before any is written."""
    values = await decode_body(request, dict[str, Any])
    values.pop("restartRequired", None)  # GET returns this field; clients may send the whole answer back with changes
    await services.live.change(values)
    return _viewed(services.live)


def _viewed(live: LiveSettings) -> SettingsView:
    return SettingsView(**live.masked(), restart_required=live.restart_required)


ROUTES = (health, resources, settings, change_settings)
