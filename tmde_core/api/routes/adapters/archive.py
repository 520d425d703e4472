"""Routes that export and import adapters and ask several adapters one question side by side."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Annotated
from uuid import UUID

from litestar import get, post
from litestar.params import FromPath, QueryParameter
from litestar.response import Stream
from msgspec import Meta

from tmde_core.api.web.disconnect import while_connected
from tmde_core.api.web.multipart import read_file_field
from tmde_core.api.web.requests import AnyRequest, Given, decode_body
from tmde_core.api.web.schema import FORM, describe_route
from tmde_core.api.web.streams import OpenStreams
from tmde_core.lora.archive.layout import ArchiveFormat
from tmde_core.records.base import Record, parse_id
from tmde_core.records.lora import LoRAAdapter
from tmde_core.records.training import Quantization

Format = Annotated[
    ArchiveFormat,
    QueryParameter(
        name="format",
        description=(
            "A .tar.gz in PEFT's layout, the same with adapter_model.bin, one GGUF file, or a .tar with adapter and base model "
            "merged into one GGUF file, and NOTES.md."
        ),
    ),
]

WantedQuantization = Annotated[
    Quantization,
    QueryParameter(
        name="quantization",
        description="How a merged model's weights are stored: each as in the base model, or all as Q8_0 or F16.",
    ),
]

Insisting = Annotated[
    bool,
    QueryParameter(
        name="force",
        description="Export a merged model that is too far from what was merged; false answers with 422 instead.",
    ),
]


Again = Annotated[
    bool,
    QueryParameter(
        name="again", description="Import the adapter also if it is here already; false answers with 409 instead."
    ),
]


SaidBase = Annotated[
    str | None,
    QueryParameter(
        name="base",
        description="The base model to which the adapter belongs, if its own words do not tell. The sizes must fit.",
    ),
]


class AskBody(Record):
    """A question for several versions of the model."""

    question: str
    adapter_ids: Annotated[tuple[str | None, ...], Meta(min_length=1, max_length=4)] = (None,)
    """The ids of the adapters; null stands for the base model."""
    max_tokens: int = 384
    temperature: float = 0.0
    seed: int = 0


class AskStarted(Record):
    """The id of the question, and the URL of the event stream with the answers."""

    ask_id: UUID
    events_url: str


@get(
    "/api/lora/{adapter_id:str}/export",
    **describe_route(
        "exportAdapter",
        "Adapters",
        errors=(400, 404, 422, 502, 503, 507),
        returns=("application/gzip", "application/octet-stream", "application/x-tar"),
    ),
)
async def export(
    adapter_id: FromPath[str],
    request: AnyRequest,
    services: Given,
    format: Format = "peft",  # noqa: A002
    quantization: WantedQuantization = "base",
    force: Insisting = False,
) -> Stream:
    """Export an adapter as one file, streamed.

    A merged model is written and compared before the answer begins, which takes a minute or more. If the client
    disconnects meanwhile, the work is ended.
    """
    identity = await services.ids.adapter(adapter_id)
    made = await while_connected(
        request, services.archives.export(identity, format, quantization=quantization, force=force)
    )
    headers = {
        "Content-Disposition": f'attachment; filename="{made.filename}"',
        "X-Content-Type-Options": "nosniff",
        "Cache-Control": "no-store",
    }
    if made.size_bytes is not None:
        headers["Content-Length"] = str(made.size_bytes)
    return Stream(made.chunks, media_type=made.media_type, headers=headers)


@post(
    "/api/lora/import",
    status_code=201,
    request_max_body_size=None,
    **describe_route("importAdapter", "Adapters", takes=FORM, errors=(400, 404, 409, 413, 415, 422, 507)),
)
async def bring_in(request: AnyRequest, services: Given, again: Again = True, base: SaidBase = None) -> LoRAAdapter:
    """Import an adapter archive, sent as the form field `file`. A failed import leaves nothing behind.

    If an adapter with the same weights and configuration is here already, `twinOf` names it.
    """
    return await services.archives.import_archive(_pieces(request), "api", again=again, base=base)


async def _pieces(request: AnyRequest) -> AsyncIterator[bytes]:
    async for piece in read_file_field(request, "file"):
        yield piece


@post(
    "/api/lora/ask",
    status_code=202,
    **describe_route("askAdapters", "Adapters", body=AskBody, errors=(400, 404, 409, 422)),
)
async def ask(request: AnyRequest, services: Given) -> AskStarted:
    """Ask the base model and adapters the same question at the same time."""
    wanted = await decode_body(request, AskBody)
    versions = [await services.ids.adapter(one) if one is not None else None for one in wanted.adapter_ids]
    identity = await services.ask.ask(
        wanted.question,
        versions,
        max_tokens=wanted.max_tokens,
        temperature=wanted.temperature,
        seed=wanted.seed,
    )
    return AskStarted(ask_id=identity, events_url=f"/api/lora/ask/{identity}/events")


@get("/api/lora/ask/{ask_id:str}/events", **describe_route("watchAsk", "Adapters", errors=(400, 404), stream=True))
async def answers(ask_id: FromPath[str], request: AnyRequest, services: Given, streams: OpenStreams) -> Stream:
    """Stream the answer of each version while it is generated, as server-sent events."""
    return streams.respond(request, services.ask.events(parse_id(ask_id, "question")))


ROUTES = (export, bring_in, ask, answers)
