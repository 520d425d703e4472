"""Routes that show what a run would train on before it starts, and what was trained on a trace."""

from __future__ import annotations

from typing import Any

import msgspec
from litestar import get, post
from litestar.params import FromPath

from tmde_core.api.web.requests import AnyRequest, Given, decode_body
from tmde_core.api.web.schema import describe_route
from tmde_core.finetune.ranges import decode_config
from tmde_core.records.base import Record
from tmde_core.records.finetune import FineTunePreview, TraceLineage


class PreviewBody(Record):
    """The options of the previewed run that differ from the configuration."""

    config: dict[str, Any] = msgspec.field(default_factory=dict)
    """Fields of FineTuneConfig. Omitted fields keep the configured values."""
    counts_only: bool = False
    """Answer at once with what needs no model: the counts, and what is left out and why."""


@post(
    "/api/finetune/preview",
    status_code=200,
    **describe_route("previewFineTune", "Fine-tuning", body=PreviewBody, errors=(400, 503, 507)),
)
async def preview(request: AnyRequest, services: Given) -> FineTunePreview:
    """Preview a training run: its data, token by token, and the resources it would need. Nothing is started."""
    wanted = await decode_body(request, PreviewBody, optional=True)
    config = decode_config(wanted.config, services.finetune.config())
    return await services.previews.preview(config, counts_only=wanted.counts_only)


@get("/api/traces/{trace_id:str}/lineage", **describe_route("traceLineage", "Traces", errors=(404,)))
async def lineage(trace_id: FromPath[str], services: Given) -> TraceLineage:
    """List the runs and adapters that were trained on a trace."""
    return await services.lineage.find_by_trace(await services.ids.trace(trace_id))


ROUTES = (preview, lineage)
