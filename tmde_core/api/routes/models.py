"""Models, and the runtimes that serve them."""

from __future__ import annotations

from litestar import get

from tmde_core.api.web.requests import Given, Listing
from tmde_core.api.web.schema import described
from tmde_core.records.runtimes import ModelInfo
from tmde_core.runtimes import RuntimeReport


class ModelList(Listing, frozen=True):
    """What can be named as a role's model."""

    items: tuple[ModelInfo, ...] = ()
    runtimes: tuple[RuntimeReport, ...] = ()
    """Every runtime, also those that serve nothing at the moment, with the reason."""


@get("/api/models", **described("listModels", "System"))
async def listing(services: Given) -> ModelList:
    """The models of every runtime that answers."""
    found = await services.runtimes.models()
    return ModelList(items=tuple(found), total=len(found), runtimes=tuple(await services.runtimes.reports()))


ROUTES = (listing,)
