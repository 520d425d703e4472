"""Routes for models and the runtimes that serve them."""

from __future__ import annotations

import asyncio

from litestar import delete, get, post
from litestar.params import FromPath, FromQuery
from litestar.types import ControllerRouterHandler

from tmde_core.api.web.requests import AnyRequest, Given, Listing, decode_body
from tmde_core.api.web.schema import describe_route
from tmde_core.models.belonging import count_adapters
from tmde_core.models.service import ModelTest
from tmde_core.records.base import Record
from tmde_core.records.models import BaseModel
from tmde_core.records.pulls import Pull, PullPlan, PullRequest
from tmde_core.records.runtimes import ModelInfo
from tmde_core.records.suggestions import Suggestions
from tmde_core.runtimes import RuntimeReport


class ModelList(Listing, frozen=True):
    """The models that a role of the debate can use."""

    items: tuple[ModelInfo, ...] = ()
    runtimes: tuple[RuntimeReport, ...] = ()
    """Every runtime. A runtime that serves nothing at the moment is listed with the reason."""


@get("/api/models", **describe_route("listModels", "System"))
async def listing(services: Given) -> ModelList:
    """List the models of every available runtime."""
    found, reports = await asyncio.gather(services.runtimes.models(quick=True), services.runtimes.reports())
    return ModelList(items=tuple(found), total=len(found), runtimes=tuple(reports))


class BaseModelList(Listing, frozen=True):
    """The base models, the Proposer's first."""

    items: tuple[BaseModel, ...] = ()


class AddedModel(Record):
    """A model that is here already."""

    target: str
    """The path of a GGUF file or of a directory of safetensors, or `RUNTIME:MODEL`."""
    name: str | None = None
    """The base model to which it belongs; null: named after the target."""


class RemovedModel(Record):
    """What a removal freed."""

    freed_bytes: int


class ModelQuestion(Record):
    """The model to try: a base model, or a form of it as `RUNTIME:MODEL`."""

    name: str | None = None
    """Null: the Proposer's model."""


@get("/api/base-models", **describe_route("listBaseModels", "System", errors=(404,)))
async def base_models(services: Given, name: FromQuery[str | None] = None) -> BaseModelList:
    """List the base models with their forms, or find the one that `name` means."""
    bases = await services.models.list(quick=True) if name is None else [await services.models.find(name)]
    found = count_adapters(bases, [one.base_model for one in await services.lora.list()])
    return BaseModelList(items=tuple(found), total=len(found))


@get("/api/base-models/suggestions", **describe_route("suggestBaseModels", "System"))
async def suggestions(services: Given) -> Suggestions:
    """List known models with how they fit this machine, for answering and for training. Nothing is fetched."""
    return await services.models.suggest()


@post(
    "/api/base-models",
    status_code=201,
    **describe_route("addBaseModel", "System", errors=(400, 404, 409, 507), body=AddedModel),
)
async def add(request: AnyRequest, services: Given) -> BaseModel:
    """Make a model that is here already a form of a base model. Nothing is copied."""
    wanted = await decode_body(request, AddedModel)
    return await services.models.add(wanted.target, wanted.name)


@delete("/api/base-models", status_code=200, **describe_route("removeBaseModel", "System", errors=(400, 404, 409)))
async def remove(services: Given, name: FromQuery[str]) -> RemovedModel:
    """Delete a base model and the files that TMDE fetched for it. Files that were only added are left where they are."""
    return RemovedModel(freed_bytes=await services.models.remove(name))


@post(
    "/api/base-models/test",
    status_code=200,
    **describe_route("testModel", "System", errors=(400, 404, 409, 502, 503), body=ModelQuestion),
)
async def test(request: AnyRequest, services: Given) -> ModelTest:
    """Ask a model one short question and measure its speed."""
    wanted = await decode_body(request, ModelQuestion, optional=True)
    return await services.models.try_model(*await services.models.find_form(wanted.name))


class PullList(Listing, frozen=True):
    """The pulls of the last day, the newest first."""

    items: tuple[Pull, ...] = ()


@post(
    "/api/base-models/pulls/plan",
    status_code=200,
    **describe_route("planPull", "System", errors=(400, 401, 403, 404, 409, 422, 429, 502, 503, 507), body=PullRequest),
)
async def plan_pull(request: AnyRequest, services: Given) -> PullPlan:
    """Ask the hub what a pull would fetch: files, sizes, licence. Nothing is fetched."""
    return await services.pulls.plan(await decode_body(request, PullRequest))


@post(
    "/api/base-models/pulls",
    status_code=202,
    **describe_route(
        "startPull", "System", errors=(400, 401, 403, 404, 409, 422, 429, 502, 503, 507), body=PullRequest
    ),
)
async def start_pull(request: AnyRequest, services: Given) -> Pull:
    """Fetch a base model from the hub, or continue an interrupted pull. The pull ends with the server."""
    return await services.pulls.start(await decode_body(request, PullRequest))


@get("/api/base-models/pulls", **describe_route("listPulls", "System"))
async def list_pulls(services: Given) -> PullList:
    """List the pulls of the last day, the newest first, with their progress."""
    found = await services.pulls.list()
    return PullList(items=tuple(found), total=len(found))


@get("/api/base-models/pulls/{pull_id:str}", **describe_route("getPull", "System", errors=(404,)))
async def get_pull(pull_id: FromPath[str], services: Given) -> Pull:
    """Return a pull with its progress. Ask again to follow it."""
    return await services.pulls.get(pull_id)


@delete(
    "/api/base-models/pulls/{pull_id:str}",
    status_code=200,
    **describe_route("cancelPull", "System", errors=(404, 409)),
)
async def cancel_pull(pull_id: FromPath[str], services: Given) -> Pull:
    """Cancel a pull. What was fetched is kept, and the same pull continues from there."""
    return await services.pulls.cancel(pull_id)


class DiscardedPull(Record):
    """What the deletion of an unfinished pull freed."""

    freed_bytes: int


@delete(
    "/api/base-models/pulls/{pull_id:str}/files",
    status_code=200,
    **describe_route("discardPull", "System", errors=(404, 409)),
)
async def discard_pull(pull_id: FromPath[str], services: Given) -> DiscardedPull:
    """Delete what an unfinished pull has left on the disk, and the pull with it. `pull_id` may be the model's name."""
    return DiscardedPull(freed_bytes=await services.pulls.discard(pull_id))


ROUTES: tuple[ControllerRouterHandler, ...] = (
    plan_pull,
    start_pull,
    list_pulls,
    get_pull,
    cancel_pull,
    discard_pull,
    listing,
    base_models,
    suggestions,
    add,
    remove,
    test,
)
