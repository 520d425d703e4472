"""Routes for adapters: list, show, activate, roll back, tag, compare, verify, delete, and the audit trail."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

from litestar import delete, get, post
from litestar.params import FromPath, FromQuery, QueryParameter

from tmde_core.api.web.requests import AnyRequest, Given, Limit, Listing, Offset, decode_body
from tmde_core.api.web.schema import describe_route
from tmde_core.records.base import Record, to_utc
from tmde_core.records.lora import (
    AdapterComparison,
    AdapterDetails,
    LiveAt,
    LoRAActivationEvent,
    LoRAAdapter,
    StorageFigures,
    Verification,
)


class AdapterList(Listing, frozen=True):
    """A page of adapters, newest first."""

    items: tuple[LoRAAdapter, ...] = ()


class EventList(Listing, frozen=True):
    """A page of the audit trail, newest first."""

    items: tuple[LoRAActivationEvent, ...] = ()


class ActivateBody(Record):
    """Options of an activation."""

    force: bool = False
    """Activate the adapter even if the gate holds it back."""
    base: str | None = None
    """The base model to which it belongs, if TMDE does not see it. The sizes must fit."""


class RollbackBody(Record):
    """The target of a rollback."""

    adapter_id: str | None = None
    """The adapter to roll back to. Omit the field to roll back to the previously active version."""


class TagBody(Record):
    """Tags to add and remove. A tag has 1–40 letters, digits, `-`, `_` and `.`. The tag `stable` prevents deletion."""

    add: tuple[str, ...] = ()
    remove: tuple[str, ...] = ()


class AdapterNameBody(Record):
    """A new name."""

    name: str
    """1–80 characters, on one line."""


class PruneBody(Record):
    """Which adapters to keep."""

    keep: int
    """How many of the newest adapters to keep, 0 or more. The active adapter, the previous one and adapters tagged
    `stable` are always kept."""
    dry_run: bool = False
    """Only report which adapters would be deleted."""


class Pruned(Record):
    """The adapters that were deleted, or that would be deleted in a dry run."""

    deleted: tuple[LoRAAdapter, ...]
    bytes: int
    dry_run: bool


When = Annotated[
    datetime | None, QueryParameter(name="at", description="ISO 8601, at best with a zone; without one, UTC.")
]
First = Annotated[str, QueryParameter(name="a", description="An adapter's id: from this one.")]
Second = Annotated[str, QueryParameter(name="b", description="An adapter's id: to this one.")]


@get("/api/lora", **describe_route("listAdapters", "Adapters", errors=(400,)))
async def listing(
    services: Given,
    tag: FromQuery[str | None] = None,
    valid: FromQuery[bool | None] = None,
    limit: Limit = 50,
    offset: Offset = 0,
) -> AdapterList:
    """List adapters, newest first."""
    found = await services.lora.list(tag, valid)
    return AdapterList(items=tuple(found[offset : offset + limit]), total=len(found))


@get("/api/lora/active", **describe_route("activeAdapter", "Adapters"))
async def active(services: Given) -> LoRAAdapter | None:
    """Return the active adapter, or null if the base model answers, also because the active adapter is damaged."""
    adapter = await services.lora.get_active()
    return adapter if adapter is not None and adapter.is_answering else None


@get("/api/lora/events", **describe_route("adapterEvents", "Adapters", errors=(400,)))
async def events(services: Given, limit: Limit = 50, offset: Offset = 0) -> EventList:
    """List the events of the audit trail, newest first."""
    found = await services.lora.list_events(limit, offset)
    return EventList(items=tuple(found), total=await services.lora.count_events())


@get("/api/lora/live", **describe_route("adapterLiveAt", "Adapters", errors=(400,)))
async def live(services: Given, at: When = None) -> LiveAt:
    """Return which adapter was active at a given time; without a time, which is active now."""
    return await services.lora.find_active_at(to_utc(at, "at") if at else datetime.now(UTC))


@get("/api/lora/storage", **describe_route("adapterStorage", "Adapters"))
async def storage(services: Given) -> StorageFigures:
    """Return how much disk space the adapters use."""
    return await services.lora.measure_storage()


@get("/api/lora/compare", **describe_route("compareAdapters", "Adapters", errors=(400, 404, 422)))
async def compare(services: Given, a: First, b: Second) -> AdapterComparison:
    """Compare two adapters: what changed from A to B in configuration, data, metrics and benchmark."""
    return await services.lora.compare(await services.ids.adapter(a), await services.ids.adapter(b))


@post(
    "/api/lora/prune",
    status_code=200,
    **describe_route("pruneAdapters", "Adapters", body=PruneBody, errors=(400, 409, 507)),
)
async def prune(request: AnyRequest, services: Given) -> Pruned:
    """Delete all adapters except the newest ones."""
    wanted = await decode_body(request, PruneBody)
    gone = await services.lora.prune(wanted.keep, "api", wanted.dry_run)
    return Pruned(deleted=tuple(gone), bytes=sum(one.size_bytes for one in gone), dry_run=wanted.dry_run)


@post(
    "/api/lora/rollback",
    status_code=200,
    **describe_route("rollbackAdapter", "Adapters", body=RollbackBody, errors=(400, 404, 409, 422)),
)
async def rollback(request: AnyRequest, services: Given) -> LoRAAdapter | None:
    """Roll back to the previously active version, or to the named adapter. The answer null is the base model."""
    wanted = await decode_body(request, RollbackBody, optional=True)
    target = await services.ids.adapter(wanted.adapter_id) if wanted.adapter_id is not None else None
    return await services.lora.rollback(target)


@post("/api/lora/deactivate", status_code=200, **describe_route("deactivateAdapter", "Adapters", errors=(409,)))
async def deactivate(services: Given) -> None:
    """Deactivate the active adapter, so that the base model answers."""
    await services.lora.deactivate("api")


@get("/api/lora/{adapter_id:str}", **describe_route("getAdapter", "Adapters", errors=(404,)))
async def show(adapter_id: FromPath[str], services: Given) -> AdapterDetails:
    """Return one adapter, its origin, and its events."""
    return await services.lora.get_details(await services.ids.adapter(adapter_id))


@delete(
    "/api/lora/{adapter_id:str}", status_code=200, **describe_route("deleteAdapter", "Adapters", errors=(404, 409, 507))
)
async def remove(adapter_id: FromPath[str], services: Given) -> LoRAAdapter:
    """Delete an adapter from the disk completely and return the deleted adapter."""
    adapter = await services.lora.get(await services.ids.adapter(adapter_id))
    await services.lora.delete(adapter.id, "api")
    return adapter


@post(
    "/api/lora/{adapter_id:str}/tag",
    status_code=200,
    **describe_route("tagAdapter", "Adapters", body=TagBody, errors=(400, 404, 422, 507)),
)
async def tag(adapter_id: FromPath[str], request: AnyRequest, services: Given) -> LoRAAdapter:
    """Add tags to an adapter and remove tags from it."""
    identity = await services.ids.adapter(adapter_id)
    wanted = await decode_body(request, TagBody)
    return await services.lora.tag(identity, wanted.add, wanted.remove)


@post(
    "/api/lora/{adapter_id:str}/name",
    status_code=200,
    **describe_route("nameAdapter", "Adapters", body=AdapterNameBody, errors=(400, 404, 422, 507)),
)
async def rename(adapter_id: FromPath[str], request: AnyRequest, services: Given) -> LoRAAdapter:
    """Give an adapter another name. Its training run keeps its name."""
    identity = await services.ids.adapter(adapter_id)
    return await services.lora.rename(identity, (await decode_body(request, AdapterNameBody)).name)


@post(
    "/api/lora/{adapter_id:str}/verify", status_code=200, **describe_route("verifyAdapter", "Adapters", errors=(404,))
)
async def verify(adapter_id: FromPath[str], services: Given) -> Verification:
    """Read every byte of an adapter and compare it with the manifest. A damaged adapter also gets status 200."""
    return await services.lora.verify(await services.ids.adapter(adapter_id))


@post(
    "/api/lora/{adapter_id:str}/activate",
    status_code=200,
    **describe_route("activateAdapter", "Adapters", body=ActivateBody, errors=(400, 404, 409, 422)),
)
async def activate(adapter_id: FromPath[str], request: AnyRequest, services: Given) -> LoRAAdapter:
    """Activate an adapter. Debates that start later use it. A failed activation changes nothing."""
    identity = await services.ids.adapter(adapter_id)
    wanted = await decode_body(request, ActivateBody, optional=True)
    return await services.lora.activate(identity, "api", wanted.force, wanted.base)


ROUTES = (
    listing,
    active,
    events,
    live,
    storage,
    compare,
    prune,
    rollback,
    deactivate,
    show,
    remove,
    activate,
    tag,
    rename,
    verify,
)
