"""Adapters: list, look, activate, go back, and who did what when."""

from __future__ import annotations

from litestar import get, post
from litestar.params import FromPath, FromQuery

from tmde_core.api.requests import AnyRequest, Given, Limit, Listing, Offset, body_of
from tmde_core.api.schema import described
from tmde_core.lora.records import LoRAActivationEvent, LoRAAdapter
from tmde_core.record import Record, parse_id


class AdapterList(Listing, frozen=True):
    """A page of adapters, newest first."""

    items: tuple[LoRAAdapter, ...] = ()


class EventList(Listing, frozen=True):
    """The newest entries of the audit trail."""

    items: tuple[LoRAActivationEvent, ...] = ()


class ActivateBody(Record):
    """How to activate."""

    force: bool = False
    """Activate although the gate holds the adapter back."""


class RollbackBody(Record):
    """Where to go back to."""

    adapter_id: str | None = None
    """Left out: to what answered before."""


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
async def events(services: Given, limit: Limit = 50) -> EventList:
    """The audit trail, newest first."""
    found = await services.lora.events(limit)
    return EventList(items=tuple(found), total=len(found))


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
async def show(adapter_id: FromPath[str], services: Given) -> LoRAAdapter:
    """One adapter."""
    return await services.lora.get(parse_id(adapter_id, "adapter"))


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


ROUTES = (listing, active, events, rollback, deactivate, show, activate)
