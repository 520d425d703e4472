"""Routes for benchmarks: run, watch, show, compare and export them, and manage their questions."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import datetime
from typing import Annotated, Any, Literal
from uuid import UUID

import msgspec
from litestar import delete, get, post, put
from litestar.params import FromPath, FromQuery, QueryParameter
from litestar.response import Response, Stream
from msgspec import Meta

from tmde_core.api.web.requests import AnyRequest, Given, Limit, Listing, Offset, decode_body
from tmde_core.api.web.schema import describe_route
from tmde_core.api.web.streams import OpenStreams
from tmde_core.benchmark.questions.custom import decode_question
from tmde_core.benchmark.results.export import csv_lines
from tmde_core.benchmark.results.report import report_html
from tmde_core.benchmark.running.scoring import AnswerScore
from tmde_core.errors import InvalidInputError, NotFoundError
from tmde_core.records.base import Record, to_json, to_utc
from tmde_core.records.benchmark import (
    BenchmarkMode,
    BenchmarkPlan,
    BenchmarkQuestion,
    BenchmarkResult,
    BenchmarkRun,
    BenchmarkRunStatus,
    BenchmarkSummary,
    GateDecision,
    QuestionBody,
    RunComparison,
    RunType,
)

CSV = "text/csv"

From = Annotated[datetime | None, QueryParameter(name="from", description="Begun at this time or later, ISO 8601.")]
To = Annotated[datetime | None, QueryParameter(name="to", description="Begun at this time or earlier, ISO 8601.")]
AdapterId = Annotated[str | None, QueryParameter(name="adapterId")]


class BenchmarkBody(Record):
    """The plan of a benchmark run."""

    type: RunType
    question_ids: tuple[str, ...] = ()
    """The ids of the questions; only for the type `custom`."""
    suite: str = ""
    mode: BenchmarkMode = "debate"
    adapter_id: str | None = None
    """The adapter to measure. Omit the field to measure the active version."""
    base: bool = False
    """Measure the base model."""
    repeats: Annotated[int, Meta(ge=1, le=10)] | None = None
    seed: Annotated[int, Meta(ge=0, le=2**31 - 1)] = 42
    judge: str = ""


class BenchmarkStarted(Record):
    """The id and status of the started run, and the URL of its progress stream."""

    run_id: UUID
    status: BenchmarkRunStatus
    progress_url: str


class BenchmarkList(Listing, frozen=True):
    """A page of runs, newest first."""

    items: tuple[BenchmarkRun, ...] = ()


class ResultList(Listing, frozen=True):
    """A page of answers, ordered by question."""

    items: tuple[BenchmarkResult, ...] = ()


class QuestionList(Listing, frozen=True):
    """A list of questions."""

    items: tuple[BenchmarkQuestion, ...] = ()


class DecisionList(Listing, frozen=True):
    """The decisions of the gate, newest first."""

    items: tuple[GateDecision, ...] = ()


class GateBody(Record):
    """The adapter that the gate measures."""

    adapter_id: str
    full: bool = False
    """Ask all questions twice instead of the ten quick questions once."""


class DryRunBody(Record):
    """A question, and an answer to run its checks on."""

    question: dict[str, Any]
    answer: str


@post(
    "/api/benchmark",
    status_code=202,
    **describe_route("startBenchmark", "Benchmarks", body=BenchmarkBody, errors=(400, 404, 409, 422, 502, 503)),
)
async def start(request: AnyRequest, services: Given) -> BenchmarkStarted:
    """Start a benchmark run in the background. Debates take precedence over its questions."""
    wanted = await decode_body(request, BenchmarkBody)
    values = msgspec.structs.asdict(wanted)
    values["adapter_id"] = await services.ids.adapter(wanted.adapter_id) if wanted.adapter_id is not None else None
    values["question_ids"] = await services.ids.list_questions(wanted.question_ids)
    run = await services.benchmark.start(BenchmarkPlan(**values))
    return BenchmarkStarted(run_id=run.id, status=run.status, progress_url=f"/api/benchmark/{run.id}/progress")


@get("/api/benchmark", **describe_route("listBenchmarks", "Benchmarks", errors=(400, 404)))
async def listing(
    services: Given,
    limit: Limit = 50,
    offset: Offset = 0,
    from_: From = None,
    to: To = None,
    adapter_id: AdapterId = None,
    type_: Annotated[RunType | None, QueryParameter(name="type")] = None,
    status: FromQuery[BenchmarkRunStatus | None] = None,
    mode: FromQuery[BenchmarkMode | None] = None,
) -> BenchmarkList:
    """List benchmark runs, newest first."""
    adapter = await _adapter(services, adapter_id)
    begin, last = _utc(from_, "from"), _utc(to, "to")
    items, total = await services.benchmark.list(limit, offset, begin, last, adapter, type_, status, mode)
    return BenchmarkList(items=tuple(items), total=total)


@get("/api/benchmark/summary", **describe_route("benchmarkSummary", "Benchmarks", errors=(400, 404)))
async def summary(
    services: Given,
    from_: From = None,
    to: To = None,
    adapter_id: AdapterId = None,
    type_: Annotated[RunType | None, QueryParameter(name="type")] = None,
    mode: FromQuery[BenchmarkMode | None] = None,
) -> BenchmarkSummary:
    """Return the dashboard's data: the series, and the newest run compared with the previous one and its baseline."""
    return await services.benchmark.summarise(
        _utc(from_, "from"), _utc(to, "to"), await _adapter(services, adapter_id), mode, type_
    )


@get("/api/benchmark/compare", **describe_route("compareBenchmarks", "Benchmarks", errors=(400, 404, 409)))
async def compare(services: Given, a: FromQuery[str], b: FromQuery[str]) -> RunComparison:
    """Compare run B with run A, paired by question, with 95 % intervals."""
    return await services.benchmark.compare(await services.ids.benchmark(a), await services.ids.benchmark(b))


@get(
    "/api/benchmark/export",
    **describe_route("exportBenchmarks", "Benchmarks", returns=("application/json", CSV), errors=(400,)),
)
async def export(
    services: Given,
    format_: Annotated[Literal["json", "csv"], QueryParameter(name="format")] = "json",
    from_: From = None,
    to: To = None,
) -> Stream:
    """Export every run with its answers, as JSON or CSV."""
    exported = await services.benchmark.export_runs(_utc(from_, "from"), _utc(to, "to"))

    async def content() -> AsyncIterator[bytes]:
        if format_ == "csv":
            for line in csv_lines(exported):
                yield line
        else:
            yield to_json({"items": exported, "total": len(exported)})

    return Stream(
        content(),
        media_type=CSV if format_ == "csv" else "application/json",
        headers={"Content-Disposition": f'attachment; filename="benchmarks.{format_}"'},
    )


@get("/api/benchmark/questions", **describe_route("listQuestions", "Benchmarks", errors=(400, 404)))
async def questions(
    services: Given,
    domain: FromQuery[str | None] = None,
    difficulty: FromQuery[str | None] = None,
    suite: FromQuery[str | None] = None,
) -> QuestionList:
    """List the questions of all suites, including the user's own questions."""
    found = await services.benchmark.questions(domain, difficulty, suite)
    return QuestionList(items=tuple(found), total=len(found))


@post(
    "/api/benchmark/questions",
    status_code=201,
    **describe_route("addQuestion", "Benchmarks", body=QuestionBody, errors=(400, 409)),
)
async def add_question(request: AnyRequest, services: Given) -> BenchmarkQuestion:
    """Add a question of the user's own."""
    given = await decode_body(request, dict[str, Any])
    return await services.benchmark.add_question(decode_question(given))


@post(
    "/api/benchmark/questions/dry-run",
    status_code=200,
    **describe_route("tryQuestion", "Benchmarks", body=DryRunBody, errors=(400,)),
)
async def dry_run(request: AnyRequest, services: Given) -> AnswerScore:
    """Run a question's automatic checks on an answer. Nothing is stored."""
    given = await decode_body(request, DryRunBody)
    return await services.benchmark.dry_run(decode_question(given.question), given.answer)


@put(
    "/api/benchmark/questions/{question_id:str}",
    **describe_route("replaceQuestion", "Benchmarks", body=QuestionBody, errors=(400, 404, 409)),
)
async def replace_question(request: AnyRequest, question_id: FromPath[str], services: Given) -> BenchmarkQuestion:
    """Replace one of the user's own questions as a whole, in one step. Runs that asked the earlier version keep it."""
    given = await decode_body(request, dict[str, Any])
    question_id = await services.ids.question(question_id)
    if given.setdefault("id", question_id) != question_id:
        raise InvalidInputError("id: it is another one than the address names. A question keeps its id.", field="id")
    return await services.benchmark.replace_question(decode_question(given))


@delete(
    "/api/benchmark/questions/{question_id:str}",
    status_code=200,
    **describe_route("removeQuestion", "Benchmarks", errors=(404, 409)),
)
async def remove_question(question_id: FromPath[str], services: Given) -> None:
    """Delete one of the user's own questions. Runs that asked the question keep it."""
    await services.benchmark.remove_question(await services.ids.question(question_id))


@post(
    "/api/benchmark/gate",
    status_code=202,
    **describe_route("judgeAdapter", "Benchmarks", body=GateBody, errors=(400, 404)),
)
async def judge(request: AnyRequest, services: Given) -> None:
    """Measure an adapter against the base model and the active adapter in the background, and decide whether to activate it.

    The decision appears in the list of decisions and as a notification.
    """
    wanted = await decode_body(request, GateBody)
    await services.gate.begin(await services.ids.adapter(wanted.adapter_id), wanted.full)


@get("/api/benchmark/gate", **describe_route("gateDecisions", "Benchmarks", errors=(400, 404)))
async def gate(services: Given, limit: Limit = 20, adapter_id: AdapterId = None) -> DecisionList:
    """List the gate's decisions on new adapters, with the reasons."""
    found = await services.gate.decisions(limit, await _adapter(services, adapter_id))
    return DecisionList(items=tuple(found), total=len(found))


@get("/api/benchmark/{run_id:str}", **describe_route("getBenchmark", "Benchmarks", errors=(404,)))
async def show(run_id: FromPath[str], services: Given) -> BenchmarkRun:
    """Return one benchmark run."""
    return await services.benchmark.get(await services.ids.benchmark(run_id))


@get("/api/benchmark/{run_id:str}/results", **describe_route("benchmarkResults", "Benchmarks", errors=(400, 404)))
async def results(run_id: FromPath[str], services: Given, limit: Limit = 50, offset: Offset = 0) -> ResultList:
    """List the answers of a run."""
    items, total = await services.benchmark.results(await services.ids.benchmark(run_id), limit, offset)
    return ResultList(items=tuple(items), total=total)


@get(
    "/api/benchmark/{run_id:str}/progress",
    **describe_route("watchBenchmark", "Benchmarks", errors=(400, 404, 409), stream=True),
)
async def progress(run_id: FromPath[str], request: AnyRequest, services: Given, streams: OpenStreams) -> Stream:
    """Stream the progress of a run as server-sent events."""
    return streams.respond(request, await services.benchmark.events(await services.ids.benchmark(run_id)))


@get(
    "/api/benchmark/{run_id:str}/report",
    **describe_route("benchmarkReport", "Benchmarks", errors=(404, 409), returns="text/html"),
)
async def report(run_id: FromPath[str], services: Given) -> Response[bytes]:
    """Return the run as one HTML file that opens offline."""
    identity = await services.ids.benchmark(run_id)
    content = (await report_html(services.benchmark, identity)).encode()
    return Response(
        content,
        media_type="text/html",
        headers={"Content-Disposition": f'attachment; filename="benchmark-{str(identity)[:8]}.html"'},
    )


@post(
    "/api/benchmark/{run_id:str}/resume",
    status_code=202,
    **describe_route("resumeBenchmark", "Benchmarks", errors=(404, 409, 503)),
)
async def resume(run_id: FromPath[str], services: Given) -> BenchmarkRun:
    """Resume an interrupted run. Only the unanswered questions are asked."""
    return await services.benchmark.resume(await services.ids.benchmark(run_id))


@delete(
    "/api/benchmark/{run_id:str}", status_code=200, **describe_route("endBenchmark", "Benchmarks", errors=(404, 409))
)
async def end(run_id: FromPath[str], services: Given) -> BenchmarkRun:
    """Cancel a run that is in progress, or delete a run that has ended."""
    identity = await services.ids.benchmark(run_id)
    run = await services.benchmark.get(identity)
    if run.status in ("pending", "running"):
        return await services.benchmark.cancel(identity)
    await services.benchmark.delete(identity)
    return run


def _utc(moment: datetime | None, field: str) -> datetime | None:
    return moment and to_utc(moment, field)


async def _adapter(services: Given, text: str | None) -> UUID | None:
    """Return the adapter that a query names. An id that fits none is an invalid parameter, not a missing adapter."""
    if text is None:
        return None
    try:
        return await services.ids.adapter(text)
    except NotFoundError as error:
        raise InvalidInputError(f"adapterId: {error.detail}", field="adapterId") from None


ROUTES = (
    start,
    listing,
    summary,
    compare,
    export,
    questions,
    add_question,
    replace_question,
    dry_run,
    remove_question,
    judge,
    gate,
    show,
    results,
    progress,
    report,
    resume,
    end,
)
