"""When things happen by themselves."""

from __future__ import annotations

from typing import Annotated

from litestar import get, put
from litestar.types import ControllerRouterHandler
from msgspec import Meta

from tmde_core.api.web.requests import AnyRequest, Given, body_of
from tmde_core.api.web.schema import described
from tmde_core.records.base import Record
from tmde_core.records.schedule import ScheduleStatus

Short = Annotated[str, Meta(max_length=200)]


class ScheduleBody(Record):
    """What to change; what is left out stays."""

    expression: Short | None = None
    """Five cron fields, or `off`."""
    timezone: Short | None = None
    """IANA name; empty: the machine's. One for all schedules."""


@get("/api/finetune/schedule", **described("getFineTuneSchedule", "Fine-tuning"))
async def finetune(services: Given) -> ScheduleStatus:
    """When training starts by itself, and what was decided the last times."""
    return await services.schedules.status("finetune")


@put(
    "/api/finetune/schedule",
    **described("putFineTuneSchedule", "Fine-tuning", body=ScheduleBody, errors=(400, 409, 507)),
)
async def change_finetune(request: AnyRequest, services: Given) -> ScheduleStatus:
    """Change it, at once and in the settings file."""
    given = await body_of(request, ScheduleBody)
    return await services.schedules.set("finetune", given.expression, given.timezone)


@get("/api/benchmark/schedule", **described("getBenchmarkSchedule", "Benchmarks"))
async def benchmark(services: Given) -> ScheduleStatus:
    """When the active adapter is measured by itself, and what was decided the last times."""
    return await services.schedules.status("benchmark")


@put(
    "/api/benchmark/schedule",
    **described("putBenchmarkSchedule", "Benchmarks", body=ScheduleBody, errors=(400, 409, 507)),
)
async def change_benchmark(request: AnyRequest, services: Given) -> ScheduleStatus:
    """Change it, at once and in the settings file."""
    given = await body_of(request, ScheduleBody)
    return await services.schedules.set("benchmark", given.expression, given.timezone)


ROUTES: tuple[ControllerRouterHandler, ...] = (finetune, change_finetune, benchmark, change_benchmark)
