"""Routes for the Python environments of training backends."""

from __future__ import annotations

import asyncio

from litestar import delete, get, post
from litestar.params import FromPath, FromQuery
from litestar.types import ControllerRouterHandler

from tmde_core.api.web.requests import AnyRequest, Given, Listing, decode_body
from tmde_core.api.web.schema import describe_route
from tmde_core.backends.progress import Installation
from tmde_core.backends.service import BackendDetails, BackendEnvironment
from tmde_core.plugins.defaults import BackendChoice
from tmde_core.records.base import Record
from tmde_core.sdk.environments import ProbeReport


class BackendEnvironmentList(Listing, frozen=True):
    """The training backends, with their environments."""

    items: tuple[BackendEnvironment, ...] = ()
    auto: BackendChoice | None = None
    """The backend that `auto` selects now, and why; null: there is none."""


class InstallBody(Record):
    """Which packages to install."""

    build: str = "auto"
    """`auto`: those that fit the driver; else the name of one of `builds`."""


class RemovedEnvironment(Record):
    """What the removal of an environment freed."""

    freed_bytes: int


@get("/api/backends", sync_to_thread=True, **describe_route("listBackendEnvironments", "Fine-tuning"))
def listing(services: Given) -> BackendEnvironmentList:
    """List the training backends: their environments, what works there, and which one `auto` selects. Nothing is run."""
    found = services.backends.list()
    return BackendEnvironmentList(items=tuple(found), total=len(found), auto=services.backends.choice())


@get(
    "/api/backends/{name:str}",
    sync_to_thread=True,
    **describe_route("getBackendEnvironment", "Fine-tuning", errors=(400, 404)),
)
def show(name: FromPath[str], services: Given, build: FromQuery[str] = "auto") -> BackendDetails:
    """Return one training backend, with its last report, its installation, and what an installation would do."""
    return services.backends.details(name, build)


@post(
    "/api/backends/{name:str}/install",
    status_code=202,
    **describe_route("installBackend", "Fine-tuning", body=InstallBody, errors=(400, 404, 409, 503, 507)),
)
async def install(name: FromPath[str], request: AnyRequest, services: Given) -> Installation:
    """Install the environment of a backend in the background, or continue an installation that stopped.

    The installation ends with the server, and can be continued. Ask `GET /api/backends/{name}` to follow it.
    """
    await _require(services, name)
    wanted = await decode_body(request, InstallBody, optional=True)
    return await services.installations.start(name, wanted.build)


@delete(
    "/api/backends/{name:str}/installation",
    status_code=200,
    **describe_route("cancelBackendInstallation", "Fine-tuning", errors=(404, 409, 507)),
)
async def cancel(name: FromPath[str], services: Given) -> Installation:
    """Cancel an installation, also if another process runs it. What was fetched is kept, so that it can go on later."""
    await _require(services, name)
    return await services.installations.cancel(name)


@post(
    "/api/backends/{name:str}/doctor",
    status_code=200,
    **describe_route("examineBackend", "Fine-tuning", errors=(400, 404, 503)),
)
async def doctor(name: FromPath[str], services: Given) -> ProbeReport:
    """Examine the environment of a backend with the backend's own probe, and keep the report."""
    await _require(services, name)
    return await services.backends.doctor(name)


@delete(
    "/api/backends/{name:str}/environment",
    status_code=200,
    **describe_route("removeBackendEnvironment", "Fine-tuning", errors=(400, 404, 409)),
)
async def remove(name: FromPath[str], services: Given) -> RemovedEnvironment:
    """Delete the environment of a backend. Adapters and runs stay."""
    await _require(services, name)
    return RemovedEnvironment(freed_bytes=await services.backends.remove(name))


async def _require(services: Given, name: str) -> None:
    """Answer 404 if there is no such backend."""
    await asyncio.to_thread(services.backends.find, name)


ROUTES: tuple[ControllerRouterHandler, ...] = (listing, show, install, cancel, doctor, remove)
