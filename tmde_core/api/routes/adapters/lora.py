"""Adapters: list, look, activate, go back, tag, compare, verify, delete, and who did what when."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

from litestar import delete, get, post
from litestar.params import FromPath, FromQuery, QueryParameter

from tmde_core.api.web.requests import AnyRequest, Given, Limit, Listing, Offset, body_of
from tmde_core.api.web.schema import described
from tmde_core.records.base import Record, in_utc, parse_id
from tmde_core.records.lora import (
    AdapterDetails,
    Comparison,
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
    """How to activate."""

    force: bool = False
    """Activate although the gate holds the adapter back."""


class RollbackBody(Record):
    """Where to go back to."""

    adapter_id: str | None = None
    """Left out: to what answered before."""


class TagBody(Record):
    """Tags to put on and take off: 1–40 of letters, digits, `-`, `_` and `.`. `stable` protects from deletion."""

    add: tuple[str, ...] = ()
    remove: tuple[str, ...] = ()


class PruneBody(Record):
    """What to keep."""

    keep: int
    """So many of the newest stay, 0 or more; the active one, the one before it and those tagged `stable` always do."""
    dry_run: bool = False
    """Only say which would go."""


class Pruned(Record):
    """What was deleted, or would be."""

    deleted: tuple[LoRAAdapter, ...]
    bytes: int
    dry_run: bool


When = Annotated[
    datetime | None, QueryParameter(name="at", description="ISO 8601, at best with a zone; without one, UTC.")
]
First = Annotated[str, QueryParameter(name="a", description="An adapter's id: from this one.")]
Second = Annotated[str, QueryParameter(name="b", description="An adapter's id: to this one.")]


@get("/api/lora", **described("listAdapters", "Adapters", errors=(400,)))
async def listing(
    services: Given,
    tag: FromQuery[str | None] = None,
    valid: FromQuery[bool | None] = None,
    limit: Limit = 50,
    offset: Offset = 0,
) -> AdapterList:
    """Adapters, newest first."""
    found = await services.lora.list(tag, valid)
    return AdapterList(items=tuple(found[offset : offset + limit]), total=len(found))


@get("/api/lora/active", **described("activeAdapter", "Adapters"))
async def active(services: Given) -> LoRAAdapter | None:
    """The adapter that answers; null when the base model does."""
    return await services.lora.active()


@get("/api/lora/events", **described("adapterEvents", "Adapters", errors=(400,)))
async def events(services: Given, limit: Limit = 50, offset: Offset = 0) -> EventList:
    """The audit trail, newest first."""
    found = await services.lora.events(limit, offset)
    return EventList(items=tuple(found), total=await services.lora.count_events())


@get("/api/lora/live", **described("adapterLiveAt", "Adapters", errors=(400,)))
async def live(services: Given, at: When = None) -> LiveAt:
    """What answered at a moment; without one, what answers now."""
    return await services.lora.live_at(in_utc(at, "at") if at else datetime.now(UTC))


@get("/api/lora/storage", **described("adapterStorage", "Adapters"))
async def storage(services: Given) -> StorageFigures:
    """What the adapters take of the disk."""
    return await services.lora.storage()


@get("/api/lora/compare", **described("compareAdapters", "Adapters", errors=(400, 404, 422)))
async def compare(services: Given, a: First, b: Second) -> Comparison:
    """What changed from A to B: configuration, data, metrics, benchmark."""
    return await services.lora.compare(parse_id(a, "adapter"), parse_id(b, "adapter"))


@post(
    "/api/lora/prune", status_code=200, **described("pruneAdapters", "Adapters", body=PruneBody, errors=(400, 409, 507))
)
async def prune(request: AnyRequest, services: Given) -> Pruned:
    """Delete all but the newest adapters."""
    wanted = await body_of(request, PruneBody)
    gone = await services.lora.prune(wanted.keep, "api", wanted.dry_run)
    return Pruned(deleted=tuple(gone), bytes=sum(one.size_bytes for one in gone), dry_run=wanted.dry_run)


@post(
    "/api/lora/rollback",
    status_code=200,
    **described("rollbackAdapter", "Adapters", body=RollbackBody, errors=(400, 404, 409, 422)),
)
async def rollback(request: AnyRequest, services: Given) -> LoRAAdapter | None:
    """Go back to what answered before, or to the adapter named; null is the base model."""
    wanted = await body_of(request, RollbackBody, optional=True)
    target = parse_id(wanted.adapter_id, "adapter") if wanted.adapter_id is not None else None
    return await services.lora.rollback(target)


@post("/api/lora/deactivate", status_code=200, **described("deactivateAdapter", "Adapters", errors=(409,)))
async def deactivate(services: Given) -> None:
    """Let the base model answer."""
    await services.lora.deactivate("api")


@get("/api/lora/{adapter_id:str}", **described("getAdapter", "Adapters", errors=(404,)))
async def show(adapter_id: FromPath[str], services: Given) -> AdapterDetails:
    """One adapter, where it came from, and what was done with it."""
    return await services.lora.details(parse_id(adapter_id, "adapter"))


@delete("/api/lora/{adapter_id:str}", status_code=200, **described("deleteAdapter", "Adapters", errors=(404, 409, 507)))
async def remove(adapter_id: FromPath[str], services: Given) -> LoRAAdapter:
    """Remove an adapter from the disk, completely; answers with what was removed."""
    adapter = await services.lora.get(parse_id(adapter_id, "adapter"))
    await services.lora.delete(adapter.id, "api")
    return adapter


@post(
    "/api/lora/{adapter_id:str}/tag",
    status_code=200,
    **described("tagAdapter", "Adapters", body=TagBody, errors=(400, 404, 422, 507)),
)
async def tag(adapter_id: FromPath[str], request: AnyRequest, services: Given) -> LoRAAdapter:
    """Put tags on an adapter and take tags off it."""
    identity = parse_id(adapter_id, "adapter")
    wanted = await body_of(request, TagBody)
    return await services.lora.tag(identity, wanted.add, wanted.remove)


@post("/api/lora/{adapter_id:str}/verify", status_code=200, **described("verifyAdapter", "Adapters", errors=(404,)))
async def verify(adapter_id: FromPath[str], services: Given) -> Verification:
    """Read every byte of an adapter and compare it with its manifest; 200 whether it is sound or not."""
    return await services.lora.verify(parse_id(adapter_id, "adapter"))


@post(
    "/api/lora/{adapter_id:str}/activate",
    status_code=200,
    **described("activateAdapter", "Adapters", body=ActivateBody, errors=(400, 404, 409, 422)),
)
async def activate(adapter_id: FromPath[str], request: AnyRequest, services: Given) -> LoRAAdapter:
    """Make the adapter answer from the next debate on; all or nothing."""
    identity = parse_id(adapter_id, "adapter")
    wanted = await body_of(request, ActivateBody, optional=True)
    return await services.lora.activate(identity, "api", wanted.force)


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
    verify,
)
