"""Routes for models and the runtimes that serve them."""

from __future__ import annotations

from litestar import delete, get, post
from litestar.params import FromQuery
from litestar.types import ControllerRouterHandler

from tmde_core.api.web.requests import AnyRequest, Given, Listing, decode_body
from tmde_core.api.web.schema import describe_route
from tmde_core.models.belonging import count_adapters
from tmde_core.models.service import ModelTest
from tmde_core.records.base import Record
from tmde_core.records.models import BaseModel
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
    found = await services.runtimes.models()
    return ModelList(items=tuple(found), total=len(found), runtimes=tuple(await services.runtimes.reports()))


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
    bases = await services.models.list() if name is None else [await services.models.find(name)]
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


ROUTES: tuple[ControllerRouterHandler, ...] = (listing, base_models, suggestions, add, remove, test)
