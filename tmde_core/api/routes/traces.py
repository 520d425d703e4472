"""Routes for traces: list, show, rate, withdraw, delete, import and export them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Annotated
from uuid import UUID

import msgspec
from litestar import delete, get, post
from litestar.params import FromPath, FromQuery, QueryParameter
from litestar.response import Stream

from tmde_core.api.web.requests import AnyRequest, Given, Limit, Listing, decode_body, require_type
from tmde_core.api.web.schema import describe_route
from tmde_core.errors import TooLargeError
from tmde_core.records.base import Record
from tmde_core.records.traces import Deletion, ImportReport, Rating, Trace, TraceFilter, TraceStats
from tmde_core.storage.text_files import split_lines

IMPORT_BYTES = 4 * 1024**3
"""The largest import, enough for some million traces. The import reads line by line, so the limit protects the disk,
not the memory."""

NDJSON = "application/x-ndjson"
IMPORT_TYPES = (NDJSON, "application/jsonl", "application/json", "text/plain", "application/octet-stream", "")


class TraceView(Trace, frozen=True):
    """A trace with the quality score that counts for training."""

    quality_score: float | None = None
    """The user's rating if there is one, otherwise the judge's score."""


class TraceList(Listing, frozen=True):
    """A page of traces, newest first."""

    items: tuple[TraceView, ...] = ()


class RateBody(Record):
    """A user's rating of an answer."""

    rating: Rating
    corrected_answer: str | None = None
    """A corrected answer. Training uses it instead of the original answer, which is kept."""


class CorrectBody(Record):
    """What the answer should have been."""

    corrected_answer: str
    """Training uses it instead of the original answer, which is kept. Blank text removes the correction."""


class WithdrawBody(Record):
    """The reason why a trace must not be used for training."""

    reason: str


class DeleteBody(Record):
    """The traces to delete, 1–200."""

    ids: tuple[str, ...]


class WithdrawalView(Record):
    """The withdrawn trace, and the runs and adapters that were trained on it."""

    trace: TraceView
    runs: tuple[UUID, ...]
    adapters: tuple[UUID, ...]


def viewed(trace: Trace) -> TraceView:
    """Return the trace as the API shows it."""
    return TraceView(**msgspec.structs.asdict(trace), quality_score=trace.quality_score)


@get("/api/traces", **describe_route("listTraces", "Traces", errors=(400,)))
async def listing(
    services: Given,
    limit: Limit = 50,
    cursor: FromQuery[str | None] = None,
    q: Annotated[
        str | None, QueryParameter(description="Words that query or answer hold; the last may be a beginning.")
    ] = None,
    min_quality: Annotated[float | None, QueryParameter(name="minQuality", ge=0, le=10)] = None,
    rated: FromQuery[bool | None] = None,
    eligible: FromQuery[bool | None] = None,
    source: Annotated[str | None, QueryParameter(description="api, cli, ui, import, loop or benchmark.")] = None,
) -> TraceList:
    """Search and page through the traces, newest first."""
    wanted = TraceFilter(q=q, min_quality=min_quality, rated=rated, eligible=eligible, source=source)
    page = await services.traces.list(wanted, limit, cursor)
    return TraceList(items=tuple(map(viewed, page.items)), total=page.total, next_cursor=page.next_cursor)


@get("/api/traces/stats", **describe_route("traceStats", "Traces"))
async def stats(services: Given) -> TraceStats:
    """Return counts of traces: total, eligible, rated, by domain, and since the last training run."""
    return await services.traces.stats()


@get("/api/traces/export", media_type=NDJSON, **describe_route("exportTraces", "Traces", returns=NDJSON))
async def export(services: Given) -> Stream:
    """Export every trace, one per line. The export can be imported again unchanged."""
    return Stream(
        services.traces.export_jsonl(),
        media_type=NDJSON,
        headers={"Content-Disposition": 'attachment; filename="traces.jsonl"'},
    )


@post(
    "/api/traces/import",
    status_code=200,
    request_max_body_size=None,
    **describe_route("importTraces", "Traces", takes=NDJSON, errors=(400, 413, 415, 507)),
)
async def bring_in(
    request: AnyRequest,
    services: Given,
    again: Annotated[bool, QueryParameter(description="Store copies of traces that are already here.")] = False,
) -> ImportReport:
    """Import traces, one per line.

    Invalid lines, and lines whose traces are already here, are reported by number and skipped; the others are stored.
    """
    require_type(request, IMPORT_TYPES, NDJSON)
    declared = request.headers.get("content-length", "0")
    if declared.isdigit() and int(declared) > IMPORT_BYTES:
        raise _too_large()
    return await services.traces.import_jsonl(split_lines(_bounded(request.stream())), copies=again)


async def _bounded(chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    size = 0
    async for chunk in chunks:
        size += len(chunk)
        if size > IMPORT_BYTES:
            raise _too_large()
        yield chunk


def _too_large() -> TooLargeError:
    return TooLargeError(
        f"An import may have at most {IMPORT_BYTES // 1024**3} GiB; split the file.", limit=IMPORT_BYTES
    )


@get("/api/traces/{trace_id:str}", **describe_route("getTrace", "Traces", errors=(404,)))
async def show(trace_id: FromPath[str], services: Given) -> TraceView:
    """Return a trace with its rounds, models, adapter, templates, timings and scores."""
    return viewed(await services.traces.get(await services.ids.trace(trace_id)))


@post(
    "/api/traces/{trace_id:str}/rate",
    status_code=200,
    **describe_route("rateTrace", "Traces", body=RateBody, errors=(400, 404)),
)
async def rate(trace_id: FromPath[str], request: AnyRequest, services: Given) -> TraceView:
    """Rate an answer from 1 to 10, and optionally correct it."""
    identity = await services.ids.trace(trace_id)
    given = await decode_body(request, RateBody)
    return viewed(await services.traces.rate(identity, given.rating, given.corrected_answer))


@post(
    "/api/traces/{trace_id:str}/correct",
    status_code=200,
    **describe_route("correctTrace", "Traces", body=CorrectBody, errors=(400, 404)),
)
async def correct(trace_id: FromPath[str], request: AnyRequest, services: Given) -> TraceView:
    """Correct an answer without rating it. The correction is trained on, whatever the score of the original answer."""
    identity = await services.ids.trace(trace_id)
    given = await decode_body(request, CorrectBody)
    return viewed(await services.traces.correct(identity, given.corrected_answer))


@post(
    "/api/traces/{trace_id:str}/withdraw",
    status_code=200,
    **describe_route("withdrawTrace", "Traces", body=WithdrawBody, errors=(400, 404)),
)
async def withdraw(trace_id: FromPath[str], request: AnyRequest, services: Given) -> WithdrawalView:
    """Exclude a trace from all further training and name the runs and adapters that were trained on it."""
    identity = await services.ids.trace(trace_id)
    given = await decode_body(request, WithdrawBody)
    done = await services.traces.withdraw(identity, given.reason)
    return WithdrawalView(trace=viewed(done.trace), runs=done.runs, adapters=done.adapters)


@delete("/api/traces/{trace_id:str}", status_code=200, **describe_route("deleteTrace", "Traces", errors=(404,)))
async def remove(trace_id: FromPath[str], services: Given) -> Deletion:
    """Delete a trace with its debate, and name the runs and adapters that were trained on it."""
    return await services.traces.delete([await services.ids.trace(trace_id)])


@post(
    "/api/traces/delete",
    status_code=200,
    **describe_route("deleteTraces", "Traces", body=DeleteBody, errors=(400, 404)),
)
async def remove_several(request: AnyRequest, services: Given) -> Deletion:
    """Delete up to 200 traces: all of them, or none if one does not exist."""
    given = await decode_body(request, DeleteBody)
    return await services.traces.delete([await services.ids.trace(one) for one in given.ids])


ROUTES = (listing, stats, export, bring_in, show, rate, correct, withdraw, remove, remove_several)
