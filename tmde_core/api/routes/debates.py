"""Routes for debates: start, watch, show and cancel them."""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

from litestar import delete, get, post
from litestar.params import FromPath
from litestar.response import Stream
from msgspec import Meta, structs

from tmde_core.api.web.requests import AnyRequest, Given, decode_body
from tmde_core.api.web.schema import describe_route
from tmde_core.api.web.streams import OpenStreams
from tmde_core.records.base import Record
from tmde_core.records.debate import Debate, DebateConfig


class DebateOptions(DebateConfig, frozen=True):
    """The options of one debate. Missing values come from the settings."""

    follows: str | None = None  # type: ignore[assignment]  # a short id is no UUID yet
    """The trace that this question follows up. The models see its question and answer, and those before it."""


class DebateBody(Record):
    """A question, and the options of this debate that differ from the settings."""

    query: Annotated[str, Meta(description="1 byte to 32 KiB of UTF-8.")]
    config: DebateOptions = DebateOptions()


class DebateStarted(Record):
    """The id of the started debate, and the URL of its event stream."""

    debate_id: UUID
    events_url: str


@post(
    "/api/debates", status_code=202, **describe_route("startDebate", "Debates", body=DebateBody, errors=(400, 404, 503))
)
async def start(request: AnyRequest, services: Given) -> DebateStarted:
    """Start a debate."""
    asked = await decode_body(request, DebateBody)
    options = structs.asdict(asked.config)
    if asked.config.follows is not None:
        options["follows"] = await services.ids.trace(asked.config.follows)
    debate = await services.debates.start(asked.query, DebateConfig(**options))
    return DebateStarted(debate_id=debate.id, events_url=f"/api/debates/{debate.id}/events")


@get("/api/debates/{debate_id:str}", **describe_route("getDebate", "Debates", errors=(404,)))
async def show(debate_id: FromPath[str], services: Given) -> Debate:
    """Return a debate: its status, the rounds so far, the final answer and the id of its trace."""
    return await services.debates.get(await services.ids.debate(debate_id))


@get(
    "/api/debates/{debate_id:str}/events",
    **describe_route("watchDebate", "Debates", errors=(400, 404, 409), stream=True),
)
async def watch(debate_id: FromPath[str], request: AnyRequest, services: Given, streams: OpenStreams) -> Stream:
    """Stream the events of a debate as server-sent events."""
    return streams.respond(request, await services.debates.events(await services.ids.debate(debate_id)))


@delete("/api/debates/{debate_id:str}", status_code=200, **describe_route("cancelDebate", "Debates", errors=(404, 409)))
async def cancel(debate_id: FromPath[str], services: Given) -> Debate:
    """Cancel a running debate. A cancelled debate stores no trace."""
    return await services.debates.cancel(await services.ids.debate(debate_id))


ROUTES = (start, show, watch, cancel)
