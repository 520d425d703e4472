"""What a run would train on, before time is spent; and what a trace has taught."""

from __future__ import annotations

from typing import Any

import msgspec
from litestar import get, post
from litestar.params import FromPath

from tmde_core.api.web.requests import AnyRequest, Given, body_of
from tmde_core.api.web.schema import described
from tmde_core.finetune.ranges import config_from
from tmde_core.records.base import Record, parse_id
from tmde_core.records.finetune import FineTunePreview, TraceLineage


class PreviewBody(Record):
    """What the run would do otherwise than the configuration says."""

    config: dict[str, Any] = msgspec.field(default_factory=dict)
    """Fields of FineTuneConfig; those left out are as configured."""


@post(
    "/api/finetune/preview",
    status_code=200,
    **described("previewFineTune", "Fine-tuning", body=PreviewBody, errors=(400, 503, 507)),
)
async def preview(request: AnyRequest, services: Given) -> FineTunePreview:
    """What a run would be trained on, token by token, and what it would need; starts nothing."""
    wanted = await body_of(request, PreviewBody, optional=True)
    return await services.previews.preview(config_from(wanted.config, services.finetune.config()))


@get("/api/traces/{trace_id:str}/lineage", **described("traceLineage", "Traces", errors=(404,)))
async def lineage(trace_id: FromPath[str], services: Given) -> TraceLineage:
    """The runs and adapters that learned from a trace."""
    return await services.lineage.of_trace(parse_id(trace_id, "trace"))


ROUTES = (preview, lineage)
