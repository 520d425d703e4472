"""Routes for training runs: start, watch, show, cancel and configure them."""

from __future__ import annotations

from typing import Annotated, Any
from uuid import UUID

import msgspec
from litestar import delete, get, post, put
from litestar.params import FromPath, FromQuery, QueryParameter
from litestar.response import Stream

from tmde_core.api.routes.traces import TraceView, viewed
from tmde_core.api.web.requests import AnyRequest, Given, Limit, Listing, Offset, decode_body
from tmde_core.api.web.schema import describe_route
from tmde_core.api.web.streams import OpenStreams
from tmde_core.finetune.ranges import decode_config
from tmde_core.finetune.service import BackendReport
from tmde_core.records.base import Record
from tmde_core.records.finetune import FineTuneConfig, FineTuneRun, TrainingProgress, TrainingRunStatus, TrainingTrigger

Lines = Annotated[int, QueryParameter(ge=1, le=1000, description="How many lines, 1–1000.")]


class FineTuneBody(Record):
    """The options of this run that differ from the configuration."""

    config: dict[str, Any] = msgspec.field(default_factory=dict)
    """Fields of FineTuneConfig. Omitted fields keep the configured values."""
    triggered_by: TrainingTrigger = "api"
    name: str | None = None
    """The run's name, 1–80 characters. Omit the field to get a name from the date and the questions."""


class NameBody(Record):
    """A new name."""

    name: str
    """1–80 characters, on one line."""


class RunStarted(Record):
    """The id and status of the started run, and the URL of its progress stream."""

    run_id: UUID
    status: TrainingRunStatus
    progress_url: str
    notice: str | msgspec.UnsetType = msgspec.UNSET
    """What the run means for the models while it uses the graphics card, in sentences; absent if nothing."""


class RunList(Listing, frozen=True):
    """A page of training runs, newest first."""

    items: tuple[FineTuneRun, ...] = ()


class MetricList(Listing, frozen=True):
    """Every logged step, oldest first."""

    items: tuple[TrainingProgress, ...] = ()


class RunTraceList(Listing, frozen=True):
    """The traces of a run, oldest first."""

    items: tuple[TraceView, ...] = ()


class LogTail(Record):
    """The last lines of the output of a run's processes, oldest line first."""

    lines: tuple[str, ...]


class BackendList(Listing, frozen=True):
    """A list of training backends."""

    items: tuple[BackendReport, ...] = ()


@post(
    "/api/finetune",
    status_code=202,
    **describe_route("startFineTune", "Fine-tuning", body=FineTuneBody, errors=(400, 409, 422, 503, 507)),
)
async def start(request: AnyRequest, services: Given) -> RunStarted:
    """Freeze a dataset of the eligible traces and start a training run on it."""
    wanted = await decode_body(request, FineTuneBody, optional=True)
    config = decode_config(wanted.config, services.finetune.config())
    run = await services.finetune.start(config, wanted.triggered_by, wanted.name)
    return _started(run)


@get("/api/finetune", **describe_route("listFineTunes", "Fine-tuning", errors=(400,)))
async def listing(
    services: Given, limit: Limit = 50, offset: Offset = 0, status: FromQuery[TrainingRunStatus | None] = None
) -> RunList:
    """List training runs, newest first."""
    items, total = await services.finetune.list(limit, offset, status)
    return RunList(items=tuple(items), total=total)


@get("/api/finetune/config", **describe_route("getFineTuneConfig", "Fine-tuning"))
async def config(services: Given) -> FineTuneConfig:
    """Return the hyperparameters that a run uses by default."""
    return services.finetune.config()


@put(
    "/api/finetune/config",
    **describe_route("putFineTuneConfig", "Fine-tuning", body=FineTuneConfig, errors=(400, 409, 503, 507)),
)
async def configure(request: AnyRequest, services: Given) -> FineTuneConfig:
    """Change the default hyperparameters, also in the settings file. Omitted fields keep their values."""
    values = await decode_body(request, dict[str, Any])
    return await services.finetune.set_config(values)


@get("/api/finetune/backends", sync_to_thread=True, **describe_route("listBackends", "Fine-tuning"))
def backends(services: Given) -> BackendList:
    """List the training backends: whether each is available, why not, and the environment that it runs in."""
    found = services.finetune.backends()
    return BackendList(items=tuple(found), total=len(found))


@get("/api/finetune/{run_id:str}", **describe_route("getFineTune", "Fine-tuning", errors=(404,)))
async def show(run_id: FromPath[str], services: Given) -> FineTuneRun:
    """Return one training run."""
    return await services.finetune.get(await services.ids.run(run_id))


@get(
    "/api/finetune/{run_id:str}/progress",
    **describe_route("watchFineTune", "Fine-tuning", errors=(400, 404), stream=True),
)
async def progress(run_id: FromPath[str], request: AnyRequest, services: Given, streams: OpenStreams) -> Stream:
    """Stream the progress of a training run as server-sent events."""
    run = await services.finetune.get(await services.ids.run(run_id))
    return streams.respond(request, services.finetune.events(run.id))


@post(
    "/api/finetune/{run_id:str}/name",
    status_code=200,
    **describe_route("nameFineTune", "Fine-tuning", body=NameBody, errors=(400, 404)),
)
async def rename(run_id: FromPath[str], request: AnyRequest, services: Given) -> FineTuneRun:
    """Give a training run another name. Its adapter is called so too, unless it was given a name of its own."""
    identity = await services.ids.run(run_id)
    return await services.finetune.rename(identity, (await decode_body(request, NameBody)).name)


@get("/api/finetune/{run_id:str}/metrics", **describe_route("fineTuneMetrics", "Fine-tuning", errors=(404,)))
async def metrics(run_id: FromPath[str], services: Given) -> MetricList:
    """Return every logged step, for charts."""
    steps = await services.finetune.metrics(await services.ids.run(run_id))
    return MetricList(items=tuple(steps), total=len(steps))


@get("/api/finetune/{run_id:str}/traces", **describe_route("fineTuneTraces", "Fine-tuning", errors=(404,)))
async def traces(run_id: FromPath[str], services: Given) -> RunTraceList:
    """List the traces that the run was trained on."""
    found = await services.finetune.list_traces(await services.ids.run(run_id))
    return RunTraceList(items=tuple(map(viewed, found)), total=len(found))


@delete(
    "/api/finetune/{run_id:str}",
    status_code=200,
    **describe_route("cancelFineTune", "Fine-tuning", errors=(404, 409, 502)),
)
async def cancel(run_id: FromPath[str], services: Given) -> FineTuneRun:
    """Cancel a training run that is in progress."""
    return await services.finetune.cancel(await services.ids.run(run_id))


@post(
    "/api/finetune/{run_id:str}/resume",
    status_code=202,
    **describe_route("resumeFineTune", "Fine-tuning", errors=(400, 404, 409, 502, 503, 507)),
)
async def resume(run_id: FromPath[str], services: Given) -> RunStarted:
    """Resume a failed or cancelled training run from its newest complete checkpoint."""
    return _started(await services.finetune.resume(await services.ids.run(run_id)))


@get("/api/finetune/{run_id:str}/log", **describe_route("fineTuneLog", "Fine-tuning", errors=(400, 404)))
async def log(run_id: FromPath[str], services: Given, lines: Lines = 40) -> LogTail:
    """Return the last lines of the output of the run's processes."""
    text = await services.finetune.log_tail(await services.ids.run(run_id), lines)
    return LogTail(lines=tuple(text.splitlines()))


def _started(run: FineTuneRun) -> RunStarted:
    return RunStarted(
        run_id=run.id,
        status="pending",
        progress_url=f"/api/finetune/{run.id}/progress",
        notice=run.notice or msgspec.UNSET,
    )


ROUTES = (rename, start, listing, config, configure, backends, show, progress, metrics, traces, cancel, resume, log)
