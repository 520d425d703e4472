"""Routes for the schedules of training and benchmarks."""

from __future__ import annotations

from typing import Annotated

from litestar import get, put
from litestar.types import ControllerRouterHandler
from msgspec import Meta

from tmde_core.api.web.requests import AnyRequest, Given, decode_body
from tmde_core.api.web.schema import describe_route
from tmde_core.records.base import Record
from tmde_core.records.schedule import ScheduleStatus

Short = Annotated[str, Meta(max_length=200)]


class ScheduleBody(Record):
    """The changes to a schedule. Omitted fields keep their values."""

    expression: Short | None = None
    """Five cron fields, or `off`."""
    timezone: Short | None = None
    """An IANA time zone name. An empty string stands for the machine's time zone. All schedules share one time zone."""


@get("/api/finetune/schedule", **describe_route("getFineTuneSchedule", "Fine-tuning"))
async def finetune(services: Given) -> ScheduleStatus:
    """Return the schedule of automatic training, and its latest decisions."""
    return await services.schedules.status("finetune")


@put(
    "/api/finetune/schedule",
    **describe_route("putFineTuneSchedule", "Fine-tuning", body=ScheduleBody, errors=(400, 409, 507)),
)
async def change_finetune(request: AnyRequest, services: Given) -> ScheduleStatus:
    """Change the schedule of automatic training immediately and in the settings file."""
    given = await decode_body(request, ScheduleBody)
    return await services.schedules.set("finetune", given.expression, given.timezone)


@get("/api/benchmark/schedule", **describe_route("getBenchmarkSchedule", "Benchmarks"))
async def benchmark(services: Given) -> ScheduleStatus:
    """Return the schedule that measures the active adapter, and its latest decisions."""
    return await services.schedules.status("benchmark")


@put(
    "/api/benchmark/schedule",
    **describe_route("putBenchmarkSchedule", "Benchmarks", body=ScheduleBody, errors=(400, 409, 507)),
)
async def change_benchmark(request: AnyRequest, services: Given) -> ScheduleStatus:
    """Change the schedule of automatic benchmarks immediately and in the settings file."""
    given = await decode_body(request, ScheduleBody)
    return await services.schedules.set("benchmark", given.expression, given.timezone)


ROUTES: tuple[ControllerRouterHandler, ...] = (finetune, change_finetune, benchmark, change_benchmark)
