"""Debates: ask, watch, look, cancel."""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

from litestar import delete, get, post
from litestar.params import FromPath
from litestar.response import Stream
from msgspec import Meta

from tmde_core.api.web.requests import AnyRequest, Given, body_of
from tmde_core.api.web.schema import described
from tmde_core.api.web.streams import OpenStreams
from tmde_core.records.base import Record, parse_id
from tmde_core.records.debate import Debate, DebateConfig


class DebateBody(Record):
    """A question, and what this debate does otherwise than the settings say."""

    query: Annotated[str, Meta(description="1 byte to 32 KiB of UTF-8.")]
    config: DebateConfig = DebateConfig()


class DebateStarted(Record):
    """Where to watch the debate that was started."""

    debate_id: UUID
    events_url: str


@post("/api/debates", status_code=202, **described("startDebate", "Debates", body=DebateBody, errors=(400, 503)))
async def start(request: AnyRequest, services: Given) -> DebateStarted:
    """Start a debate."""
    asked = await body_of(request, DebateBody)
    debate = await services.debates.start(asked.query, asked.config)
    return DebateStarted(debate_id=debate.id, events_url=f"/api/debates/{debate.id}/events")


@get("/api/debates/{debate_id:str}", **described("getDebate", "Debates", errors=(404,)))
async def show(debate_id: FromPath[str], services: Given) -> Debate:
    """Status, rounds so far, final answer, trace id."""
    return await services.debates.get(parse_id(debate_id, "debate"))


@get("/api/debates/{debate_id:str}/events", **described("watchDebate", "Debates", errors=(400, 404, 409), stream=True))
async def watch(debate_id: FromPath[str], request: AnyRequest, services: Given, streams: OpenStreams) -> Stream:
    """Everything that happens in the debate, as it happens: server-sent events."""
    return streams.respond(request, await services.debates.events(parse_id(debate_id, "debate")))


@delete("/api/debates/{debate_id:str}", status_code=200, **described("cancelDebate", "Debates", errors=(404, 409)))
async def cancel(debate_id: FromPath[str], services: Given) -> Debate:
    """Cancel a running debate; it leaves no trace."""
    return await services.debates.cancel(parse_id(debate_id, "debate"))


ROUTES = (start, show, watch, cancel)
