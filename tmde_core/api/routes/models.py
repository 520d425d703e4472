"""Routes for models and the runtimes that serve them."""

from __future__ import annotations

from litestar import get

from tmde_core.api.web.requests import Given, Listing
from tmde_core.api.web.schema import describe_route
from tmde_core.records.runtimes import ModelInfo
from tmde_core.runtimes import RuntimeReport


class ModelList(Listing, frozen=True):
    """The models that a role of the debate can use."""

    items: tuple[ModelInfo, ...] = ()
    runtimes: tuple[RuntimeReport, ...] = ()
    """Every runtime. A runtime that serves nothing at the moment is listed with the reason."""


@get("/api/models", **describe_route("listModels", "System"))
async def listing(services: Given) -> ModelList:
    """List the models of every available runtime."""
    found = await services.runtimes.models()
    return ModelList(items=tuple(found), total=len(found), runtimes=tuple(await services.runtimes.reports()))


ROUTES = (listing,)
